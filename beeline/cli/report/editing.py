"""The page of an edit: data before and after, what changed, and where it might."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from beeline.cli.report import plots
from beeline.cli.report.page import Section, page, section
from beeline.core.errors import require
from beeline.core.files import write_text
from beeline.data.images import Image
from beeline.data.latents.modality import LatentImage
from beeline.data.tables.table import Table
from beeline.runs.editing.edit import Edited

SHOWN = 12  # data on the page

Edits = Sequence[tuple[Tensor, Edited]]
"""Encoded data [N,*S] before an edit, and the edit, of every file."""


def write_edits(file: Path, modality: Any, edits: Edits, title: str) -> str:
    """Write the page of edits; returns a sentence where it could not be written, for it fails no edit."""
    try:
        write_text(file, edits_page(modality, edits, title))
    except Exception as error:  # the data are written, and a page is no reason to fail
        return f"the page could not be written: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def edits_page(modality: Any, edits: Edits, title: str) -> str:
    """The page as self-contained HTML; raises ValueError without edits."""
    require(len(edits) > 0, "there are no edits to show; give at least one with its data")
    before = torch.cat([x for x, _ in edits]).cpu()
    after = torch.cat([found.outcome.x for _, found in edits])
    regions = [found.outcome.region for _, found in edits]
    known = [r for r in regions if r is not None]
    region = torch.cat(known) if len(known) == len(regions) else None
    facts = {key: f"{value:.4g}" for key, value in edits[0][1].summary.items()} if len(edits) == 1 else {}
    return page([shown(modality, before, after, region), _distances(edits)], title, facts=facts)


@singledispatch
def shown(modality: Any, before: Tensor, after: Tensor, region: Tensor | None) -> Section:
    """Data before and after; by default a line for each of the first numbers."""
    figure = Figure(figsize=(7.0, 1.3 * min(len(before), SHOWN)))
    for i in range(min(len(before), SHOWN)):
        axes = figure.add_subplot(min(len(before), SHOWN), 1, i + 1)
        axes.plot(before[i].flatten()[:1000], color="0.6", label="before")
        axes.plot(after[i].flatten()[:1000], color="tab:orange", label="after")
        axes.tick_params(labelsize=6)
    figure.axes[0].legend(fontsize=6)
    return _of_figure(figure, "grey is before, orange is after, in encoded units")


@shown.register(Image)
def _pictures(modality: Image, before: Tensor, after: Tensor, region: Tensor | None) -> Section:
    change = ((after - before).abs() - 1).clamp(-1, 1)  # 0 is black, half of the range is white
    rows = {"before": before, "after": after, "difference": change}
    if region is not None:
        rows["region"] = region[:, : before.shape[1]] * 2 - 1
    pictures = {name: _strip(x[:SHOWN], name) for name, x in rows.items()}
    return section("Before and after", "pictures", order=list(pictures), pictures=pictures)


@shown.register(LatentImage)
def _latents(modality: LatentImage, before: Tensor, after: Tensor, region: Tensor | None) -> Section:
    image = modality.image
    pixels = [torch.as_tensor(modality.decode(x[:SHOWN]).pixels) for x in (before, after)]
    first, last = (p.permute(0, 3, 1, 2).float() / 127.5 - 1 for p in pixels)
    return _pictures(image, first, last, None)


@shown.register(Table)
def _rows(modality: Table, before: Tensor, after: Tensor, region: Tensor | None) -> Section:
    old, new = modality.decode(before[:SHOWN]), modality.decode(after[:SHOWN])
    rows = [
        {"row": str(i + 1)}
        | {str(name): _change(old[name].iloc[i], new[name].iloc[i]) for name in modality.columns.names}
        for i in range(len(old))
    ]
    return section("Before and after", "rows", rows=rows)


def _change(old: Any, new: Any) -> str:
    """A cell that is equal, or its two values."""
    texts = [f"{v:.5g}" if isinstance(v, float) else str(v) for v in (old, new)]
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)


def _strip(x: Tensor, name: str) -> Mapping[str, Any]:
    data = plots.tiles(x, len(x))
    return {"svg": "", "html": "", "about": name, "png": base64.b64encode(data).decode()}


def _of_figure(figure: Figure, about: str) -> Section:
    figure.tight_layout()
    svg: Markup = plots.svg(figure, "edits")
    return section("Before and after", "figures", figures=[{"svg": svg, "id": "edits", "label": about}])


def _distances(edits: Edits) -> Section:
    """The distances of every datum."""
    rows: list[dict[str, Any]] = []
    for _, found in edits:
        for change, kept in zip(found.outcome.change.tolist(), found.outcome.kept.tolist(), strict=True):
            row = {"datum": str(len(rows) + 1), "change": change / found.span}
            rows.append(row if found.outcome.region is None else {**row, "outside of the region": kept / found.span})
    return section("Distances", "rows", rows=rows[:200])
