"""Digits of 8 x 8 pixels in 16 tokens, four blocks of width 64 after 100 steps with random parts. Among four widths
of heads and channels, and all sets of blocks, evolution finds the part that is nearest to the whole within a third of
its seconds on this machine (least of 15 evaluations of 64 states). The seconds are measured again afterwards, in turn
with those of the whole. Losses are compared with the widest part of all four blocks that keeps the limit, or the
narrowest where none does. Seconds of twelve parts are predicted by a line in blocks and channels from those of twelve
others. The attention of decoders to encoders, and training after the choice, are not measured; other work on the
machine disturbs."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.compressing.compressor import Call
from beeline.networks.compressing.removal.search import SubnetworkSearch, seconds
from beeline.networks.transformer.plans.elastic import extracted
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import AnyPart
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import loss
from benchmarks.claims.small_transformers import heldout, same, trained, transformer
from benchmarks.claims.storing import pictures
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "HAT: parts by evolution under a limit of measured seconds"
CLAIM = "A part of one network is three times as fast at equal quality."
LIMIT, WIDTHS = 1 / 3, (0.25, 0.5, 0.75, 1.0)


def timed(net: Any, whole: Any, call: Call) -> float:
    """The seconds of a network over those of the whole, measured in turn."""
    pairs = [(seconds(net, call), seconds(whole, call)) for _ in range(3)]
    return min(a for a, _ in pairs) / min(b for _, b in pairs)


def predicted(net: Any, call: Call, rng: bl.Rng) -> tuple[float, float]:
    """The relative error of predicted seconds of parts, and that of their mean."""
    rows, times = [], []
    for k in range(24):
        depth, width = 1 + k % 4, WIDTHS[int(rng.fork(k).integers(4, 1)[0])]
        rows.append([1.0, float(depth), depth * width])
        times.append(seconds(extracted(net, width, range(depth)), call))
    a, y = torch.tensor(rows), torch.tensor(times)
    known = torch.linalg.lstsq(a[::2], y[::2, None]).solution[:, 0]
    found = (a[1::2] @ known, y[::2].mean())
    return tuple(float(((guess - y[1::2]).abs() / y[1::2]).mean()) for guess in found)  # type: ignore[return-value]


@torch.no_grad()
def measure(rng: bl.Rng) -> list[Finding]:
    with torch.enable_grad():
        net = transformer(same(rng), width=64, heads=4)
        net = trained(net, same(rng), Elastic(draws=AnyPart(0.25, 0.25)), 100)
    probe = pictures(net, rng.fork("states"))
    call = probe.calls[0]
    method = SubnetworkSearch(LIMIT, widths=WIDTHS, population=8, generations=4)
    made = method.apply(net, method.plan(net, probe), probe, rng)
    again, uniform = timed(made, net, call), {w: timed(extracted(net, w), net, call) for w in WIDTHS}
    width = max((w for w in WIDTHS if uniform[w] <= LIMIT), default=min(WIDTHS))
    own, start = heldout(made, bl.Rng(0)), heldout(transformer(same(rng), width=64, heads=4), bl.Rng(0))
    error, spread = predicted(net, call, rng)
    return [
        finding("share of the seconds, measured again (figure) against a third, at most 10% more", 1.1 * LIMIT, again,
                1.0, "the whole"),
        finding("loss of the part (figure) against a part of uniform width", loss(net, Subset(width)), own, start),
        finding("loss of the part (figure) against the whole, at most 5% worse", 1.05 * loss(net), own, start),
        finding("relative error of predicted seconds (figure) against a tenth", 0.1, error, spread, "their mean"),
    ]  # fmt: skip
