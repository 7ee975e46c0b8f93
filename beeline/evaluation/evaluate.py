"""Evaluation of a flow with one sampler: scores, cost and provenance."""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.declared import traits_of
from beeline.core.errors import BeelineError, require
from beeline.core.files import digest
from beeline.core.modes import AUTO, Device, device_of, moved, place_for
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, leaves, map_cond, take
from beeline.data.metric import complete_metric
from beeline.density.likelihood import bits_per_dimension
from beeline.evaluation.features import Identity, SmallClassifier
from beeline.evaluation.heldout import HeldOut, HeldOutLoss
from beeline.evaluation.memorisation import Memorisation
from beeline.evaluation.metrics import Energy, FeatureMetric, Frechet, Kernel, LabelAgreement, SlicedWasserstein, sound
from beeline.evaluation.scores import Cost, Report, Score, Seen, average, measure
from beeline.evaluation.trajectory import Likelihood, counted, draw, straightness
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode

FINE = Sampler(steps=50)
"""The sampler of the trajectories whose straightness is measured; its guidance is that of the evaluated sampler."""


@dataclass(frozen=True)
class Extras:
    """What is computed beside the metrics; None omits it.

    straightness and transport cost of ``trajectories``; bits per dimension by ``likelihood``
    Assumes a flow from noise to data.  One-step students have a velocity at t = 0 only: set ``trajectories`` to None.

    >>> Extras(likelihood=None).rows
    256
    """

    trajectories: Sampler | None = FINE  # its guidance is replaced by that of the evaluated sampler
    rows: int = 256  # number of trajectories
    likelihood: Likelihood | None = None  # costs a backward pass per step and probe
    replicates: int = 40  # subsets of the samples for intervals; 0: none
    splits: int = 5  # of the real data for baselines; 0: none


def evaluate(
    flow: Flow,
    sampler: Sampler,
    modality: Any,
    real: Any,
    n: int,
    rng: Rng,
    metrics: Sequence[Any] = (),
    *,
    cond: Cond = None,
    reference: Any = None,
    reference_name: str = "",
    cache: str | os.PathLike[str] | None = None,
    extras: Extras | None = None,
    held_out: HeldOut | None = None,
    memorisation: Memorisation | None = None,
    seen: Seen | None = None,
    weights: str = "as given",
    name: str = "",
    batch_size: int = 256,
    device: Device = AUTO,
) -> Report:
    """Generate ``n`` samples and compare them with ``real`` data.

    ``real`` is in the user's own form (with a ``modality``), or an encoded Batch or tensor.  ``metrics`` default to
    those of ``usual`` and of the modality.  Evaluators such as SmallClassifier are fitted to ``reference``, in the same
    forms, by default ``real``: give training data as ``reference`` and held-out data as ``real``, so that scores do
    not depend on what the evaluator has memorised, and baselines have the same numbers of samples.  Fitted evaluators
    are stored in the directory ``cache``.  ``held_out`` computes the held-out loss; its values by time bin are in the
    details of the report.  ``cond`` [n,...] are the conditions of the samples; by default they are sampled from those
    of the real data with equal frequencies.  A network without conditions is given none.

    Samples are generated on ``device``; "auto" is the accelerator of the flow, else CUDA if available, else the CPU.
    The flow itself is not moved.  The same ``rng`` gives every flow the same noise and conditions, so that reports
    compare sample by sample.
    ValueError for non-finite or too few samples, missing labels, and data of another shape.
    """
    extras = extras or Extras()
    where, copies = place_for(device, flow), {}  # type: ignore[var-annotated]
    flow, sampler = moved(flow, where, copies), moved(sampler, where, copies)
    require(isinstance(n, int) and n >= 1, f"n={n!r} is no number of samples; give an integer of 1 or more")
    held = encoded(real, modality, rng.fork("encode"))
    source = held if reference is None else encoded(reference, modality, rng.fork("encode reference"))
    source_hash = "" if reference is None else digest({"x": source.x1})
    reference_hash = digest({"x": held.x1, **{f"cond.{key}": leaf for key, leaf in leaves(held.cond)}})
    sound(held.x1, source.x1)
    chosen = tuple(metrics) or usual(flow, modality, held, n)
    fitted = [complete_metric(m).fit(source.x1, source.cond, cache=cache) for m in chosen]
    for metric in fitted:
        _possible(metric, held, n)

    given = conditions(flow, held, n, rng.fork("conditions")) if cond is None else cond
    x0 = flow.source.sample(
        torch.empty(n, *held.x1.shape[1:], device=where, dtype=precision(flow.field)), rng.fork("noise")
    )
    given = map_cond(lambda leaf: leaf.to(where), given)
    made, cost = generated(flow, sampler, x0, given, batch_size)
    made = reencoded(modality, made.cpu())

    scores = measure(
        fitted,
        held.x1,
        made,
        rng.fork("measure"),
        real_cond=held.cond,
        cond=map_cond(lambda leaf: leaf.cpu(), given),
        others=None if reference is None else source.x1,
        reference_hash=reference_hash,
        others_hash=source_hash,
        replicates=extras.replicates,
        splits=extras.splits,
        seen=seen,
    )
    scores += along_trajectories(flow, sampler, x0, given, extras, batch_size)
    details: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    if memorisation is not None:
        found = memorisation(made, rng.fork("memorisation"), seen)
        scores, details["memorisation"] = (*scores, *found.scores), found.details
        shown = found.shown if modality.levels is not None else {}  # other data are no pictures
    if held_out is not None:
        loss = held_out(flow.field)
        details["held-out loss"] = loss.plain()
        scores += (held_out_score(loss, reference_hash, len(held_out.data.x1)),)
    if extras.likelihood is not None:
        scores += (bits(flow, modality, held, extras.likelihood, rng.fork("likelihood"), reference_hash),)
    return Report(
        scores,
        cost,
        {
            "name": name,
            "reference": reference_name,
            "reference_hash": reference_hash,
            "evaluators_learned_from": source_hash or "the real data themselves",
            "n": n,
            "n_real": len(held.x1),
            "sampler": plain(sampler),
            "solver": plain(sampler.solver),
            "steps": sampler.steps,
            "guidance": plain(sampler.guidance),
            "evaluations": cost.evaluations,
            "weights": weights,
            "conditions": sorted(key or "(bare)" for key, _ in leaves(given)),
            "seed": [rng.seed, *rng.path],
            "batch_size": batch_size,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "device": str(where),
            "versions": versions(),
        },
        details,
        shown,
    )


