"""The ring with overlapping classes and a trained teacher: guidance with a negative prompt (class zero) at scale two.
A side network beside the frozen one learns the guided velocity, and is moved to a finetuned copy without training;
error of samples in four steps without guidance against the same steps with it. The paper's hyper-network acts by cross
attention and is trained for consistency over several steps too, which is not measured."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.guided.students import IntoSide
from beeline.networks.guided.adapters import SideNetwork
from beeline.sampling.guidance.guide import Extrapolate, Guide
from beeline.sampling.guidance.references.conditions import OtherCondition
from benchmarks.claims.c142 import SCALE
from benchmarks.claims.games import shared
from benchmarks.claims.guided import CONTROL, distilled, drawn, finetuned, teacher
from benchmarks.claims.toys import finding, noise, rmse
from benchmarks.claims.verdict import Finding

METHOD = "SpeedUpNet: a plug-in for guidance with negative prompts"
CLAIM = "An accelerator that is trained once beside a base works beside finetuned copies, with negative prompts."
SEEDS = 3
NEGATIVE = OtherCondition({"label": 0})


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, x0 = teacher(rng), noise(rng)
    made = distilled(IntoSide(16), flow, rng, reference=NEGATIVE)
    assert isinstance(made, SideNetwork)
    other = finetuned(flow, rng)
    cond = {"label": torch.arange(len(x0)) % 8}
    how = bl.Sampler(4, solver=bl.solvers.EULER, guidance=Guide(NEGATIVE, Extrapolate(SCALE)))
    rows = []
    for base, net in ((flow, made), (other, SideNetwork(other.field, made.side))):
        wanted = how(base, x0, cond)
        rows.append((rmse(drawn(base.field, base, x0, 4), wanted), rmse(drawn(net, base, x0, 4), wanted)))
    (plain, side), (plain_copy, side_copy) = rows
    return [
        finding("4 steps, rmse to the guided: plug-in (figure) against no guidance", plain, side, plain, CONTROL),
        finding("the same beside a finetuned copy", plain_copy, side_copy, plain_copy, CONTROL),
    ]
