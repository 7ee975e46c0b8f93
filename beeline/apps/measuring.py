"""What a report shows, gathered from bundles: figures at several evaluation counts, samples, trajectories, losses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline import config
from beeline.bundle import Bundle
from beeline.core.coupling import Independent
from beeline.core.declared import is_map
from beeline.core.rng import Rng
from beeline.core.solver import EULER, HEUN, Solver
from beeline.core.space import Projected
from beeline.core.types import Cond, map_cond
from beeline.evaluate import Extras, evaluate
from beeline.learn.heads import settings_of
from beeline.learn.heldout import HeldOut
from beeline.learn.objective import FlowMatching
from beeline.metrics import Energy, SlicedWasserstein
from beeline.scores import Report
from beeline.trajectory import Likelihood
from beeline.use.sampler import Sampler

COUNTS = (1, 2, 4, 8, 16, 32)


def sampler_for(evaluations: int, like: Sampler) -> Sampler:
    """A sampler with the schedule and guidance of ``like`` for a number of evaluations: EULER up to 3, HEUN beyond."""
    few = evaluations < 4
    solver: Solver = EULER if few else HEUN
    steps = evaluations if few else evaluations // 2
    if isinstance(like.solver, Projected):
        solver = replace(like.solver, solver=solver)
    return Sampler(steps, solver=solver, guidance=like.guidance)


def one_step(bundle: Bundle) -> bool:
    """Whether a bundle was made to be used in one evaluation, so that other times mean nothing to it."""
    return bundle.sampler.evaluations == 1


def metrics_of(bundle: Bundle) -> tuple[Any, ...]:
    """Scores that suit the data: those of their kind; none with labels, where evaluate() chooses by their number."""
    own = tuple(bundle.modality.metrics())
    if own or "label" in bundle.modality.conditions:
        return own
    return SlicedWasserstein(), Energy()


def measured(
    bundle: Bundle,
    source: Any,
    n: int,
    rng: Rng,
    *,
    sampler: Sampler | None = None,
    name: str = "",
    extras: Extras | None = None,
) -> Report:
    """Scores of a bundle against the held-out part of a data set; evaluators learn from the training part."""
    raw, held = source.load()
    held_out = None
    if extras is None:
        held_out = held_out_loss(bundle, raw, held)
        # of coordinates that are states the way and the density say nothing
        walked = bundle.flow.ode and not one_step(bundle) and getattr(bundle.modality, "continuous", True)
        likely = Likelihood() if walked and bundle.flow.source.gaussian and told_by_data(bundle) else None
        extras = Extras(likelihood=likely) if walked else Extras(trajectories=None)
    return evaluate(
        bundle.flow,
        sampler or bundle.sampler,
        bundle.modality,
        held,
        n,
        rng,
        metrics_of(bundle),
        reference=raw,
        reference_name=f"held-out part of {source!r}",
        cache=cache(),
        extras=extras,
        held_out=held_out,
        weights="averaged (EMA)",
        name=name,
    )


def told_by_data(bundle: Bundle) -> bool:
    """Whether the data have every condition that the network takes (guidance may add some of its own)."""
    return set(settings_of(bundle.flow.field).get("conditions") or {}) <= set(bundle.modality.conditions)


def held_out_loss(bundle: Bundle, raw: Any, held: Any) -> HeldOut | None:
    """The loss of flow matching on held-out data; none for a flow of other pairs, or told more than the data say."""
    flow, modality = bundle.flow, bundle.modality
    if not told_by_data(bundle) or not flow.independent or not flow.ode or is_map(flow.field):
        return None
    objective = FlowMatching(flow.path, Independent(flow.source))
    return HeldOut(objective, modality.encode(held), train=modality.encode(raw), rng=Rng(0).fork("held-out"))


def cache() -> Path:
    """Where trained evaluators are kept between calls."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "evaluators"


@dataclass(frozen=True)
class Look:
    """One model in a report."""

    name: str
    bundle: Bundle
    by_count: Mapping[int, Report]  # at each number of evaluations
    samples: Mapping[int, Tensor]  # [n,*S] encoded, the same noise at each
    walks: Tensor  # [times, n, *S] trajectories of the same noise
    log: Sequence[Mapping[str, Any]]


def look(
    name: str,
    bundle: Bundle,
    log: Sequence[Mapping[str, Any]],
    source: Any,
    n: int,
    rng: Rng,
    counts: Sequence[int] = COUNTS,
) -> Look:
    """Measure and draw one model at every evaluation count it was made for."""
    if not bundle.flow.ode:  # no other sampler may be used than its own
        counts = (bundle.sampler.evaluations or 0,)
    counts = (1,) if one_step(bundle) else counts
    plain = Extras(trajectories=None)
    reports, samples = {}, {}
    shown = 400 if tuple(bundle.modality.shape) == (2,) else 20  # a cloud of points, or a grid
    x0 = bundle.start(range(shown))
    cond = every_label(bundle, shown)
    if hasattr(bundle.flow.source, "modality"):  # data too, to be seen beside what becomes of them
        samples[0] = x0
    for count in counts:
        sampler = sampler_for(count, bundle.sampler) if bundle.flow.ode else bundle.sampler
        extras = None if count == counts[-1] else plain
        reports[count] = measured(bundle, source, n, rng, sampler=sampler, name=name, extras=extras)
        samples[count] = bundle.draw(x0, cond, sampler=sampler)
    return Look(name, bundle, reports, samples, walks(bundle, x0[:8], first(cond, 8)), log)


def walks(bundle: Bundle, x0: Tensor, cond: Cond) -> Tensor:
    """States along the trajectories of ``x0``, [times, n, *S]."""
    if not bundle.flow.ode:
        return x0[None]  # no curves in the space of the data
    seen: list[Tensor] = []
    sampler = Sampler(1, solver=EULER) if one_step(bundle) else Sampler(24, guidance=bundle.sampler.guidance)
    sampler(bundle.flow, x0, cond, watch=lambda x, t: seen.append(x.clone()))
    return torch.stack(seen)


def every_label(bundle: Bundle, n: int) -> Cond:
    """Conditions that go through the labels in turn; None for a model without a single label."""
    wanted = bundle.modality.conditions
    if set(wanted) != {"label"}:
        return bundle.condition(None, n)
    classes = wanted["label"]["classes"]
    labels: Cond = bundle.modality.condition([i % classes for i in range(n)], n)
    return labels


def first(cond: Cond, n: int) -> Cond:
    return map_cond(lambda leaf: leaf[:n], cond)


def data_of(bundle: Bundle) -> Any:
    """The data set that a bundle was trained on."""
    return config.build(bundle.lineage["data"])
