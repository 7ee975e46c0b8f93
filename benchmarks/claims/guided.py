"""Shared by the claims about distilled guidance: a conditional teacher, its guided velocity, and students.

Teachers are those of the seed, not of the claim, so that claims that are measured together share them.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.distillation.guided.distilled import GuidanceDistillation
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.c142 import DROP, LABEL, NULL, SCALE, guided
from benchmarks.claims.toys import CLASSES, learn, network, noise, points

STEPS = 300  # of a student, with a batch of 128
CONTROL = "the teacher without guidance"


@functools.cache
def teacher(rng: bl.Rng) -> bl.Flow:
    """A conditional flow on the ring with overlapping classes, whose labels were dropped at times."""
    data, net = points(rng, CLASSES), network(rng, conditions=LABEL)
    made = learn(net, bl.objectives.FlowMatching(drop=DROP), data, rng.fork("teacher"), steps=700)
    return bl.Flow(made, null={"label": NULL})


def train(how: Any, flow: bl.Flow, rng: bl.Rng, steps: int = STEPS, peak: float = 3e-3) -> nn.Module:
    """The network of the student of a distillation."""
    training = Training(steps=steps, batch_size=128, lr=WarmupCosine(peak, 30), ema=None)
    data = how.data(flow, points(rng, CLASSES), rng.fork("data"))
    with rng.fork("new").ambient():  # initial weights of what the student has beside the teacher
        new = how.networks(flow)
    nets = fit(new, how.objective(flow), data, training, rng=rng.fork("student"), log=lambda entry: None)
    net: nn.Module = how.student(flow, nets)[0].field
    return net


def distilled(into: Any, flow: bl.Flow, rng: bl.Rng, **more: Any) -> nn.Module:
    """The network of a student of the guided velocity of one scale."""
    return train(GuidanceDistillation(into, (SCALE, SCALE), **more), flow, rng)


def states(flow: bl.Flow, rng: bl.Rng, steps: int = 8) -> tuple[Tensor, Tensor, Any]:
    """States of guided sampling by the flow, with their times and labels."""
    x0 = noise(rng)
    cond = {"label": torch.arange(len(x0)) % 8}
    seen: list[tuple[Tensor, Tensor]] = []
    how = bl.Sampler(steps, solver=bl.solvers.EULER, guidance=bl.CFG(SCALE))
    how(flow, x0, cond, watch=lambda x, t: seen.append((x, t.expand(len(x)) if t.ndim == 0 else t)))
    x, t = (torch.cat([part[k] for part in seen[:-1]]) for k in (0, 1))
    return x, t, {"label": cond["label"].repeat(steps)}


def velocity_error(net: Any, flow: bl.Flow, at: tuple[Tensor, Tensor, Any]) -> float:
    """Root mean square error of a network against the guided velocity of a flow."""
    x, t, cond = at
    with torch.no_grad():
        wanted = bl.CFG(SCALE, {"label": NULL})(flow.field, cond)(x, t)
        return float((net(x, t, told(net, flow, cond)) - wanted).square().sum(1).mean().sqrt())


def told(net: Any, flow: bl.Flow, cond: Any) -> Any:
    """The conditions of a student: with the scale, but for the flow itself and for networks of its structure."""
    scaled = set(net.state_dict()) != set(flow.field.state_dict())
    return cond | {"beta": torch.full((len(cond["label"]), 1), 1 / SCALE)} if scaled else cond


def drawn(net: Any, flow: bl.Flow, x0: Tensor, steps: int) -> Tensor:
    """Samples in so many Euler steps of the student, one evaluation each."""
    cond = {"label": torch.arange(len(x0)) % 8}
    with torch.no_grad():
        return bl.Sampler(steps, solver=bl.solvers.EULER)(bl.Flow(net), x0, told(net, flow, cond))


def by_teacher(flow: bl.Flow, x0: Tensor, steps: int) -> Tensor:
    """Samples in so many Euler steps of the guided teacher, two evaluations each."""
    return guided(flow.field, x0, {"label": torch.arange(len(x0)) % 8}, steps)


def finetuned(flow: bl.Flow, rng: bl.Rng) -> bl.Flow:
    """The flow after some training on the same classes turned by half a class, as a finetuned copy of its network."""
    data = points(rng, CLASSES)
    turn = torch.tensor([[0.924, -0.383], [0.383, 0.924]])
    moved = bl.Batch(data.x1 @ turn.T, cond=data.cond)
    net = learn(copy.deepcopy(flow.field), bl.objectives.FlowMatching(drop=DROP), moved, rng.fork("tuned"), steps=200)
    return bl.Flow(net, null={"label": NULL})