def usual(flow: Flow, modality: Any, real: Batch, n: int) -> tuple[Any, ...]:
    """The default metrics: those that the data allow, and those of the modality.

    With labels, Frechet and kernel distance use the features of a small classifier, and label agreement is computed if
    the flow takes labels; without labels they are computed in data space.  The Frechet distance needs enough samples.
    """
    space = usual_features(real)
    labelled = isinstance(space, SmallClassifier)
    size = space.size if isinstance(space, SmallClassifier) else real.x1[0].numel()
    chosen: list[Any] = [Frechet(space)] if min(n, len(real.x1)) > size else []
    chosen += [Kernel(space), SlicedWasserstein(), Energy()]
    if labelled and takes_conditions(flow):
        chosen.append(LabelAgreement(space))
    return (*chosen, *(modality.metrics() if modality is not None else ()))


def usual_features(real: Batch) -> SmallClassifier | Identity:
    """The features of the default metrics: those of a small classifier for data with one label, else the data."""
    known = [leaf for _, leaf in leaves(real.cond) if leaf.ndim == 1 and not leaf.is_floating_point()]
    return SmallClassifier() if len(known) == 1 else Identity()


def takes_conditions(flow: Flow) -> bool:
    """Whether a flow's network takes a condition; True if it declares nothing."""
    nulls = traits_of(flow.field).nulls  # by condition
    return nulls is None or len(nulls) > 0


def encoded(real: Any, modality: Any, rng: Rng) -> Batch:
    """Real data as an encoded batch on the CPU."""
    if isinstance(real, Tensor):
        batch = Batch(real)
    elif isinstance(real, Batch):
        batch = real
    else:
        require(
            modality is not None,
            f"the real data are {type(real).__name__} and cannot be encoded without a modality; "
            "pass an encoded Batch or tensor, or the modality of the bundle",
        )
        batch = modality.encode(real)
    return Batch(batch.x1.detach().cpu(), cond=map_cond(lambda leaf: leaf.detach().cpu(), batch.cond))


