"""The sections of a report: each function takes measurements and returns a section of the page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from beeline.cli.report import plots
from beeline.cli.report.page import Section, capitalised, component, section, slug
from beeline.core.errors import require
from beeline.evaluation.likeness import Likeness
from beeline.evaluation.scores import Report, Score, compare, figure

Samples = Tensor | bytes | str
"""Samples of a model: images [N,C,H,W] in [-1, 1], points [N,D], a PNG file as bytes, or HTML."""


def introduction() -> Section:
    """What a rectified flow is."""
    return section("About this report", "introduction")


def samples(
    grids: Mapping[str, Mapping[float, Samples]],
    *,
    real: Samples | None = None,
    columns: int = 4,
    order: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    own: Mapping[str, float] | None = None,
) -> Section:
    """Samples of every model, large and beside real data, and at several numbers of evaluations, from the same noise.

    ``own`` has the number of evaluations of the large samples of a model; by default its largest one.
    """
    require(len(grids) > 0, "there are no samples to show; give {model: {evaluations: samples}}")
    order = list(order) or list(grids)
    counts = sorted({count for grid in grids.values() for count in grid})

    def cell(name: str, count: float, place: str) -> dict[str, Any]:
        about = f"{name}, {count:g} evaluations"
        return _cell(grids[name][count], about, columns, plots.colour(name, order), limits, place)

    rows = {
        name: [cell(name, c, f"s{order.index(name)}-{i}") if c in grid else None for i, c in enumerate(counts)]
        for name, grid in grids.items()
    }
    best = {name: (own or {}).get(name, max(grid)) for name, grid in grids.items()}
    return section(
        "Samples",
        "samples",
        order=order,
        counts=counts,
        rows=rows,
        large={name: (count, cell(name, count, f"large-{order.index(name)}")) for name, count in best.items()},
        real=None if real is None else _cell(real, "real data", columns, plots.FAINT, limits, "s-real"),
        table=any(isinstance(shown, str) for grid in grids.values() for shown in grid.values()),
    )


def quality(
    curves: Mapping[str, Sequence[Any]],
    label: str,
    *,
    better: str = "lower",
    title: str = "Quality against cost",
    order: Sequence[str] = (),
    floor: float | None = None,
) -> Section:
    """A score against evaluations per sample for every model: points (evaluations, value[, interval]).

    ``floor`` is the real-vs-real baseline of the score.
    """
    require(any(len(c) for c in curves.values()), "there are no scores to plot; give {model: [(evaluations, value)]}")
    shown = {name: curve for name, curve in curves.items() if len(curve)}
    heading = f"{capitalised(label)} ({better} is better)"
    name = f"{slug(title)}-figure"
    return section(
        title,
        "quality",
        svg=plots.svg(plots.quality(shown, heading, order=order or list(curves), floor=floor), name),
        id=name,
        label=capitalised(label),
        baseline=floor,
        intervals=any(len(p) > 2 and p[2] for c in curves.values() for p in c),
    )


def trajectories(
    states: Mapping[str, Tensor], *, straightness: Mapping[str, float] | None = None, order: Sequence[str] = ()
) -> Section:
    """Trajectories [T,N,*S] of a few samples from the same noise, one picture per model, in one plane."""
    require(len(states) > 0, "there are no trajectories to plot; give {model: states [T,N,*S]}")
    order = list(order) or list(states)
    plotted = plots.trajectories(states, order)
    pictures = {name: plots.svg(fig, f"trajectories-{i}") for i, (name, fig) in enumerate(plotted.items(), start=1)}
    return section(
        "Trajectories from noise to data",
        "trajectories",
        order=order,
        pictures=pictures,
        straightness=straightness or {},
    )


def loss_by_time(
    models: Mapping[str, Sequence[float]],
    *,
    mean: Sequence[float] | None = None,
    posterior: Sequence[float] | None = None,
    order: Sequence[str] = (),
) -> Section:
    """Held-out loss by time bin with its two baselines."""
    plotted = plots.loss_by_time(models, mean=mean, posterior=posterior, order=order or list(models))
    return section(
        "Held-out loss by time",
        "loss_by_time",
        svg=plots.svg(plotted, "loss-by-time"),
        several=len(models) > 1,
        mean=mean is not None,
        posterior=posterior is not None,
    )


def training(curves: Mapping[str, plots.Curve], *, label: str = "training loss", order: Sequence[str] = ()) -> Section:
    """Loss against steps for every model: points (step, loss)."""
    plotted = plots.training(curves, label, order=order or list(curves))
    return section(
        "Training", "training", svg=plots.svg(plotted, "training"), label=capitalised(label), several=len(curves) > 1
    )


def scores(reports: Mapping[str, Report], order: Sequence[str] = ()) -> Section:
    """Every score of every model with interval and real-vs-real baseline, and how it was measured."""
    require(len(reports) > 0, "there are no reports; give {model: Report}")
    compare(reports)  # refuses scores that were measured differently
    first = next(iter(reports.values()))
    keys = ("reference", "reference_hash", "seed", "weights", "date", "device", "versions")
    return section(
        "Scores",
        "scores",
        order=list(order) or list(reports),
        names=list(reports),
        cost={
            "Evaluations per sample": [f"{r.cost.evaluations:g}" for r in reports.values()],
            "Samples per second": [figure(r.cost.samples_per_second) for r in reports.values()],
        },
        rows=[
            _row(name, reports.values()) for name in dict.fromkeys(s.name for r in reports.values() for s in r.scores)
        ],
        evaluators=first.scores,
        samplers={name: _sampler(r.provenance) for name, r in reports.items()},
        provenance={key: first.provenance[key] for key in keys if first.provenance.get(key)},
    )


def memorisation(models: Mapping[str, Report], order: Sequence[str] = ()) -> Section:
    """Samples beside their nearest training data, and the share that is nearer to them than held-out data are."""
    known = {name: report for name, report in models.items() if report.shown}
    require(known, "no report has pairs to show; evaluate with a Memorisation")
    return section(
        "Memorisation",
        "memorisation",
        order=list(order) or list(models),
        models={name: _pairs(report) for name, report in known.items()},
    )


def student(
    shown: Mapping[str, Samples],
    found: Likeness,
    *,
    limits: tuple[float, float] | None = None,
    order: Sequence[str] = (),
) -> Section:
    """A student beside its teacher: samples of both from the same noise, the teacher's first, and their likeness."""
    order = list(order) or list(shown)
    cells = {
        name: _cell(x, f"{name}, from the same noise", 5, plots.colour(name, order), limits, f"pair-{i}")
        for i, (name, x) in enumerate(shown.items())
    }
    return section("Student and teacher", "student", order=order, cells=cells, found=found)


