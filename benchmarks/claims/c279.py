"""The ring, a trained teacher, one-step students after 300 steps of training; W2 distance to the distribution. The
critic compares the student's samples from noisy states with its own from cleaner ones; the baseline compares them with
the data, with the same critic. The pairing is the rmse to the teacher's end of the same noise."""

from __future__ import annotations

import beeline as bl
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.games import OWN, STEPS, ZERO, drawn, given, made_by, shared, teacher, test_set
from benchmarks.claims.toys import finding, points, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "YOSO: self-cooperative diffusion GAN"
CLAIM = "The student's own cleaner predictions as the real samples make a stable one-step student."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    training = Training(steps=STEPS, batch_size=128, lr=WarmupCosine(1e-3, 30), ema=None)
    nets = fit(OWN.networks(flow), given(OWN, flow), points(rng), training, rng=rng.fork("student"),
               log=lambda entry: None)  # fmt: skip
    own, data = made_by(OWN, rng), drawn(OWN.student(flow, nets), x0)
    raw, once = w2(0 * x0, real), w2(sample(flow.field, x0, 1), real)
    end = sample(flow.field, x0, 32)
    return [
        finding(
            "W2: self-cooperative student (figure) against the teacher in one step", once, w2(own, real), raw, ZERO
        ),
        finding("W2: own cleaner samples (figure) against data as real ones", w2(data, real), w2(own, real), raw, ZERO),
        finding(
            "pairing: own cleaner samples (figure) against data",
            rmse(data, end),
            rmse(own, end),
            rmse(0 * end, end),
            ZERO,
        ),
    ]
