"""Compression of a bundle: one network after another, each measured beside the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.evaluation.evaluate import conditions
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.inside import backbone_of, with_backbone
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call, Compressor, Plan, Probe
from beeline.runs.bundle import Bundle
from beeline.runs.scoring import FEW, PLAIN, RealData, score

STATES = 64  # samples whose evaluations a probe records
TIMED = 5  # evaluations of which the median is taken


@dataclass(frozen=True)
class Link:
    """A bundle of a chain of compressions, with its cost and its quality."""

    method: str
    bytes: int  # of the weights
    seconds: float  # of one evaluation of a batch of STATES data
    drift: float  # root mean square of the change of samples from the same noise, in encoded units
    distance: float | None  # of samples to held-out data, sliced Wasserstein; None without data


@dataclass(frozen=True)
class Chain:
    """A compressed bundle, and its links from the first bundle on."""

    bundle: Bundle
    links: tuple[Link, ...]


def probe_of(bundle: Bundle, rng: Rng, cond: Cond = None) -> Probe:
    """The inputs of the network of a bundle while it samples STATES data."""
    calls: list[Call] = []
    backbone = backbone_of(bundle.flow.field)
    handle = backbone.register_forward_pre_hook(
        lambda _, args, more: calls.append(Call(args[0], args[1], args[2] if len(args) > 2 else more.get("cond"))),
        with_kwargs=True,
    )
    try:
        bundle.draw(_noise(bundle, rng), cond, batch_size=STATES)
    finally:
        handle.remove()
    return Probe(tuple(calls))


def compress(
    bundle: Bundle,
    methods: Sequence[Compressor],
    *,
    names: Sequence[str] = (),
    real: RealData | None = None,
    samples: int = 500,
    rng: Rng | None = None,
    say: Callable[[str, Plan], None] = lambda name, plan: None,
) -> Chain:
    """Apply compressors one after another, and measure every bundle beside the first.

    ``names`` are those of the methods in the links.  ``say`` is called with every plan before it is carried out.
    Adapters of the bundle are merged first.  Raises ValueError for a method that does not fit the network.
    """
    require(bool(methods), "no method was given to compress by; name one of 'beeline list compressors', such as int8")
    rng = rng or Rng(0)
    merged = with_backbone(bundle.flow.field, lambda net: net.merged() if isinstance(net, Adapted) else net)
    first = now = replace(bundle, flow=replace(bundle.flow, field=merged.eval()))
    cond = _conditions(bundle, real, rng)
    links = [_link("", first, first, real, samples, rng, cond)]
    for name, method in zip(names or [repr(m) for m in methods], methods, strict=True):
        probe = probe_of(now, rng.fork("probe"), cond)
        plan = method.plan(backbone_of(now.flow.field), probe)
        say(name, plan)
        smaller = with_backbone(now.flow.field, partial(_applied, method, plan, probe, rng.fork("apply", len(links))))
        now = replace(now, flow=replace(now.flow, field=smaller.eval().requires_grad_(False)))
        links.append(_link(name, now, first, real, samples, rng, cond))
    lineage = {
        **bundle.lineage,
        "made_by": "compress",
        "parent_weights": bundle.weights,
        "methods": [config.describe(method) for method in methods],
        "links": [asdict(link) for link in links],
    }
    return Chain(replace(now, lineage=lineage), tuple(links))


def _applied(method: Compressor, plan: Plan, probe: Probe, rng: Rng, network: nn.Module) -> nn.Module:
    return method.apply(network, plan, probe, rng)


def _noise(bundle: Bundle, rng: Rng) -> Tensor:
    assert bundle.modality is not None
    like = torch.empty(STATES, *bundle.modality.shape, device=bundle.device)
    return bundle.flow.source.sample(like, rng.fork("noise"))


def _conditions(bundle: Bundle, real: RealData | None, rng: Rng) -> Cond:
    if real is None:
        return None
    return conditions(bundle.flow, real.encoded(bundle.modality)[1], STATES, rng.fork("conditions"))


def _link(name: str, bundle: Bundle, first: Bundle, real: RealData | None, samples: int, rng: Rng, cond: Cond) -> Link:
    x0 = _noise(bundle, rng)
    made, wanted = (b.draw(x0, cond, batch_size=STATES) for b in (bundle, first))
    report = None if real is None else score(bundle, real, samples, rng.fork("score"), extras=FEW, metrics=PLAIN)
    return Link(
        name,
        stored_bytes(bundle.flow.field),
        seconds_of(bundle.flow.field, x0, cond),
        float((made - wanted).square().mean().sqrt()),
        None if report is None else float(report.scores[0].value),
    )


@torch.no_grad()
def seconds_of(field: nn.Module, x: Tensor, cond: Cond) -> float:
    """The median time of one evaluation of a batch, after one that is not measured."""
    t, times = torch.full((len(x),), 0.5, device=x.device), []
    for _ in range(TIMED + 1):
        begin = time.perf_counter()
        field(x, t, cond)
        if x.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[TIMED // 2]