def conditions(flow: Flow, real: Batch, n: int, rng: Rng) -> Cond:
    """Conditions for ``n`` samples from those of the real data; None for a flow without conditions.

    Every row is used equally often (once for n = N), in random order, so that label frequencies agree.
    """
    if real.cond is None or not takes_conditions(flow):
        return None
    size = len(real.x1)
    rounds = [rng.fork(k).permutation(size) for k in range(-(-n // size))]
    return take(real, torch.cat(rounds)[:n]).cond


def precision(field: Any) -> torch.dtype:
    """The dtype of integration states: float32, or float64 for a network in float64."""
    weight = next(field.parameters(), torch.empty(0)) if isinstance(field, nn.Module) else torch.empty(0)
    return torch.promote_types(weight.dtype, torch.float32)


def generated(flow: Flow, sampler: Sampler, x0: Tensor, cond: Cond, batch_size: int) -> tuple[Tensor, Cost]:
    """Samples from ``x0`` and their cost, with counted field evaluations."""
    cuda = x0.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(x0.device)
        torch.cuda.reset_peak_memory_stats(x0.device)
    with counted(flow, sampler) as (seen, same, counter):
        start = time.perf_counter()
        made = draw(seen, same, x0, cond, batch_size)
        if cuda:
            torch.cuda.synchronize(x0.device)
        seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated(x0.device) if cuda else peak_resident()
    return made, Cost(
        counter.rows / len(x0),
        sampler.evaluations,
        seconds,
        len(x0) / max(seconds, 1e-9),
        memory,
        str(x0.device) if cuda else "process",
    )


def peak_resident() -> int | None:
    """Peak resident size of this process since it started, in bytes; None where it is not available."""
    try:
        import resource  # not on every system
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reencoded(modality: Any, made: Tensor) -> Tensor:
    """Generated samples decoded and encoded again, so that rounding and clipping by ``decode`` are included."""
    if modality is None:
        return made
    again: Tensor = modality.encode(modality.decode(made)).x1
    return again


def along_trajectories(
    flow: Flow, sampler: Sampler, x0: Tensor, cond: Cond, extras: Extras, batch_size: int
) -> tuple[Score, ...]:
    """Straightness and transport cost of trajectories."""
    if extras.trajectories is None or extras.rows < 1 or not is_ode(flow):
        return ()
    fine = replace(extras.trajectories, guidance=sampler.guidance)
    rows = min(extras.rows, len(x0))
    found = straightness(flow, x0[:rows], fine, map_cond(lambda leaf: leaf[:rows], cond), batch_size)
    how = f"trajectories of {fine.steps} steps of {type(fine.solver).__name__} of order {fine.solver.order}"
    return (
        average("straightness", found.bend, evaluator=how),
        average("relative straightness", found.bend, found.length, evaluator=how),
        average("transport cost", found.length, evaluator=how),
    )


def bits(flow: Flow, modality: Any, real: Batch, likelihood: Likelihood, rng: Rng, reference_hash: str) -> Score:
    """Negative log-likelihood of real data in bits per dimension.

    For a modality with ``levels`` it is that of the integer values, by uniform dequantisation; else that of the encoded
    data.
    """
    rows = rng.fork("rows").permutation(len(real.x1))[: likelihood.rows]
    part = take(real, rows)
    where = device_of(flow) or part.x1.device
    x = part.x1
    levels = None if modality is None else modality.levels
    if levels is not None:
        x = modality.encode(modality.decode(x), rng.fork("dequantise")).x1
    log_p = likelihood(flow, x.to(where, precision(flow.field)), rng.fork("probes"), part.cond)
    size = x[0].numel()
    each = bits_per_dimension(log_p, size, levels, 2.0) if levels else bits_per_dimension(log_p, size, 1, 1.0)
    how = f"{likelihood.steps} steps, " + (
        "exact divergence" if size <= likelihood.exact else f"{likelihood.probes} Hutchinson probes"
    )
    return average("bits per dimension", each, evaluator=how, reference_hash=reference_hash, n_real=len(real.x1))


def held_out_score(loss: HeldOutLoss, reference_hash: str, n: int) -> Score:
    """The held-out loss as a score."""
    half = 1.959964 * loss.error
    interval = (loss.value - half, loss.value + half) if math.isfinite(half) else None
    how = "fixed noise and times"
    return Score("held-out loss", loss.value, interval, None, "lower", n, n, how, "exact", reference_hash)


def plain(part: Any) -> Any:
    """A component as plain data, or its repr if it is not in the catalogue."""
    try:
        return config.describe(part)
    except BeelineError:
        return repr(part)


def versions() -> dict[str, str]:
    from beeline import __version__

    return {
        "beeline": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def _possible(metric: Any, real: Batch, n: int) -> None:
    """Refuse metrics that the data do not allow, before samples are generated."""
    if not isinstance(metric, FeatureMetric):
        return
    least = metric.least(metric.view(real.x1[:1]).shape[1])
    require(
        min(n, len(real.x1)) >= least,
        f"{type(metric).__name__} in {metric.features.name} needs at least {least} samples, but n={n} and there are "
        f"{len(real.x1)} real ones; give more, or use Kernel() or Energy(), which need 2",
    )
    require(
        not metric.conditional or real.cond is not None,
        f"{type(metric).__name__} needs conditions, but the real data have none; give labelled data, or leave the "
        "metric out",
    )
