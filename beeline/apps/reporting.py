"""Reports of a run and of the demo: what was measured, put on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from beeline.apps import report
from beeline.apps.measuring import COUNTS, Look, data_of, look, one_step
from beeline.apps.tablesections import table_sections
from beeline.bundle import Bundle, load, relabel
from beeline.core.rng import Rng
from beeline.core.types import BeelineError
from beeline.files import write_bytes, write_json, write_text
from beeline.journal import read_log
from beeline.scores import Report

SAMPLES = 500  # drawn for the figures of a run


def report_run(out: Path, bundle: Bundle, *, command: str, n: int = SAMPLES) -> None:
    """Write the report of one run, beside its teacher's figures when it has one; the bundle learns its quality."""
    models = {out.name: bundle}
    parent = bundle.lineage.get("parent")
    if parent is not None:
        try:
            models = {Path(parent).name: load(parent)} | models
        except BeelineError:
            pass  # the teacher was moved or removed: the student's own report stands without it
    looks = gather(models, {out.name: out}, n)
    relabel(bundle, quality={name: own_scores(seen) for name, seen in looks.items()}).save(out / "bundle")
    preview(out, bundle)
    write_json(out / "figures.json", plain(looks))
    write_text(out / "report.html", page(looks, f"Run {out.name}", [command]))


def report_demo(out: Path, bundles: Mapping[str, Bundle], *, n: int, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """Write the report of the whole road and one of each run; gives the figures by model and evaluations."""
    looks = gather(bundles, {name: out / name for name in bundles}, n, counts)
    first = [f"beeline demo --out {out}"]
    quality: dict[str, Any] = {}
    for name, bundle in bundles.items():
        quality[name] = own_scores(looks[name])
        relabel(bundle, quality=dict(quality)).save(out / name / "bundle")
        preview(out / name, bundle)
        write_json(out / name / "figures.json", plain({name: looks[name]}))
        write_text(out / name / "report.html", page({name: looks[name]}, f"Run {name}", first))
    road = [
        *first,
        f"beeline compare {' '.join(str(out / name) for name in bundles)}",
        f"beeline sample {out / list(bundles)[-1]} -n 64 --cond label=3 --out threes.png",
    ]
    lead = "Handwritten digits, 8 by 8 pixels: a flow trained, straightened and distilled to one step."
    write_text(out / "report.html", page(looks, "From noise to digits in one step", road, lead))
    return plain(looks)


def gather(
    models: Mapping[str, Bundle], runs: Mapping[str, Path], n: int, counts: Sequence[int] = COUNTS
) -> dict[str, Look]:
    """Everything that is measured and drawn, model by model, on the same data, noise and conditions."""
    source = data_of(next(iter(models.values())))
    looks = {}
    for name, bundle in models.items():
        log = read_log(runs[name] / "log.jsonl") if name in runs else []
        looks[name] = look(name, bundle, log, source, n, Rng(0).fork("report"), counts)
    return looks


def page(looks: Mapping[str, Look], title: str, commands: list[str], lead: str = "") -> str:
    """The whole report as HTML."""
    order = list(looks)
    sections = [report.introduction()]
    sections.append(
        report.samples({k: grid(v) for k, v in looks.items()}, columns=5, order=order, limits=limits(looks))
    )
    sections += table_sections(looks)
    name, better, floor = headline(looks)
    curves = {k: [point(c, r, name) for c, r in v.by_count.items()] for k, v in looks.items()}
    sections.append(report.quality(curves, name, better=better, floor=floor, order=order))
    smooth = {k: v for k, v in looks.items() if getattr(v.bundle.modality, "continuous", True)}
    bent = {k: v for k, v in smooth.items() if v.bundle.flow.ode and not one_step(v.bundle)}
    if bent:
        straight = {k: value(own(v), "relative straightness") for k, v in bent.items()}
        found = {k: s for k, s in straight.items() if s is not None}
        sections.append(report.trajectories({k: v.walks for k, v in looks.items()}, straightness=found, order=order))
    sections += losses(looks, order)
    sections.append(report.figures({k: own(v) for k, v in looks.items()}, order=order))
    sections.append(report.lineage([origin(k, v.bundle) for k, v in looks.items()]))
    sections.append(report.commands(commands))
    return report.report_html(sections, title, lead)


def own(seen: Look) -> Report:
    """The figures of a model at the evaluation count that it is meant for: the largest that was measured."""
    return seen.by_count[max(seen.by_count)]


def own_scores(seen: Look) -> dict[str, float]:
    return {score.name: score.value for score in own(seen).scores}


def headline(looks: Mapping[str, Look]) -> tuple[str, str, float | None]:
    """The score that the curves show: the first one measured."""
    score = own(next(iter(looks.values()))).scores[0]
    return score.name, score.better, score.floor


def point(count: int, measured: Report, name: str) -> tuple[float, float, tuple[float, float] | None]:
    score = measured[name]
    return count, score.value, score.interval


def value(measured: Report, name: str) -> float | None:
    return next((s.value for s in measured.scores if s.name == name), None)


def grid(seen: Look) -> dict[int, Any]:
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
    return {name: {str(c): r.as_dict() for c, r in seen.by_count.items()} for name, seen in looks.items()}
