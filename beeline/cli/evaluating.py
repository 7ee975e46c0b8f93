"""Evaluation and comparison of bundles at the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beeline.cli.commands import sampler_of
from beeline.cli.console import cell, console, errors, table
from beeline.cli.report import sections
from beeline.cli.report.page import page
from beeline.core.errors import require
from beeline.core.files import write_text
from beeline.core.modes import AUTO, Device
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.arrays import array_headers
from beeline.data.image_files import ImageFile
from beeline.data.images import Images
from beeline.evaluation.scores import Report, compare, figure, span
from beeline.evaluation.statistics import ENDINGS, Statistics, known
from beeline.runs.bundle import Bundle, load
from beeline.runs.features.names import features_named
from beeline.runs.reference_data import comparable, data_set
from beeline.runs.scoring import SAMPLES, Comparison, RealData, labels_of, score, score_by_features, statistics_of


def evaluate(
    names: Sequence[str],
    data: str | None,
    n: int | None,
    seed: int,
    pairs: Sequence[str],
    as_json: bool,
    device: Device = AUTO,
    *,
    by: FeatureOptions | None = None,
    out: Path | None = None,
) -> None:
    """Evaluate bundles on the same data and noise, each with its own sampler and the settings of ``pairs``.

    With ``by`` the samples are compared in a feature space; ``out`` is the file of a report as HTML.
    """
    require(n is None or n >= 1, f"-n is {n}, which is no number of samples; give 1 or more, or leave it out")
    by = by or FeatureOptions()
    by.check()
    bundles = dict(zip(labels_of(list(names)), (load(name, device=device) for name in names), strict=True))
    first = next(iter(bundles.values()))
    source = data_set(data, first)
    for label, bundle in bundles.items():
        comparable(source, bundle, label)
    real = RealData.of(source)
    shapes = {label: tuple(bundle.modality.shape) for label, bundle in bundles.items()}
    given = tuple(real.encoded(first.modality)[1].x1.shape[1:])
    for label, shape in shapes.items():
        require(
            shape == given,
            f"{label} generates data of shape {shape}, but the data set has shape {given}, so they cannot be compared; "
            "give data of the same shape, or leave this bundle out",
        )
    comparison = by.comparison(first, real, device)
    if by.save is not None and comparison is not None:
        statistics_of(real, first, comparison).save(by.save)
    reports = {}
    for label, bundle in bundles.items():
        sampler = sampler_of(bundle, pairs)
        if comparison is None:
            reports[label] = score(bundle, real, n or SAMPLES, Rng(seed), sampler=sampler, name=label)
        else:
            reports[label] = score_by_features(
                bundle, real, comparison, n, Rng(seed), sampler=sampler, name=label, device=device
            )
    if out is not None:
        write_text(out, report_page(reports))
    if as_json:
        print(json.dumps([report.as_dict() for report in reports.values()], indent=2))
        return
    if len(reports) > 1:
        console.print(side_by_side(compare(reports)))
    for report in reports.values():
        if len(reports) == 1:
            console.print(report.table())
        if "not measured" in report.details:
            errors.print(f"not measured: {report.details['not measured']}", markup=False)
    if out is not None:
        console.print(f"report  {out}", markup=False)


TRAIN, HELD_OUT = "train", "held-out"


@dataclass(frozen=True)
class FeatureOptions:
    """What the command line says of the feature space."""

    features: str | None = None
    weights: str | None = None
    reference: str | None = None  # TRAIN, HELD_OUT, pictures, or a file of statistics
    save: Path | None = None  # file for the statistics of the reference

    def check(self) -> None:
        """Refuse options that cannot work, before anything is loaded."""
        if self.features is None:
            given = {"--weights": self.weights, "--reference": self.reference, "--save-reference": self.save}
            used = [key for key, value in given.items() if value is not None]
            require(
                not used,
                f"{', '.join(used)} was given without --features, to which it belongs; add --features inception, or "
                "leave it out",
            )
        if self.save is not None:
            known(self.save)

    def comparison(self, bundle: Bundle, real: RealData, device: Device) -> Comparison | None:
        """The comparison that the options mean; None without features."""
        if self.features is None:
            return None
        features = features_named(self.features, bundle.modality, weights=self.weights or "", device=device)
        own = {TRAIN: True, HELD_OUT: False}
        if self.reference is None or self.reference in own:
            train = not features.learned if self.reference is None else own[self.reference]
            part = "training part" if train else "held-out part"
            return Comparison(features, None, train, real.name.replace("held-out part", part))
        return Comparison(features, reference_of(self.reference, bundle), True, self.reference)


def reference_of(text: str, bundle: Bundle) -> Batch | Statistics:
    """The data or the statistics that a path given as --reference holds."""
    path = Path(text)
    require(
        path.exists(),
        f"--reference {text} is neither {TRAIN}, {HELD_OUT} nor a file or directory; give one of these",
    )
    if path.suffix in ENDINGS and {"mu", "sigma"} & keys_of(path):
        return Statistics.load(path)
    require(
        ".png" in bundle.modality.formats,
        f"--reference {text} was given for data of {type(bundle.modality).__name__}, but only pictures are read from "
        f"there; give a file as DATA, or --reference {TRAIN} or {HELD_OUT}",
    )
    images = ImageFile(text, labels=False).read()[0]
    made: Batch = bundle.modality.encode(Images(images.pixels))
    return made


def keys_of(path: Path) -> set[str]:
    """The names of the arrays in a file."""
    return {"mu"} if path.suffix == ENDINGS[1] else set(array_headers(path))


def report_page(reports: Mapping[str, Report]) -> str:
    """The scores, and the samples beside their nearest training data, as HTML."""
    parts = [sections.scores(reports)]
    if any(report.shown for report in reports.values()):
        parts.append(sections.memorisation(reports))
    missing = [report.details["not measured"] for report in reports.values() if "not measured" in report.details]
    if missing:
        parts.append(sections.not_measured(dict.fromkeys(missing)))
    return page(parts, "Evaluation")


def side_by_side(rows: Sequence[dict[str, Any]]) -> Any:
    """A table with one row per score and one column per model."""
    lines = []
    for name in dict.fromkeys(key for row in rows for key in row if key != "model"):
        line, floor = {"score": name}, ""
        for row in rows:
            found = row.get(name)
            if isinstance(found, dict):
                line[row["model"]] = f"{figure(found['value'])}  ({span(found['interval'])})"
                floor = figure(found["baseline"])
                line["score"] = f"{name} {'↓' if found['better'] == 'lower' else '↑'}"
            else:
                line[row["model"]] = cell(found)
        lines.append({**line, "real vs. real": floor})
    return table(lines)
