"""Error of the average of two networks of different widths that learned one field: the hidden units of the wider one
transported to those of the other, against its first units alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.alignment import aligned
from beeline.networks.adapters.merges import Average, merged_networks
from benchmarks.claims.c531 import UNITS, WIDTH, learned, shuffled
from benchmarks.claims.toys import RING, points
from benchmarks.claims.verdict import Finding

METHOD = "Model fusion by optimal transport"
CLAIM = "One-shot fusion beats plain averaging, also between different widths."
WIDER = 96


def cut(net: nn.Module, reference: nn.Module) -> nn.Module:
    """The first hidden units of a wider network, as a network of the size of the reference."""
    made = copy.deepcopy(reference)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(net.get_parameter(name)[tuple(slice(n) for n in p.shape)])
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    batch = points(rng)
    t = rng.fork("t").uniform(len(batch.x1), batch.x1) * 0.95
    state = bl.paths.Linear().point(rng.fork("x0").normal(batch.x1), batch.x1, t)
    with torch.no_grad():
        x, y = torch.cat([state.x, t[:, None]], 1), RING.field()(state.x, t)
    first = learned(rng.fork("net", WIDTH), x[:8000], y[:8000])
    wide = learned(rng.fork("net", WIDER), x[:8000], y[:8000], WIDER)

    @torch.no_grad()
    def error(other: nn.Module) -> float:
        made = merged_networks(first, [first, other], Average())
        return rms(made(x[8000:]) - y[8000:])

    with torch.no_grad():
        moved = aligned(wide, first, UNITS)
    plain = cut(wide, first)
    return [
        Finding("error of the average of widths 64 and 96: transported (figure) against the first units", error(plain),
                error(moved), error(shuffled(plain, rng)), "shuffled units"),
    ]  # fmt: skip


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())
