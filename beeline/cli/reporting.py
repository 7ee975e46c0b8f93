"""Reports of a run and of the demo: what was measured, put on one page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beeline.cli import report
from beeline.cli.measuring import COUNTS, Budget, Look, Real, attempt, data_of, labels_of, look, one_step
from beeline.cli.table_sections import table_sections
from beeline.core.errors import BeelineError
from beeline.core.files import write_bytes, write_json, write_text
from beeline.core.rng import Rng
from beeline.evaluation.scores import Report
from beeline.runs.bundle import Bundle, load, relabel
from beeline.solvers.process import is_ode
from beeline.training.logs.run_log import read_log

SAMPLES = 500  # drawn for the figures of a run

Said = Callable[[str], None]  # is told what is done next


def report_run(
    out: Path, bundle: Bundle, *, command: str, n: int = SAMPLES, batch_size: int = 1, said: Said = lambda _: None
) -> None:
    """Write the report of one run, beside its teacher's figures when it has one; the bundle learns its quality.

    It takes a tenth of the time of the training, or a few seconds where that was shorter; ``batch_size`` is that
    of the training.
    """
    models, places = {}, [str(out)]
    parent = bundle.lineage.get("parent")
    if parent is not None:
        try:
            models, places = {"": load(parent)}, [str(parent), str(out)]
        except BeelineError:
            pass  # the teacher was moved or removed: the student's own report stands without it
    names = labels_of(places)
    models = dict(zip(names, [*models.values(), bundle], strict=True))
    name, log = names[-1], out / "log.jsonl"
    budget = Budget.of_log(read_log(log) if log.is_file() else [], batch_size)
    looks = gather(models, {name: out}, n, budget=budget, said=said)
    quality = {k: own_scores(seen) for k, seen in looks.items() if seen.own is not None}
    relabel(bundle, quality=quality).save(out / "bundle")
    missing: list[str] = []
    with attempt("the preview", missing):
        preview(out, bundle)
    write_json(out / "figures.json", plain(looks))
    write_text(out / "report.html", page(looks, f"Run {name}", [command], missing=missing))


def report_demo(
    out: Path, bundles: Mapping[str, Bundle], *, n: int, counts: Sequence[int] = COUNTS, said: Said = lambda _: None
) -> dict[str, Any]:
    """Write the report of the whole road and one of each run; gives the figures by model and evaluations."""
    looks = gather(bundles, {name: out / name for name in bundles}, n, counts, said=said)
    first = [shlex.join(["beeline", "demo", "--out", str(out)])]
    quality: dict[str, Any] = {}
    for name, bundle in bundles.items():
        quality[name] = own_scores(looks[name])
        relabel(bundle, quality=dict(quality)).save(out / name / "bundle")
        preview(out / name, bundle)
        write_json(out / name / "figures.json", plain({name: looks[name]}))
        write_text(out / name / "report.html", page({name: looks[name]}, f"Run {name}", first))
    road = [
        *first,
        shlex.join(["beeline", "compare", *(str(out / name) for name in bundles)]),
        f"beeline sample {shlex.quote(str(out / list(bundles)[-1]))} -n 64 --condition label=3 --out threes.png",
    ]
    lead = "Handwritten digits, 8 by 8 pixels: a flow trained, straightened and distilled to one step."
    write_text(out / "report.html", page(looks, "From noise to digits in one step", road, lead))
    return plain(looks)


def gather(
    models: Mapping[str, Bundle],
    runs: Mapping[str, Path],
    n: int,
    counts: Sequence[int] = COUNTS,
    budget: Budget | None = None,
    said: Said = lambda _: None,
) -> dict[str, Look]:
    """Everything that is measured and drawn, model by model, on the same data, noise and conditions.

    The model of the run itself, the last one, comes first where time is short.
    """
    real: Real | None = None
    missing: list[str] = []
    said("reading the data")
    with attempt("the figures", missing):
        real = Real.of(data_of(next(iter(models.values()))))
    looks: dict[str, Look] = {}
    for name, bundle in reversed(list(models.items())):
        file = runs[name] / "log.jsonl" if name in runs else None
        log = read_log(file) if file is not None and file.is_file() else []
        made = look(name, bundle, log, real, n, Rng(0).fork("report"), counts, budget, said, exact=bool(looks))
        n = n if made.own is None else int(made.own.provenance["n"])  # figures compare at one number of samples
        looks[name] = replace(made, missing=(*missing, *made.missing))
    return {name: looks[name] for name in models}


def page(
    looks: Mapping[str, Look], title: str, commands: list[str], lead: str = "", missing: Sequence[str] = ()
) -> str:
    """The whole report as HTML; a part that cannot be made is left out, and the last section says why."""
    order, gone = list(looks), [*missing, *(text for seen in looks.values() for text in seen.missing)]
    sections = [report.introduction()]

    def add(what: str, make: Callable[[], Iterable[report.Section]]) -> None:
        with attempt(what, gone):
            sections.extend(make())

    def drawn() -> Iterable[report.Section]:
        found = {k: grid(v) for k, v in looks.items() if v.samples}
        yield report.samples(found, columns=5, order=order, limits=limits(looks))

    def walked() -> Iterable[report.Section]:
        bent = {k: v for k, v in looks.items() if is_bent(v)}
        straight = {k: value(v.own, "relative straightness") for k, v in bent.items() if v.own is not None}
        found = {k: s for k, s in straight.items() if s is not None}
        if bent:
            ways = {k: v.walks for k, v in looks.items() if v.walks is not None}
            yield report.trajectories(ways, straightness=found, order=order)

    scored = {k: v for k, v in looks.items() if v.own is not None}

    def quality() -> Iterable[report.Section]:
        name, better, floor = headline(scored)
        curves = {k: [point(c, r, name) for c, r in v.by_count.items()] for k, v in scored.items()}
        yield report.quality(curves, name, better=better, floor=floor, order=order)

    add("samples", drawn)
    add("tables", lambda: table_sections(looks))
    if scored:
        add("quality", quality)
    add("trajectories", walked)
    add("losses", lambda: losses(looks, order))
    if scored:
        add("figures", lambda: [report.figures({k: own(v) for k, v in scored.items()}, order=order)])
    add("lineage", lambda: [report.lineage([origin(k, v.bundle) for k, v in looks.items()])])
    if gone:
        sections.append(report.absent(list(dict.fromkeys(gone))))
    sections.append(report.commands(commands))
    return report.report_html(sections, title, lead)


def is_bent(seen: Look) -> bool:
    """Whether the way of a model from noise to data says something."""
    continuous = seen.bundle.modality.continuous
    return seen.walks is not None and continuous and is_ode(seen.bundle.flow) and not one_step(seen.bundle)


def own(seen: Look) -> Report:
    """The figures of a model by its own sampler."""
    assert seen.own is not None
    return seen.own


def own_scores(seen: Look) -> dict[str, float]:
    return {score.name: score.value for score in own(seen).scores}


def headline(looks: Mapping[str, Look]) -> tuple[str, str, float | None]:
    """The score that the curves show: the first one measured."""
    score = own(next(iter(looks.values()))).scores[0]
    return score.name, score.better, score.floor


def point(count: float, measured: Report, name: str) -> tuple[float, float, tuple[float, float] | None]:
    score = measured[name]
    return count, score.value, score.interval


def value(measured: Report, name: str) -> float | None:
    return next((s.value for s in measured.scores if s.name == name), None)


def grid(seen: Look) -> dict[float, Any]:
    """Samples as the page shows them: images and points in the plane as numbers, the rest as its own preview."""
    modality = seen.bundle.modality
    if len(modality.shape) == 3 or modality.shape == (2,):
        return dict(seen.samples)
    html = modality.preview_type == "text/html"
    kept = {min(seen.samples), max(seen.samples)} if html else set(seen.samples)  # tables are wide: first and last
    shown = {count: modality.preview(modality.decode(x)) for count, x in seen.samples.items() if count in kept}
    return {count: bytes(made).decode() if html else made for count, made in shown.items()}


def limits(looks: Mapping[str, Look]) -> tuple[float, float] | None:
    """One frame for all clouds of points."""
    every = [x.flatten() for seen in looks.values() for x in seen.samples.values() if x.ndim == 2 and x.shape[1] == 2]
    if not every:
        return None
    low, high = torch.cat(every).quantile(torch.tensor([0.002, 0.998])).tolist()
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def losses(looks: Mapping[str, Look], order: list[str]) -> list[report.Section]:
    """Held-out loss by time of the first model that has one, and all training curves."""
    sections = []
    for name, seen in looks.items():
        held = [entry["heldout"] for entry in seen.log if "heldout" in entry]
        if held:
            last = held[-1]
            best = last.get("ema", last["raw"])
            baselines = {k: best[k] for k in ("mean", "posterior")}
            sections.append(report.loss_by_time({name: best["by_bin"]}, **baselines, order=order))
            break
    curves = {k: [(e["step"], e["loss"]) for e in v.log if "loss" in e] for k, v in looks.items()}
    curves = {k: v for k, v in curves.items() if v}
    return [*sections, report.training(curves, order=order)] if curves else sections


def origin(name: str, bundle: Bundle) -> dict[str, Any]:
    """One link of the lineage."""
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


def preview(out: Path, bundle: Bundle) -> None:
    """What the run draws, with its own sampler, in ``samples/``."""
    cond = None
    if "label" in bundle.modality.conditions:
        cond = [i % bundle.modality.conditions["label"]["classes"] for i in range(64)]
    made = bundle.modality.preview(bundle.sample(64, cond=cond))
    ending = ".html" if bundle.modality.preview_type == "text/html" else ".png"
    write_bytes(out / "samples" / f"final{ending}", made)


def plain(looks: Mapping[str, Look]) -> dict[str, Any]:
    """The figures as JSON data: by model and number of evaluations."""
    return {name: {f"{c:g}": r.as_dict() for c, r in seen.by_count.items()} for name, seen in looks.items()}