def lineage(chain: Sequence[Mapping[str, Any]]) -> Section:
    """The origin of the models: one mapping per model, with its ``name``, in the order of training."""
    return section("Lineage", "lineage", chain=[{"name": "", **link} for link in chain])


def not_measured(sentences: Iterable[str]) -> Section:
    """What could not be measured, and why."""
    return section("Not measured", "not_measured", sentences=list(sentences))


def commands(lines: Iterable[str]) -> Section:
    """The commands that reproduce the results."""
    return section("Reproduce", "commands", lines=list(lines))


# -------------------------------------------------------------------------------------------------------------- parts


def _cell(
    shown: Samples, about: str, columns: int, colour: str, limits: tuple[float, float] | None, name: str
) -> dict[str, Any]:
    """The values of the template of one cell of samples."""
    if isinstance(shown, str):
        return {"svg": "", "html": Markup(shown)}
    if isinstance(shown, Tensor) and shown.ndim == 2:
        return {"svg": plots.svg(plots.cloud(shown, colour, limits), name, about=about)}
    data = shown if isinstance(shown, bytes) else plots.tiles(shown, columns)
    return {"svg": "", "html": "", "about": about, "png": base64.b64encode(data).decode()}


def _pairs(report: Report) -> dict[str, Any]:
    """The values of the template of the pairs of one model."""
    found, spaces = report.details["memorisation"], [key for key in report.shown if key != "samples"]
    columns = {key: [_tile(x, f"{key} {i + 1}") for i, x in enumerate(data)] for key, data in report.shown.items()}
    rows = [
        {
            "sample": columns["samples"][i],
            "nearest": [{**pair[space], "tile": columns[space][i], "nearer": _nearer(pair[space])} for space in spaces],
        }
        for i, pair in enumerate(found["pairs"])
    ]
    scores = [score for score in report.scores if score.name.startswith("memorisation")]
    return {"spaces": spaces, "rows": rows, "scores": scores, "copies": found["copies"], "of": found["of"]}


def _nearer(pair: Mapping[str, Any]) -> str:
    """How many held-out data are nearer to a training datum than a sample is."""
    return f"{100 * pair['held-out data that are nearer']:.3g}%"


def _tile(x: Tensor, about: str) -> dict[str, Any]:
    """One picture for the page, at least 128 pixels wide."""
    zoom = max(1, 128 // x.shape[-1])
    large = x.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    return {"svg": "", "html": "", "about": about, "png": base64.b64encode(plots.tiles(large[None], 1)).decode()}


def _row(name: str, reports: Iterable[Report]) -> dict[str, Any]:
    """The values of one score of all models."""
    found = [next((s for s in r.scores if s.name == name), None) for r in reports]
    known = [s for s in found if s is not None]
    return {
        "name": capitalised(name),
        "arrow": "↑" if known[0].better == "higher" else "↓",
        "scores": found,
        "best": _best(known) if len(known) > 1 else [],
        "baseline": next((s.baseline for s in known if s.baseline is not None), None),
    }


def _best(scores: Sequence[Score]) -> list[Score]:
    """The best score, and those whose interval overlaps with its interval."""
    best = (max if scores[0].better == "higher" else min)(scores, key=lambda s: s.value)
    low, high = best.interval or (best.value, best.value)
    spans = [(s, s.interval or (s.value, s.value)) for s in scores]
    return [s for s, (a, b) in spans if a <= high and b >= low]


def _sampler(provenance: Mapping[str, Any]) -> str:
    """The sampler of a report, in words."""
    steps, solver, guidance = (component(provenance.get(key, "")) for key in ("steps", "solver", "guidance"))
    return f"{steps} steps, {solver}, {guidance}"
