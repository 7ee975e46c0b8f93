"""Pictures of 8 x 8 pixels whose edits are known: stripes of random brightness on which an object of 2 x 2 pixels is
missing (label 0), bright (1) or dark (2), with Gaussian noise. The counterfactual of a picture has the same stripes and
noise and the other object. A transformer of 16 tokens with four blocks is trained once for a seed; it knows no text, so
that edits by attention act on attention among the tokens of the picture."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.core.types import Batch
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.solvers.runge_kutta import MidpointReuse
from benchmarks.claims.scenes import backgrounds
from benchmarks.claims.toys import learn

STD, TESTED, NONE = 0.1, 32, 3
OBJECTS = torch.tensor([0.0, 1.5, -1.5])
AT = (slice(None), slice(None), slice(3, 5), slice(3, 5))
PLAIN = InvertAndSample()
SAMPLER = bl.Sampler(12, solver=MidpointReuse(), guidance=bl.guidance.CFG(2.0, null={"label": NONE}))
CONTROL = "nothing changed"


def pictures(rng: bl.Rng, n: int, label: Tensor) -> Tensor:
    """[n,1,8,8] pictures with the objects of the labels [n]."""
    kind = rng.fork("stripes").integers(4, n)
    bright = 0.5 + rng.fork("bright").uniform(n, torch.empty(0)).view(n, 1, 1, 1)
    x = bright * backgrounds()[kind][:, None] + STD * rng.fork("noise").normal(torch.empty(n, 1, 8, 8))
    x[AT] += OBJECTS[label][:, None, None, None]
    return x


@functools.cache
def trained(seed: int) -> bl.Flow:
    """The flow of a seed."""
    rng = bl.Rng(seed).fork("attended")
    label = rng.fork("label").integers(3, 6000)
    return learnt(rng, pictures(rng, 6000, label), label, patch=2)


def learnt(rng: bl.Rng, x: Tensor, label: Tensor, patch: int) -> bl.Flow:
    """A transformer with four blocks, trained on data [N,C,H,W] with labels."""
    how = {"patch": patch, "width": 32, "depth": 4, "heads": 4, "conditions": {"label": {"classes": 3}}}
    with rng.fork("network").ambient():
        net = bl.Network(bl.networks.DiT(tuple(x.shape[1:]), **how))
    learn(net, FlowMatching(drop=Drop(0.15)), Batch(x, cond={"label": label}), rng, 500, 48)
    return bl.Flow(net, null={"label": NONE})


class Task:
    """Pictures, the labels from and to which they are edited, and what they become."""

    def __init__(self, rng: bl.Rng, old: int = 1, new: int = 2):
        self.rng, self.flow = rng.fork("edit"), trained(rng.seed)
        labels = [torch.full((TESTED,), k) for k in (old, new)]
        self.x, self.wanted = (pictures(rng.fork("test"), TESTED, label) for label in labels)
        self.old, self.new = ({"label": label} for label in labels)

    def made(self, edit: Any) -> Tensor:
        with torch.no_grad():
            return edit(self.flow, self.x, self.old, self.new, SAMPLER, self.rng)

    def error(self, made: Tensor) -> float:
        """The root mean square distance to the counterfactual picture."""
        return float((made - self.wanted).square().mean().sqrt())

    def outside(self, made: Tensor) -> float:
        """The root mean square change outside of the object."""
        gap = (made - self.x).square()
        gap[AT] = 0
        return float((gap.sum() / (gap.numel() * 60 / 64)).sqrt())

    def inside(self, made: Tensor) -> float:
        """The root mean square distance of the object to that of the new label."""
        return float((made - self.wanted)[AT].square().mean().sqrt())
