"""Writes the reports of a run and of the demo: measures the models and renders the sections of the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beeline.cli.report import sections
from beeline.cli.report.measuring import COUNTS, Budget, ModelResults, Status, attempt, measure_model, silent
from beeline.cli.report.page import Section, page
from beeline.cli.report.students import Comparison, compared
from beeline.cli.report.tables import table_sections
from beeline.core.errors import BeelineError
from beeline.core.files import write_bytes, write_json, write_text
from beeline.core.rng import Rng
from beeline.evaluation.scores import Report, figure
from beeline.runs.bundle import Bundle, load, relabel
from beeline.runs.scoring import RealData, data_of, has_trajectories, labels_of
from beeline.training.logs.run_log import read_log

SAMPLES = 500  # generated for the scores of a run

Results = Mapping[str, ModelResults]


def report_run(
    out: Path, bundle: Bundle, *, command: str, n: int = SAMPLES, batch_size: int = 1, status: Status = silent
) -> dict[str, float]:
    """Write the report of a run, with the results of its teacher if it has one, and add the scores to the bundle.

    Returns the scores of the run by name.

    It takes at most a tenth of the training time, or a few seconds where that was shorter, and three times as long to
    train a classifier for the features of new data; ``batch_size`` is that of the training.
    """
    models, places = {}, [str(out)]
    parent = bundle.lineage.get("parent")
    if parent is not None:
        try:
            models, places = {"": load(parent)}, [str(parent), str(out)]
        except BeelineError:
            pass  # the teacher was moved or removed: the report shows the student alone
    names = labels_of(places)
    models = dict(zip(names, [*models.values(), bundle], strict=True))
    name, log = names[-1], out / "log.jsonl"
    budget = Budget.of_log(read_log(log) if log.is_file() else [], batch_size)
    missing: list[str] = []
    data = read_data(models, missing, status)
    results = measure(models, {name: out}, n, budget=budget, status=status, real=data)
    quality = {k: own_scores(result) for k, result in results.items() if result.own is not None}
    comparison: Comparison | None = None
    if len(models) > 1:
        status("comparing with the teacher")
        with attempt("student and teacher", missing):
            comparison = compared(bundle, next(iter(models.values())), budget)
    known = {} if comparison is None else {"likeness": comparison.found.plain()}
    relabel(bundle, quality=quality, **known).save(out / "bundle")
    with attempt("the preview", missing):
        write_preview(out, bundle, 64 if budget.left > 0 else 16)
    write_json(out / "figures.json", plain(results))
    write_text(
        out / "report.html",
        results_page(results, f"Run {name}", [command], "", missing, real_rows(data, bundle, missing), comparison),
    )
    return quality.get(name, {})


def report_demo(
    out: Path, bundles: Mapping[str, Bundle], *, n: int, counts: Sequence[int] = COUNTS, status: Status = silent
) -> dict[str, Any]:
    """Write the report of the demo and one of each run; returns the scores by model and number of evaluations."""
    missing: list[str] = []
    data = read_data(bundles, missing, status)
    results = measure(bundles, {name: out / name for name in bundles}, n, counts, status=status, real=data)
    real = real_rows(data, next(iter(bundles.values())), missing)
    first = [shlex.join(["beeline", "demo", "--out", str(out)])]
    quality: dict[str, Any] = {}
    for name, bundle in bundles.items():
        quality[name] = own_scores(results[name])
        relabel(bundle, quality=dict(quality)).save(out / name / "bundle")
        write_preview(out / name, bundle)
        write_json(out / name / "figures.json", plain({name: results[name]}))
        write_text(
            out / name / "report.html", results_page({name: results[name]}, f"Run {name}", first, "", missing, real)
        )
    lines = [
        *first,
        shlex.join(["beeline", "compare", *(str(out / name) for name in bundles)]),
        f"beeline sample {shlex.quote(str(out / list(bundles)[-1]))} -n 64 --condition label=3 --out threes.png",
    ]
    lead = "Handwritten digits, 8 by 8 pixels: a flow is trained, straightened and distilled to one step."
    write_text(
        out / "report.html", results_page(results, "From noise to digits in one step", lines, lead, missing, real)
    )
    return plain(results)


def read_data(models: Mapping[str, Bundle], missing: list[str], status: Status) -> RealData | None:
    """The data of the first model; None, with a sentence in ``missing``, where they cannot be read."""
    status("reading the data")
    found: RealData | None = None
    with attempt("the scores", missing):
        found = RealData.of(data_of(next(iter(models.values()))))
    return found


def measure(
    models: Mapping[str, Bundle],
    runs: Mapping[str, Path],
    n: int,
    counts: Sequence[int] = COUNTS,
    budget: Budget | None = None,
    status: Status = silent,
    *,
    real: RealData | None = None,
) -> dict[str, ModelResults]:
    """Measure models on the same data, noise and conditions.

    The last model is that of the run itself; it is measured first, because time may run out.
    """
    results: dict[str, ModelResults] = {}
    for name, bundle in reversed(list(models.items())):
        file = runs[name] / "log.jsonl" if name in runs else None
        log = read_log(file) if file is not None and file.is_file() else []
        rng = Rng(0).fork("report")
        result = measure_model(name, bundle, log, real, n, rng, counts, budget, status, exact=bool(results))
        n = n if result.own is None else int(result.own.provenance["n"])  # scores compare at equal sample sizes
        results[name] = result
    return {name: results[name] for name in models}


def results_page(
    results: Results,
    title: str,
    commands: list[str],
    lead: str = "",
    missing: Sequence[str] = (),
    real: torch.Tensor | None = None,
    comparison: Comparison | None = None,
) -> str:
    """The report as HTML: samples, quality against cost, details.

    ``real`` are encoded held-out data, shown beside the samples; ``comparison`` is that of a student with its teacher,
    which is the first model.  A section that fails is left out, and the section
    "Not measured" says why.
    """
    order, gone = list(results), [*missing, *(text for result in results.values() for text in result.missing)]
    parts: list[Section] = []
    scored = {k: v for k, v in results.items() if v.own is not None}

    def add(part: str, build: Callable[[], Iterable[Section]]) -> None:
        with attempt(part, gone):
            parts.extend(build())

    add("samples", lambda: samples(results, order, real))
    if comparison is not None:
        add("student and teacher", lambda: [student(results, order, comparison)])
    add("tables", lambda: table_sections(results))
    if scored:
        add("quality", lambda: quality(scored, order))
        add("scores", lambda: [sections.scores({k: own(v) for k, v in scored.items()}, order=order)])
    compared = {k: own(v) for k, v in scored.items() if own(v).shown}
    if compared:
        add("memorisation", lambda: [sections.memorisation(compared, order)])
    add("trajectories", lambda: trajectories(results, order))
    add("losses", lambda: losses(results, order))
    add("lineage", lambda: [sections.lineage([origin(k, v.bundle) for k, v in results.items()])])
    if gone:
        parts.append(sections.not_measured(dict.fromkeys(gone)))
    parts += [sections.commands(commands), sections.introduction()]
    return page(parts, title, lead, facts=facts(results))


def facts(results: Results) -> dict[str, str]:
    """Key figures of the last model, for the head of the page."""
    result = list(results.values())[-1]
    found: dict[str, str] = {}
    if result.own is not None:
        score = result.own.scores[0]
        found[f"{score.name} ({score.better} is better)"] = figure(score.value)
        if score.baseline is not None:
            found["real vs. real"] = figure(score.baseline)
        found["evaluations per sample"] = f"{result.own.cost.evaluations:g}"
    if result.log:
        found["training steps"] = f"{result.log[-1]['step']:,}"
    found["weights of the network"] = f"{sum(p.numel() for p in result.bundle.flow.field.parameters()):,}"
    return found


def real_rows(data: RealData | None, bundle: Bundle, missing: list[str]) -> torch.Tensor | None:
    """Some held-out data as tensors, for the page."""
    if data is None or bundle.modality.preview_type not in ("image/png",):
        return None
    found: torch.Tensor | None = None
    with attempt("real data beside the samples", missing):
        found = bundle.modality.encode(data.held).x1[:400]
    return found


# ----------------------------------------------------------------------------------------------------------- sections


def samples(results: Results, order: list[str], real: torch.Tensor | None) -> Iterable[Section]:
    shown = {k: grid(v) for k, v in results.items() if v.samples}
    beside: Any = None
    if real is not None and shown:
        first = next(iter(results.values()))
        n = len(next(iter(first.samples.values())))
        beside = grid(replace(first, samples={0.0: real[:n]}))[0.0]
    counts = {k: float(v.own.cost.evaluations) for k, v in results.items() if v.own is not None}
    chosen = {k: count for k, count in counts.items() if count in shown.get(k, {})}
    yield sections.samples(shown, real=beside, columns=5, order=order, limits=limits(results), own=chosen)


def student(results: Results, order: list[str], comparison: Comparison) -> Section:
    """A student beside its teacher; data that are neither pictures nor points in the plane are not shown."""
    (teacher, first), (name, _) = list(results.items())[0], list(results.items())[-1]
    shape = tuple(first.bundle.modality.shape)
    pictures = len(shape) == 3 and first.bundle.modality.levels is not None
    many = {teacher: comparison.teacher, name: comparison.student}
    shown = {k: x[: 20 if pictures else 300] for k, x in many.items()} if pictures or shape == (2,) else {}
    return sections.student(shown, comparison.found, limits=None if pictures else plotted(many.values()), order=order)


def grid(result: ModelResults) -> dict[float, Any]:
    """Samples for the page: images and points in the plane as tensors, other data as previews of their modality."""
    modality = result.bundle.modality
    pictures = len(modality.shape) == 3 and modality.levels is not None  # encoded in [-1, 1]
    if pictures or modality.shape == (2,):
        return dict(result.samples)
    html = modality.preview_type == "text/html"
    counts = {max(result.samples)} if html else set(result.samples)  # tables are wide
    shown = {count: modality.preview(modality.decode(x)) for count, x in result.samples.items() if count in counts}
    return {count: bytes(preview).decode() if html else preview for count, preview in shown.items()}


def limits(results: Results) -> tuple[float, float] | None:
    """The same axis limits for all scatter plots; None if there are none."""
    return plotted(x for r in results.values() for x in r.samples.values())


def plotted(samples: Iterable[torch.Tensor]) -> tuple[float, float] | None:
    """The axis limits for points in the plane; None if there are none."""
    points = [x.flatten() for x in samples if x.ndim == 2 and x.shape[1] == 2]
    if not points:
        return None
    low, high = torch.cat(points).quantile(torch.tensor([0.002, 0.998])).tolist()
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def quality(results: Results, order: list[str]) -> Iterable[Section]:
    """The first score of the first model, for all models and numbers of evaluations."""
    score = own(next(iter(results.values()))).scores[0]
    curves = {
        name: [(count, report[score.name].value, report[score.name].interval) for count, report in r.by_count.items()]
        for name, r in results.items()
    }
    if max(map(len, curves.values())) > 1:  # else there is no curve, and the scores say it all
        yield sections.quality(curves, score.name, better=score.better, floor=score.baseline, order=order)


def trajectories(results: Results, order: list[str]) -> Iterable[Section]:
    curved = [k for k, v in results.items() if v.trajectories is not None and has_trajectories(v.bundle)]
    if curved:
        found = {k: straightness(results[k]) for k in curved}
        states = {k: v.trajectories for k, v in results.items() if v.trajectories is not None}
        known = {k: value for k, value in found.items() if value is not None}
        yield sections.trajectories(states, straightness=known, order=order)


def straightness(result: ModelResults) -> float | None:
    """The relative straightness of a model; None where it was not measured."""
    scores = result.own.scores if result.own is not None else ()
    return next((s.value for s in scores if s.name == "relative straightness"), None)


def losses(results: Results, order: list[str]) -> Iterable[Section]:
    """The held-out loss by time of the first model that has one, and the training curves of all models."""
    for name, result in results.items():
        held = [entry["heldout"] for entry in result.log if "heldout" in entry]
        if held:
            last = held[-1]
            best = last.get("ema", last["raw"])
            baselines = {k: best[k] for k in ("mean", "posterior")}
            yield sections.loss_by_time({name: best["by_bin"]}, **baselines, order=order)
            break
    curves = {k: [(e["step"], e["loss"]) for e in v.log if "loss" in e] for k, v in results.items()}
    curves = {k: v for k, v in curves.items() if v}
    if curves:
        yield sections.training(curves, order=order)


def origin(name: str, bundle: Bundle) -> dict[str, Any]:
    """The lineage of one model."""
    line = bundle.lineage
    return {
        "name": name,
        "made_by": line.get("made_by"),
        "data": line.get("data", {}).get("is"),
        "teacher": line.get("parent"),
        "teacher_weights": (line.get("parent_weights") or "")[:12] or None,
        "weights": bundle.weights[:12] or None,
        "network": f"{sum(p.numel() for p in bundle.flow.field.parameters()):,} weights",
        "seed": line.get("seed"),
    }


# -------------------------------------------------------------------------------------------------------------- files


def own(result: ModelResults) -> Report:
    """The scores of a model by its own sampler."""
    assert result.own is not None
    return result.own


def own_scores(result: ModelResults) -> dict[str, float]:
    """The values of the scores by name."""
    return {score.name: score.value for score in own(result).scores}


def write_preview(out: Path, bundle: Bundle, n: int = 64) -> None:
    """Write ``n`` samples of the bundle's own sampler, or as many as a preview shows, to ``samples/``."""
    n, cond = max(n, bundle.modality.previewed), None
    if "label" in bundle.modality.conditions:
        cond = [i % bundle.modality.conditions["label"]["classes"] for i in range(n)]
    preview = bundle.modality.preview(bundle.sample(n, cond=cond))
    ending = ".html" if bundle.modality.preview_type == "text/html" else ".png"
    write_bytes(out / "samples" / f"final{ending}", preview)


def plain(results: Results) -> dict[str, Any]:
    """The scores as JSON data: by model and number of evaluations."""
    return {name: {f"{c:g}": r.as_dict() for c, r in result.by_count.items()} for name, result in results.items()}
