"""The ring with overlapping classes and a trained teacher at guidance scale two. A side network of a quarter of the
width, with 27% of the weights (1% in the paper), beside the frozen one, trained on it; error of the velocity at
states of guided sampling, on the teacher and on a finetuned copy of it (classes turned by half a class) against
that copy's own guided velocity."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.guided.students import IntoSide
from beeline.networks.guided.adapters import SideNetwork
from benchmarks.claims.games import shared
from benchmarks.claims.guided import CONTROL, distilled, drawn, finetuned, states, teacher, velocity_error
from benchmarks.claims.toys import finding, noise, rmse
from benchmarks.claims.verdict import Finding

METHOD = "Plug-and-play diffusion distillation: a guide network"
CLAIM = "A small external network replaces the second pass of guidance, also beside finetuned copies of the base."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, x0 = teacher(rng), noise(rng)
    made = distilled(IntoSide(16), flow, rng)
    assert isinstance(made, SideNetwork)
    other = finetuned(flow, rng)
    moved = SideNetwork(other.field, made.side)
    found = []
    for base, net in ((flow, made), (other, moved)):
        at = states(base, rng.fork("held"))
        found.append((velocity_error(base.field, base, at), velocity_error(net, base, at)))
    (plain, side), (plain_copy, side_copy) = found
    end = bl.Sampler(8, solver=bl.solvers.EULER, guidance=bl.CFG(2.0))(flow, x0, {"label": _label(len(x0))})
    far = rmse(drawn(flow.field, flow, x0, 8), end)
    return [
        finding("velocity at guided states: side network (figure) against no guidance", plain, side, plain, CONTROL),
        finding("the same beside a finetuned copy, half of the error", plain_copy / 2, side_copy, plain_copy, CONTROL),
        finding("samples in 8 steps against the guided teacher's: side network (figure), half of the error", far / 2,
                rmse(drawn(made, flow, x0, 8), end), far, CONTROL),
    ]  # fmt: skip


def _label(n: int) -> object:
    return torch.arange(n) % 8
