"""Measurements for a report: scores at several numbers of evaluations, samples, trajectories and losses of a bundle."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.protocols.flows import Solver
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.data.translation import DatasetSource
from beeline.evaluation.evaluate import FINE, Extras
from beeline.evaluation.scores import Report
from beeline.evaluation.trajectory import counted
from beeline.runs.bundle import Bundle
from beeline.runs.scoring import PLAIN, RealData, classifier_seconds, fixed, one_step, score
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.spaces.manifold import Projected

COUNTS = (1, 2, 4, 8, 16, 32)  # evaluations per sample
SHORTEST = 5.0  # seconds that a report may always take
CLASSIFIER = 3.0  # times the limit of a report that training a classifier may take, once for a data set
FEWEST = 64  # samples; a report never uses fewer to save time

Status = Callable[[str], None]
"""Is called with a short text when the next part of the work begins."""


def silent(text: str) -> None:
    """A status function that does nothing."""


@dataclass(frozen=True)
class ModelResults:
    """Everything that a report shows of one model."""

    name: str
    bundle: Bundle
    own: Report | None  # by the bundle's own sampler
    by_count: Mapping[float, Report]  # by number of counted evaluations, that of the own sampler included
    samples: Mapping[float, Tensor]  # [n,*S] encoded, from the same noise, by number of evaluations
    trajectories: Tensor | None  # [times, n, *S] from the same noise
    log: Sequence[Mapping[str, Any]]
    missing: Sequence[str] = ()  # what was not measured, and why


class Budget:
    """The time that a report may take; parts are measured in turn while time is left.

    ``clock`` gives the time in the unit of ``limit``: seconds, or evaluations in a test.
    """

    def __init__(self, limit: float = math.inf, clock: Callable[[], float] = time.perf_counter):
        self.limit, self.clock, self.start = limit, clock, clock()

    @property
    def left(self) -> float:
        return self.limit - (self.clock() - self.start)

    @staticmethod
    def of_log(log: Sequence[Mapping[str, Any]], batch_size: int) -> Budget:
        """A tenth of the training time according to the log, and at least ``SHORTEST`` seconds."""
        rates = [float(e["samples_per_second"]) for e in log if e.get("samples_per_second")]
        return Budget(max(SHORTEST, sum(batch_size / rate for rate in rates if rate > 0) / 10))


def measure_model(
    name: str,
    bundle: Bundle,
    log: Sequence[Mapping[str, Any]],
    real: RealData | None,
    n: int,
    rng: Rng,
    counts: Sequence[int] = COUNTS,
    budget: Budget | None = None,
    status: Status = silent,
    *,
    exact: bool = False,
) -> ModelResults:
    """Sample and score one model by its own sampler, and at further numbers of evaluations while time is left.

    The number of samples is ``n`` if ``exact``; otherwise it is reduced to what the time allows, the same for all
    numbers of evaluations.  A part that fails becomes a sentence in ``missing``.
    """
    budget = budget or Budget()
    samplers: dict[str, Sampler] = {"own": bundle.sampler}
    maps = is_map(bundle.flow.field)
    if is_ode(bundle.flow) and (maps or not one_step(bundle)) and not fixed(bundle):  # others have no other sampler
        spread = sorted(counts, key=lambda c: (c not in (min(counts), max(counts)), c))
        samplers |= {str(c): sampler_for(c, bundle.sampler, maps) for c in spread if c != bundle.sampler.evaluations}
    own: Report | None = None
    reports: dict[float, Report] = {}
    samples: dict[float, Tensor] = {}
    missing: list[str] = []
    shown = 400 if tuple(bundle.modality.shape) == (2,) else 20  # a scatter plot, or a grid
    x0 = bundle.start(range(shown))
    cond = every_label(bundle, shown)
    if isinstance(bundle.flow.source, DatasetSource):  # the source is data, shown beside what they become
        samples[0] = x0
    metrics: Sequence[Any] = ()
    if real is not None and budget.limit < math.inf:
        status(f"{name}: time of the classifier")
        with attempt(f"{name}, the classifier", missing):
            needed = classifier_seconds(bundle, real, budget.clock)
            if needed > CLASSIFIER * budget.limit:
                metrics = PLAIN
                missing.append(
                    f"{name}, Frechet distance, kernel distance and label agreement: training their classifier takes "
                    f"about {needed:.0f} s, too long for a training of this length; they are measured by "
                    "'beeline evaluate'"
                )
    longest = 0.0  # time of the slowest sampler so far
    for kind, sampler in samplers.items():
        is_own = kind == "own"
        if not is_own and budget.left < longest:
            missing.append(f"{name} at {kind} evaluations: the time budget of the report was used up")
            continue
        status(f"{name}: {'its own sampler' if is_own else f'{kind} evaluations'}")
        begin = budget.clock()
        with attempt(f"{name}, {kind}", missing):
            with counted(bundle.flow, sampler) as (flow, same, counter):
                x1 = replace(bundle, flow=flow).draw(x0, cond, sampler=same)
            count = counter.rows / len(x0)
            samples[count] = x1
            each = (budget.clock() - begin) / shown
            if is_own and not exact and each > 0 and budget.limit < math.inf:
                n = max(min(n, int(budget.left / 4 / each)), min(n, FEWEST))
            if real is not None:
                extras = None if is_own and budget.left > longest else Extras(trajectories=None)
                within = functools.partial(extras_within, seconds=budget.left / 3, forward=each / count)
                reports[count] = score(
                    bundle,
                    real,
                    n,
                    rng,
                    sampler=sampler,
                    name=name,
                    extras=extras,
                    within=within,
                    memorisation=is_own and quickly_compared(bundle, real, n),
                    metrics=metrics,
                )
                own = reports[count] if is_own else own
        longest = max(longest, budget.clock() - begin)
    states: Tensor | None = None
    with attempt(f"{name}, trajectories", missing):
        states = trajectories_of(bundle, x0[:8], first(cond, 8))
    by_count, by_evaluations = dict(sorted(reports.items())), dict(sorted(samples.items()))
    return ModelResults(name, bundle, own, by_count, by_evaluations, states, log, missing)


def extras_within(usual: Extras, seconds: float, forward: float) -> Extras:
    """Straightness and likelihood of as many samples as fit into a time, left out below a few of them.

    ``forward`` is the time of one evaluation of the field for one sample.
    """
    if forward <= 0 or seconds == math.inf:
        return usual
    samples = int(seconds / 2 / (forward * 2 * FINE.steps))
    likelihood = usual.likelihood
    if likelihood is not None:  # a backward pass for every probe costs about two forward passes
        rows = int(seconds / 2 / (forward * 2 * likelihood.steps * (1 + 2 * likelihood.probes)))
        likelihood = replace(likelihood, rows=min(likelihood.rows, rows)) if rows >= LEAST else None
    trajectories = usual.trajectories if samples >= LEAST else None
    return replace(usual, trajectories=trajectories, rows=min(usual.rows, max(1, samples)), likelihood=likelihood)


def quickly_compared(bundle: Bundle, real: RealData, n: int) -> bool:
    """Whether the data are pictures, and the nearest training data of samples are found in a few seconds."""
    if ".png" not in bundle.modality.formats or len(bundle.modality.shape) != 3:
        return False
    train, held = real.encoded(bundle.modality)
    return train is not None and len(held.x1) > 0 and 2 * n * train.x1.numel() < MOST


MOST = 2e11  # products of numbers for nearest neighbours in a report, a few seconds on a laptop
LEAST = 8  # trajectories or likelihoods, below which a mean says nothing


@contextmanager
def attempt(part: str, missing: list[str]) -> Iterator[None]:
    """A part of a report that may fail: its error becomes a sentence in ``missing``."""
    try:
        yield
    except Exception as error:
        missing.append(f"{part}: {' '.join(str(error).split()) or type(error).__name__}")


def sampler_for(evaluations: int, like: Sampler, maps: bool = False) -> Sampler:
    """A sampler for a number of evaluations, with the guidance of ``like``: EULER up to 3 evaluations, HEUN beyond.

    That of a flow map takes so many of its own steps.
    """
    if maps:
        return replace(like, steps=evaluations)
    few = evaluations < 4
    solver: Solver = EULER if few else HEUN
    steps = evaluations if few else evaluations // 2
    if isinstance(like.solver, Projected):
        solver = replace(like.solver, solver=solver)
    return Sampler(steps, solver=solver, guidance=like.guidance)


def trajectories_of(bundle: Bundle, x0: Tensor, cond: Cond) -> Tensor:
    """States along the trajectories from ``x0``, [times, n, *S]; ``x0`` alone for a process that is no ODE."""
    if not is_ode(bundle.flow):
        return x0[None]
    states: list[Tensor] = []
    sampler = Sampler(24, guidance=bundle.sampler.guidance)
    if one_step(bundle) or fixed(bundle):
        sampler = bundle.sampler
    elif is_map(bundle.flow.field):
        sampler = replace(bundle.sampler, steps=24)
    sampler(bundle.flow, x0, cond, watch=lambda x, t: states.append(x.clone()))
    return torch.stack(states)


def every_label(bundle: Bundle, n: int, most: int | None = None) -> Cond:
    """Conditions for ``n`` samples that cycle through the labels; without labels, the model's own null condition.

    ``most``: of the labels, the first ones.
    """
    classes = label_count(bundle)
    if classes is None:
        return bundle.condition(None, n)
    classes = classes if most is None else min(classes, most)
    labels: Cond = bundle.modality.condition([i % classes for i in range(n)], n)
    return labels


def label_count(bundle: Bundle) -> int | None:
    """The number of labels where the label is the only condition; else None."""
    wanted = bundle.modality.conditions
    return int(wanted["label"]["classes"]) if set(wanted) == {"label"} else None


def first(cond: Cond, n: int) -> Cond:
    """The conditions of the first ``n`` samples."""
    return map_cond(lambda leaf: leaf[:n], cond)
