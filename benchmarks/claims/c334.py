"""The rmse of the velocity on the ring of eight modes: two networks, each trained for 400 steps on four modes, mixed by
a gate that is trained for 300 steps by cross entropy on noisy states, against their mean, against the exact posterior
as a gate, and against one network that is trained for 800 steps on all modes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.growing.specialists import Gate, Specialists
from benchmarks.claims.toys import LINE, RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "UltraFuser: a mixture of fields"
CLAIM = "One model of gated specialists keeps the skill of each."
SEEDS = 3
HALVES = [dataclasses.replace(RING, means=part, weights=None) for part in (RING.means[:4], RING.means[4:])]


class Posterior(nn.Module):
    """The logarithm of the posterior of the halves."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        parts, at = RING.parts(), t[:, None, None].double()
        variance = (at * parts.variances.sqrt()) ** 2 + (1 - at) ** 2
        away = (x[:, None].double() - at * parts.means).square() / variance + variance.log()
        return torch.logsumexp((-away.sum(-1) / 2).unflatten(1, (2, 4)), -1).to(x.dtype)


def gated(rng: bl.Rng, data: list[bl.Batch]) -> Gate:
    """A gate trained on noisy states of both halves."""
    with rng.ambient():
        gate = Gate([2], 2)
    x1, kind = torch.cat([batch.x1 for batch in data]), torch.arange(2).repeat_interleave(len(data[0].x1))
    adam = torch.optim.Adam(gate.parameters(), 3e-3)
    for step in range(300):
        key = rng.fork(step)
        rows = key.integers(len(x1), 256)
        t = key.fork("t").uniform(256, x1)
        x = LINE.point(key.fork("x0").normal(x1[rows]), x1[rows], t).x
        adam.zero_grad()
        nn.functional.cross_entropy(gate(x, t), kind[rows]).backward()
        adam.step()
    return gate


def measure(rng: bl.Rng) -> list[Finding]:
    plain, data = bl.objectives.FlowMatching(), [points(rng.fork(k), law, 5000) for k, law in enumerate(HALVES)]
    fields = [learn(network(rng), plain, part, rng.fork("net", k), steps=400) for k, part in enumerate(data)]
    one = learn(network(rng), plain, points(rng), rng.fork("net"), steps=800)

    def error(net: Any) -> float:
        return velocity_error(net, RING, rng)

    first, mean, best = error(network(rng)), error(Specialists(fields, Gate([2], 2))), min(map(error, fields))
    mixed = error(Specialists(fields, gated(rng.fork("gate"), data)))
    return [
        finding("gated specialists (figure) against their mean", mean, mixed, mean, "their mean"),
        finding("gated specialists (figure) against the better one", best, mixed, best, "the better one"),
        finding("gated specialists (figure) against one network for all", error(one), mixed, first),
        finding(
            "trained gate (figure) against the exact posterior", error(Specialists(fields, Posterior())), mixed, first
        ),
    ]
