"""Compression of a bundle: one network after another, each measured beside the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.errors import BeelineError, require
from beeline.core.modes import AUTO, Device
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.evaluation.evaluate import conditions
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.inside import backbone_of, with_backbone
from beeline.networks.compressing.compressor import Call, Compressor, Plan, Probe
from beeline.runs.bundle import Bundle, load
from beeline.runs.compressing.budget import Budget
from beeline.runs.compressing.measuring import STATES, Link, link_of, seconds_of
from beeline.runs.scoring import RealData

PROBED, CALLS = 128, 64  # samples, and evaluations of STATES of them, that a probe records at least
LONGEST = 6  # parents that are followed


@dataclass(frozen=True)
class Chain:
    """A compressed bundle, and its links: its parents from the oldest on, the bundle, and what became of it."""

    bundle: Bundle
    links: tuple[Link, ...]
    before: Link  # that of the bundle itself
    tried: tuple[Link, ...] = ()  # alternatives of which the last link was chosen


def probe_of(bundle: Bundle, rng: Rng, cond: Cond = None) -> Probe:
    """The inputs of the network of a bundle while it samples, with conditions of STATES repeated.

    A flow of one step has one evaluation for a sample, so that more samples are drawn.
    """
    calls: list[Call] = []
    backbone = backbone_of(bundle.flow.field)

    def note(_: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        x, t, c, s = (*args, None, None)[:4]
        calls.append(Call(x, t, more.get("cond", c), more.get("s", s)))

    handle = backbone.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for k in range(CALLS):
            if k * STATES >= PROBED and len(calls) >= CALLS:
                break
            bundle.draw(noise(bundle, rng.fork(k)), cond, batch_size=STATES)
    finally:
        handle.remove()
    return Probe(tuple(calls))


def parents_of(bundle: Bundle, device: Device = AUTO) -> list[Bundle]:
    """The bundles from which a bundle was distilled or compressed, from the oldest on, as far as they are found."""
    found: list[Bundle] = []
    while len(found) < LONGEST and Path(str(bundle.lineage.get("parent", "nothing"))).is_dir():
        try:
            bundle = load(bundle.lineage["parent"], device=device)
        except BeelineError:
            break
        found.append(bundle)
    return found[::-1]


def compress(
    bundle: Bundle,
    methods: Sequence[Compressor],
    *,
    names: Sequence[str] = (),
    real: RealData | None = None,
    samples: int = 500,
    rng: Rng | None = None,
    say: Callable[[str, Plan], None] = lambda name, plan: None,
    budget: Budget | None = None,
    parents: Sequence[Bundle] = (),
    directory: str | None = None,
) -> Chain:
    """Apply compressors one after another, and measure every bundle beside the first.

    With a ``budget`` the methods are alternatives, and the best one within it is applied.  ``names`` are those of the
    methods in the links, ``parents`` those of the bundle, which lies in ``directory``.  ``say`` is called with every
    plan before it is carried out.  Adapters of the bundle are merged first.
    Raises ValueError for a method that does not fit the network, and for a budget that no method meets.
    """
    require(bool(methods), "no method was given to compress by; name one of 'beeline list compressors', such as int8")
    rng = rng or Rng(0)
    merged = with_backbone(bundle.flow.field, lambda net: net.merged() if isinstance(net, Adapted) else net)
    now = replace(bundle, flow=replace(bundle.flow, field=merged.eval()))
    cond, x0 = conditions_of(bundle, real, rng), noise(bundle, rng)
    same = [p for p in parents if p.modality is not None and p.modality.shape == bundle.modality.shape]
    first = (*same, now)[0]
    compared = probe_of(now, rng.fork("probe"), cond), backbone_of(now.flow.field)
    link = partial(link_of, first=first, x0=x0, cond=cond, rng=rng, real=real, samples=samples)
    links = [link(str(p.lineage.get("made_by", "parent")), p) for p in same]
    links.append(link(str(bundle.lineage.get("made_by", "")) if same else "", now))
    named = list(zip(names or [repr(m) for m in methods], methods, strict=True))
    tried: list[Link] = []
    if budget is not None:
        named, tried = _chosen(now, named, budget, compared, x0, cond, rng)
    for name, method in named:
        probe = compared[0] if len(links) == len(same) + 1 else probe_of(now, rng.fork("probe", len(links)), cond)
        plan = method.plan(backbone_of(now.flow.field), probe)
        say(name, plan)
        now = made_by(now, method, plan, probe, rng.fork("apply", name))
        links.append(link(name, now, compared=compared))
    lineage = {
        **bundle.lineage,
        "made_by": "compress",
        **({} if directory is None else {"parent": directory}),
        "parent_weights": bundle.weights,
        "methods": [config.describe(method) for _, method in named],
        "links": [asdict(link) for link in links],
        **({"tried": [asdict(link) for link in tried]} if tried else {}),
    }
    return Chain(replace(now, lineage=lineage), tuple(links), links[len(same)], tuple(tried))


def made_by(bundle: Bundle, method: Compressor, plan: Plan, probe: Probe, rng: Rng) -> Bundle:
    """The bundle with the network that a plan makes."""
    smaller = with_backbone(bundle.flow.field, lambda net: method.apply(net, plan, probe, rng))
    return replace(bundle, flow=replace(bundle.flow, field=smaller.eval().requires_grad_(False)))


def _chosen(
    bundle: Bundle,
    named: Sequence[tuple[str, Compressor]],
    budget: Budget,
    compared: tuple[Probe, nn.Module],
    x0: Tensor,
    cond: Cond,
    rng: Rng,
) -> tuple[list[tuple[str, Compressor]], list[Link]]:
    """The method with the least velocity error of those within a budget, and what was tried."""
    probe, network = compared
    plans = [(name, method, method.plan(network, probe)) for name, method in named]
    within = [entry for entry in plans if budget.fits_size(entry[2].after / entry[2].before)]
    budget.check_size({name: plan.after / plan.before for name, _, plan in plans})
    slow = seconds_of(bundle.flow.field, x0, cond)
    found: list[tuple[str, Compressor, Link]] = []
    for name, method, plan in within:
        made = made_by(bundle, method, plan, probe, rng.fork("apply", name))
        found.append((name, method, link_of(name, made, bundle, x0, cond, rng, compared=compared)))
    budget.check_latency({name: link.seconds / slow for name, _, link in found})
    quick = [entry for entry in found if budget.fits_latency(entry[2].seconds / slow)]
    name, method, _ = min(quick, key=lambda entry: entry[2].error)
    return [(name, method)], [link for _, _, link in found]


def noise(bundle: Bundle, rng: Rng) -> Tensor:
    """STATES points of the source of a bundle."""
    require(
        bundle.modality is not None,
        "this bundle holds bare tensors without a modality, so the shape of its data is not known: save it with one",
    )
    like = torch.empty(STATES, *bundle.modality.shape, device=bundle.device)
    return bundle.flow.source.sample(like, rng.fork("noise"))


def conditions_of(bundle: Bundle, real: RealData | None, rng: Rng) -> Cond:
    """STATES conditions of held-out data, on the device of the bundle; None without data."""
    if real is None:
        return None
    found = conditions(bundle.flow, real.encoded(bundle.modality)[1], STATES, rng.fork("conditions"))
    return map_cond(lambda leaf: leaf.to(bundle.device), found)
