"""Shared by the claims about flow maps: students of the exact field of the ring, and maps trained from data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

import beeline as bl
from beeline.fields.flow import Flow, MapNetwork
from beeline.networks.mlp import MLP
from beeline.solvers.runge_kutta import FlowMapStep
from benchmarks.claims.toys import RING, exact_end, learn, network, noise, points, rmse

TEACHER = Flow(RING.field())
EULER = "one Euler step of the exact field"
STEPS, LONG = 400, 800  # of a training of a student, and of one from data


def fresh(rng: bl.Rng) -> MapNetwork:
    """A small flow map with fixed initial weights."""
    with rng.fork("map").ambient():
        return MapNetwork(MLP(2, width=64, depth=3, span=True))


class Students:
    """Students of the exact field, from one warm start and on the same data, and their errors on the same noises."""

    def __init__(self, rng: bl.Rng, steps: int = STEPS):
        self.rng, self.steps = rng, steps
        self.data, self.test = points(rng), noise(rng)
        self.start = learn(network(rng), bl.objectives.FlowMatching(), self.data, rng.fork("start"), steps=STEPS)
        self.wanted = exact_end(RING, self.test)

    def made(self, method: Any, counts: Sequence[int] = (1,)) -> dict[int, Tensor]:
        """Samples of the student of a distillation by numbers of evaluations."""
        with self.rng.fork("new").ambient():
            nets = method.networks(Flow(copy.deepcopy(self.start)))
        batch = method.data(TEACHER, self.data, self.rng.fork("pairs"))
        learn(nets["student"], method.objective(TEACHER), batch, self.rng, self.steps, batch_size=128, peak=2e-3)
        flow, sampler = method.student(TEACHER, nets)
        return {n: bl.Sampler(n, solver=sampler.solver)(flow, self.test).detach() for n in counts}

    def errors(self, method: Any, counts: Sequence[int] = (1,)) -> dict[int, float]:
        """Errors of the student to the exact ends."""
        return {n: rmse(x, self.wanted) for n, x in self.made(method, counts).items()}

    def euler(self, n: int = 1) -> Tensor:
        """The control: Euler steps of the exact field."""
        return bl.Sampler(n, solver=bl.solvers.EULER)(TEACHER, self.test)


def jumped(net: Any, x0: Tensor, n: int = 1) -> Tensor:
    """Samples of a flow map in ``n`` steps."""
    return bl.Sampler(n, solver=FlowMapStep())(Flow(net), x0).detach()
