"""W2 distances to a subject of 20 points and to the other classes after training on the subject: alone, with the
answers of the base kept on the noisy subject, with samples of the base; and the share of a class that is taken
away."""

from __future__ import annotations

from dataclasses import replace

import torch

import beeline as bl
from beeline.distillation.adapting import Adaptation, Unlearning
from benchmarks.claims.subjects import LAW, base, drawn, to_others, to_subject, tuned, untrained
from benchmarks.claims.toys import learn, points
from benchmarks.claims.verdict import Finding

METHOD = "learning without forgetting: the answers of the base on new inputs"
CLAIM = "Old capability near that of joint training, without old data."


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    alone, kept, prior = (tuned(m, seed) for m in (Adaptation(), Adaptation(keep=1.0), Adaptation(prior=1.0)))
    none, before = untrained(seed), base(seed)
    flow, labels = before, torch.arange(512) % 8
    method = Unlearning(classes=(2,), towards=0)
    with rng.fork("unlearning").ambient():
        net = method.networks(flow)["student"]
    data = points(rng.fork("old"), LAW)
    taken = replace(flow, field=learn(net, method.objective(flow), data, rng.fork("unlearned"), steps=200, peak=5e-3))
    negative = replace(flow, field=negated(rng))
    share = lambda f: float((drawn(f.field, labels, rng.fork("share"))[labels == 2] == 2).float().mean())  # noqa: E731
    right = lambda f: float((drawn(f.field, labels, rng.fork("right")) == labels)[labels != 2].float().mean())  # noqa: E731
    return [
        Finding(
            "W2 to the other classes (forgetting): answers kept against the subject alone",
            to_others(alone, seed),
            to_others(kept, seed),
            to_others(none, seed),
            "untrained network",
        ),
        Finding(
            "W2 to the subject: answers kept against the subject alone, 25% worse",
            1.25 * to_subject(alone, seed),
            to_subject(kept, seed),
            to_subject(before, seed),
            "not adapted",
        ),
        Finding(
            "W2 to the other classes: samples of the base against answers kept",
            to_others(kept, seed),
            to_others(prior, seed),
            to_others(alone, seed),
            "the subject alone",
        ),
        Finding(
            "share of a class that is taken away by Unlearning, against 10%",
            0.1,
            share(taken),
            share(before),
            "the base",
        ),
        Finding(
            "share of right classes of the others after it, against 90%",
            0.9,
            right(taken),
            right(none),
            "untrained network",
            "higher",
        ),
        Finding(
            "share of the class with the negative of a delta trained on it, against 10%",
            0.1,
            share(negative),
            share(before),
            "the base",
        ),
        Finding(
            "share of right classes of the others with it, against 90%",
            0.9,
            right(negative),
            right(none),
            "untrained network",
            "higher",
        ),
    ]


def negated(rng: bl.Rng) -> torch.nn.Module:
    """The base minus a delta that is trained on the class alone."""
    flow, every = base(rng.seed), points(rng.fork("old"), LAW)
    assert isinstance(every.cond, dict)
    rows = every.cond["label"] == 2
    data = bl.Batch(every.x1[rows], cond={"label": every.cond["label"][rows]})
    with rng.fork("negative").ambient():
        net = Adaptation().networks(flow)["student"]
    made = learn(net, Adaptation().objective(flow), data, rng.fork("task"), steps=200, peak=5e-3)
    made.backbone = made.backbone.at(-1.0)
    return made
