"""Guidance at scale 2, 16 Euler steps. Digits of 8 x 8 pixels: a small transformer after 700 training steps; agreement
is the share of samples that a classifier gives their label, distance the Frechet distance in its features. The model
for random conditions was trained without condition dropout, that for plain guidance with it. The ring: fidelity is the
mean posterior probability of the condition; its classes lie apart, so that another class is far from no class.
Perturbed times: the model of digits without labels, and a model of the ring without labels after 250 steps, where
outliers are the fraction of samples further than three standard deviations from every mode. The time is changed for the
whole network, without noise."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.sampling.guidance.guide import Extrapolate, Guide
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.references.random_condition import RandomCondition
from benchmarks.claims import written
from benchmarks.claims.c142 import guided as plainly
from benchmarks.claims.c142 import trained
from benchmarks.claims.c192 import far
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import finding, learn, network, noise, sample
from benchmarks.claims.verdict import Finding

METHOD = "Independent condition and time-step guidance"
CLAIM = "Guidance by a random condition matches that by a trained null, and by a perturbed time improves any model."
SCALE, STEPS = 2.0, 16


def measure(rng: bl.Rng) -> list[Finding]:
    free = Guide(RandomCondition(rng.fork("class")), Extrapolate(SCALE))
    times = Guide(PerturbedTime(0.2), Extrapolate(SCALE))
    return [*digits(rng, free, times), *ring(rng, free, times)]


def digits(rng: bl.Rng, free: Guide, times: Guide) -> list[Finding]:
    dropped, bare, first = written.trained(rng, 0.1), written.trained(rng, 0.0), written.transformer(rng).eval()
    x0, label = written.start(rng)
    cond, null = {"label": label}, {"label": torch.full_like(label, written.CLASSES)}

    def made(net: Any, cond: Any, guidance: Any) -> torch.Tensor:
        return sample(net, x0, STEPS, cond, guidance=guidance)

    plain, alone = made(dropped, cond, bl.CFG(SCALE, written.CLASSES)), made(bare, cond, bl.guidance.Plain())
    mine, raw = made(bare, cond, free), made(first, cond, free)
    agree = [written.agreement(x, label) for x in (alone, plain, mine, raw)]
    apart = [written.distance(x) for x in (plain, mine, raw)]
    unguided, perturbed, untrained = (
        written.distance(made(net, null, guidance))
        for net, guidance in ((dropped, bl.guidance.Plain()), (dropped, times), (first, times))
    )
    return [
        finding("digits, agreement: random condition (figure) against no guidance", agree[0], *agree[2:],
                better="higher"),
        finding("digits, agreement: random condition (figure) against a trained null, 2% worse", 0.98 * agree[1],
                *agree[2:], better="higher"),
        finding("digits, distance: random condition (figure) against a trained null", *apart),
        finding("digits without labels, distance: perturbed time (figure) against no guidance", unguided, perturbed,
                untrained),
    ]  # fmt: skip


def ring(rng: bl.Rng, free: Guide, times: Guide) -> list[Finding]:
    data, plain = trained(rng)
    x0 = noise(rng)
    label = torch.arange(len(x0)) % 8
    first = network(rng, conditions={"label": {"classes": 8}})
    by_null = plainly(plain, x0, {"label": label}, STEPS, SCALE)
    mine, raw = (sample(net, x0, STEPS, {"label": label}, guidance=free) for net in (plain, first))
    young = learn(network(rng), bl.objectives.FlowMatching(), bl.Batch(data.x1), rng.fork("young"), steps=250)
    outliers = [
        far(sample(net, x0, STEPS, guidance=guidance))
        for net, guidance in ((young, bl.guidance.Plain()), (young, times), (network(rng), times))
    ]
    return [
        finding("ring, fidelity: random condition (figure) against a trained null, 2% worse",
                0.98 * faithful(by_null, label), faithful(mine, label), faithful(raw, label), better="higher"),
        finding("ring without labels, outliers: perturbed time (figure) against no guidance", *outliers),
    ]  # fmt: skip
