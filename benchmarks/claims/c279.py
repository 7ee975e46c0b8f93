"""The ring, a trained teacher, one-step students after 500 steps of training; W2 distance to the distribution. The
critic compares the student's samples from noisy states with its own from cleaner ones; the baseline compares them with
the data, with the same critic. The pairing is the rmse to the teacher's end of the same noise."""

from __future__ import annotations

from dataclasses import replace

import beeline as bl
from beeline.distillation.games.adversarial import SelfCooperative
from beeline.objectives.games.adversarial import GivenData
from benchmarks.claims.games import drawn, student, teacher
from benchmarks.claims.toys import RING, even, finding, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "YOSO: self-cooperative diffusion GAN"
CLAIM = "The student's own cleaner predictions as the real samples make a stable one-step student."
SEEDS = 3


class Plain(SelfCooperative):
    """The same with data as the real samples."""

    def game(self, teacher: bl.Flow) -> object:  # type: ignore[override]
        made = super().game(teacher)
        return replace(made, adversarial=replace(made.adversarial, real=GivenData()))


def measure(rng: bl.Rng) -> list[Finding]:
    flow, x0, (real, _) = teacher(rng), noise(rng), even(RING, rng)
    raw, once = (w2(sample(f, x0, 1), real) for f in (network(rng), flow.field))
    own, data = (drawn(student(how, flow, rng, 500), x0) for how in (SelfCooperative(), Plain()))
    end = sample(flow.field, x0, 32)
    far = rmse(sample(network(rng), x0, 1), end)
    return [
        finding("W2: self-cooperative student (figure) against the teacher in one step", once, w2(own, real), raw),
        finding("W2: own cleaner samples (figure) against data as real ones", w2(data, real), w2(own, real), raw),
        finding("pairing: own cleaner samples (figure) against data", rmse(data, end), rmse(own, end), far),
    ]
