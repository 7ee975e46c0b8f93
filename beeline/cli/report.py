"""The report: one self-contained page that shows a stranger what a rectified flow is and how good this one is."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from beeline.cli import plots
from beeline.cli.style import sheet
from beeline.core.errors import require
from beeline.evaluation.scores import Report, Score, compare, figure

Cell = Tensor | bytes | str
"""Samples: images [N,C,H,W] in [-1, 1], points [N,D], a picture as PNG bytes, or HTML."""


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, prose, and what it is about.  ``prose`` and ``body`` are HTML."""

    title: str
    body: str
    prose: str = ""

    @property
    def anchor(self) -> str:
        return _slug(self.title)


def introduction() -> Section:
    """What a rectified flow is, in four paragraphs."""
    return Section(
        "What is shown here",
        "<p>A <b>flow</b> turns noise into data by moving it. It is a velocity field <i>v(x, t)</i>: at time "
        "<i>t</i> = 0 a point <i>x</i> is pure noise, then it follows <i>dx/dt = v(x, t)</i>, and at <i>t</i> = 1 it "
        "is a datum, such as a picture. A network learns the field: mix noise and a datum in proportion "
        "<i>1 − t</i> to <i>t</i>, and ask it for the direction from the one to the other. It can only answer with "
        "the average over all pairs that pass through the same point, so the paths that the flow follows in the end "
        "are <b>curved</b>.</p>"
        "<p>Following a curve takes many small steps, and every step asks the network again: one <b>evaluation</b>. "
        "Taken in one big step, a curve ends in the wrong place.</p>"
        "<p><b>Straightening</b> (reflow) trains again, on pairs of a noise and the datum that the first flow made of "
        "it. These pairs do not cross at random any more, and so the new paths are nearly straight: few steps are "
        "enough. <b>Distilling</b> to one step goes on from there: it learns the whole jump at once.</p>",
    )


def samples(
    grids: Mapping[str, Mapping[float, Cell]],
    *,
    real: Cell | None = None,
    columns: int = 4,
    order: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
) -> Section:
    """Samples of every model at several numbers of evaluations, from the same noise, side by side."""
    require(len(grids) > 0, "no samples were given to show; give {model: {evaluations: samples}}")
    order = list(order) or list(grids)
    counts = sorted({count for grid in grids.values() for count in grid})
    head = "".join(f"<th scope='col'>{count:g}</th>" for count in counts)
    rows = []
    for name, grid in grids.items():
        cells = "".join(
            f"<td>{_cell(grid[count], f'{name}, {count:g} evaluations', columns, name, order, limits, f's{i}')}</td>"
            if count in grid
            else "<td class='none'>·</td>"
            for i, count in enumerate(counts, start=100 * order.index(name))
        )
        title = f"<tr class='name'><th scope='rowgroup' colspan='{len(counts)}'>{_swatch(name, order)}</th></tr>"
        rows.append(f"<tbody>{title}<tr>{cells}</tr></tbody>")
    if real is not None:
        shown = _cell(real, "real data", columns, "", order, limits, "s-real")
        title = f"<tr class='name'><th scope='rowgroup' colspan='{len(counts)}'>real data, held out</th></tr>"
        rows.append(f"<tbody>{title}<tr><td>{shown}</td>{'<td></td>' * (len(counts) - 1)}</tr></tbody>")
    table = (
        f"<table class='samples'><thead><tr class='name'><th colspan='{len(counts)}'>evaluations per sample</th></tr>"
        f"<tr>{head}</tr></thead>{''.join(rows)}</table>"
    )
    return Section(
        "Samples",
        f"<div class='scroll'>{table}</div>",
        "<p>Every grid starts from the same noise (and the same labels, where there are some), or from the same data "
        "where a flow begins with data, which 0 evaluations show; only the model and the number of evaluations change. "
        "Read along a row: a curved flow needs many evaluations before its samples are sharp, a straight one few. "
        "Read down a column: the same noise becomes a similar datum, because "
        "straightening and distilling keep the pairing.</p>",
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
    """A score against evaluations per sample, for every model: points (evaluations, value[, interval])."""
    require(any(len(c) for c in curves.values()), "no figures were given to draw; give {model: [(evaluations, value)]}")
    shown = {name: curve for name, curve in curves.items() if len(curve)}
    heading = f"{_upper(label)} ({better} is better)"
    drawn = plots.quality(shown, heading, order=order or list(curves), floor=floor)
    caption = f"{_upper(label)} against field evaluations per sample"
    caption += "; bars are 95% intervals." if any(len(p) > 2 and p[2] for c in curves.values() for p in c) else "."
    floor_text = (
        " The dashed line is the <b>floor</b>: what other real data score against the real data. A model at the floor "
        "cannot be told from real data by this figure."
        if floor is not None
        else ""
    )
    return Section(
        title,
        _figure(drawn, f"{_slug(title)}-figure", caption),
        f"<p>Cost is counted where it arises, in evaluations of the network for one sample.{floor_text}</p>",
    )


def trajectories(
    paths: Mapping[str, Tensor], *, straightness: Mapping[str, float] | None = None, order: Sequence[str] = ()
) -> Section:
    """Paths [T,N,*S] of a few samples from the same noise, one picture per model, in one plane."""
    require(len(paths) > 0, "no paths were given to draw; give {model: states [T,N,*S]}")
    order = list(order) or list(paths)
    bodies = []
    for i, (name, drawn) in enumerate(plots.trajectories(paths, order).items()):
        caption = _swatch(name, order)
        if straightness and name in straightness:
            caption += f"<br>relative straightness {figure(straightness[name])}"
        bodies.append(_figure(drawn, f"path-{i}", caption, safe=True))
    return Section(
        "Paths from noise to data",
        f"<div class='row'>{''.join(bodies)}</div>",
        "<p>A few samples on their way, seen in the plane of the first two principal components of all states shown. "
        "Hollow points are noise, filled points are data, and the dotted chord is the straight way. <b>Relative "
        "straightness</b> is the mean squared difference between the velocity on the way and the chord, over the "
        "chord's squared length: 0 is straight, and then one step is exact.</p>",
    )


def loss_by_time(
    models: Mapping[str, Sequence[float]],
    *,
    mean: Sequence[float] | None = None,
    posterior: Sequence[float] | None = None,
    order: Sequence[str] = (),
) -> Section:
    """Held-out loss by time bin between its two baselines."""
    drawn = plots.loss_by_time(models, mean=mean, posterior=posterior, order=order or list(models))
    known = ""
    if len(models) > 1:
        known += (
            " Straightened and distilled models have learned other pairs than these random ones: theirs may be higher "
            "although their samples are no worse."
        )
    if mean is not None:
        known += " The dashed line is a model that knows only the mean of the data: a useful one is below it."
    if posterior is not None:
        known += (
            " The dotted line is a model that has memorised the training data (their exact posterior). The data here "
            "are new to it: a model that has learned something general is below it, most clearly near the data."
        )
    return Section(
        "Is this loss good?",
        _figure(drawn, "loss-by-time", "Loss on held-out data by time, with the same noise and times for every model."),
        "<p>The loss of flow matching never reaches zero: several data could have led to the same noisy point, and no "
        f"model can know which. So a single number says little.{known}</p>",
    )


def training(curves: Mapping[str, plots.Curve], *, label: str = "training loss", order: Sequence[str] = ()) -> Section:
    """Loss against steps for every model: points (step, loss)."""
    drawn = plots.training(curves, label, order=order or list(curves))
    return Section(
        "Training",
        _figure(drawn, "training", f"{_upper(label)}: a running mean, with the single values behind it."),
        "<p>Losses of different stages do not compare: straightening and distilling learn from other pairs.</p>",
    )


def figures(reports: Mapping[str, Report], order: Sequence[str] = ()) -> Section:
    """Every score of every model with interval and floor, and what they were measured with."""
    require(len(reports) > 0, "no reports were given; give {model: Report}")
    compare(reports)  # refuses figures that were measured differently
    order = list(order) or list(reports)
    names = list(dict.fromkeys(s.name for report in reports.values() for s in report.scores))
    head = "".join(f"<th scope='col'>{_swatch(name, order)}</th>" for name in reports)
    cost = {
        "Evaluations per sample": [f"{r.cost.evaluations:g}" for r in reports.values()],
        "Samples a second": [figure(r.cost.samples_per_second) for r in reports.values()],
    }
    rows = [
        f"<tr><th scope='row'>{_text(name)}</th>{''.join(f'<td>{v}</td>' for v in values)}<td></td></tr>"
        for name, values in cost.items()
    ]
    for name in names:
        found = [next((s for s in r.scores if s.name == name), None) for r in reports.values()]
        known = [s for s in found if s is not None]
        best = _best(known) if len(known) > 1 else []
        arrow = "↑" if known[0].better == "higher" else "↓"
        cells = "".join(_score(s, s in best) for s in found)
        floors = [s.floor for s in known if s.floor is not None]
        floor = f"<td>{figure(floors[0])}</td>" if floors else "<td></td>"
        rows.append(
            f"<tr><th scope='row'>{_text(_upper(name))} <span class='faint'>{arrow}</span></th>{cells}{floor}</tr>"
        )
    table = (
        f"<div class='scroll'><table class='figures'><thead><tr><td></td>{head}<th scope='col'>floor</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return Section(
        "Figures",
        table + _measured(reports),
        "<p>↓ lower is better, ↑ higher is better; small numbers are the 95% interval. Bold is the best, and what "
        "cannot be told from it: the intervals meet. The floor is the same figure for real data against other real "
        "data: as good as this measurement can tell.</p>",
    )


def lineage(chain: Sequence[Mapping[str, Any]]) -> Section:
    """Where the models come from: one mapping each, ``name`` first, in the order in which they were made."""
    items = []
    for link in chain:
        facts = "".join(
            f"<dt>{_text(key.replace('_', ' '))}</dt><dd>{_text(value)}</dd>"
            for key, value in link.items()
            if key != "name" and value is not None
        )
        items.append(f"<li><b>{_text(link.get('name', ''))}</b><dl>{facts}</dl></li>")
    return Section("Where they come from", f"<ol class='chain'>{''.join(items)}</ol>")


def absent(sentences: Iterable[str]) -> Section:
    """What could not be measured, and why."""
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return Section("Not measured", f"<ul>{items}</ul>")


def commands(lines: Iterable[str]) -> Section:
    """The commands that make all of this again."""
    return Section(
        "Do it again",
        f"<pre><code>{_text(chr(10).join(lines))}</code></pre>",
        "<p>Every random number comes from the seed, so that the same commands give the same models on the same kind "
        "of machine.</p>",
    )


def report_html(sections: Sequence[Section], title: str = "A rectified flow", lead: str = "", foot: str = "") -> str:
    """One self-contained page: no link, script, font or picture from anywhere else."""
    anchors = [section.anchor for section in sections]
    require(
        len(set(anchors)) == len(anchors),
        f"two sections have one title among {[s.title for s in sections]}; the page links to them by it: rename one",
    )
    parts = [
        f"<section id='{s.anchor}'><h2>{_text(s.title)}</h2>"
        + (f"<div class='prose'>{s.prose}</div>" if s.prose else "")
        + f"{s.body}</section>"
        for s in sections
    ]
    links = "".join(f"<li><a href='#{s.anchor}'>{_text(s.title)}</a></li>" for s in sections)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='color-scheme' content='light dark'>\n"
        f"<title>{_text(title)}</title>\n<style>{sheet()}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1>{f'<p>{_text(lead)}</p>' if lead else ''}"
        f"<nav aria-label='Contents'><ul>{links}</ul></nav></header>\n"
        f"<main>\n{chr(10).join(parts)}\n</main>\n"
        f"<footer><p>{_text(foot or 'Made with Beeline.')}</p></footer>\n</body>\n</html>\n"
    )


# -------------------------------------------------------------------------------------------------------------- parts


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _swatch(name: str, order: Sequence[str]) -> str:
    variable = plots.NAMES[plots.colour(name, order)]
    return f"<span class='model'><i style='background:var(--{variable})'></i>{_text(name)}</span>"


def _figure(drawn: Any, name: str, caption: str, *, safe: bool = False) -> str:
    inside = caption if safe else _text(caption)
    return f"<figure>{plots.svg(drawn, name)}<figcaption id='{name}-caption'>{inside}</figcaption></figure>"


def _cell(cell: Cell, about: str, columns: int, name: str, order: Sequence[str], limits: Any, place: str) -> str:
    if isinstance(cell, str):
        return f"<div class='scroll'>{cell}</div>"
    if isinstance(cell, Tensor) and cell.ndim == 2:
        paint = plots.colour(name, order) if name else plots.FAINT
        drawn = plots.svg(plots.cloud(cell, paint, limits), place)
        return drawn.replace(f'aria-labelledby="{place}-caption"', f'aria-label="{_text(about)}"', 1)
    data = cell if isinstance(cell, bytes) else plots.tiles(cell, columns)
    return f"<img alt='{_text(about)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _best(scores: Sequence[Score]) -> list[Score]:
    """The best score, and those whose interval meets its interval."""
    best = (max if scores[0].better == "higher" else min)(scores, key=lambda s: s.value)
    low, high = best.interval or (best.value, best.value)
    spans = [(s, s.interval or (s.value, s.value)) for s in scores]
    return [s for s, (a, b) in spans if a <= high and b >= low]


def _score(score: Score | None, best: bool) -> str:
    if score is None:
        return "<td class='none'>·</td>"
    value = f"<b>{figure(score.value)}</b>" if best else figure(score.value)
    if score.interval is None:
        return f"<td>{value}</td>"
    low, high = (figure(v) for v in score.interval)
    return f"<td>{value}<small>{low} to {high}</small></td>"


def _measured(reports: Mapping[str, Report]) -> str:
    """What the figures depend on, folded away."""
    first = next(iter(reports.values()))
    rows = "".join(
        f"<tr><th scope='row'>{_text(s.name)}</th><td>{_text(s.evaluator)}</td><td><code>{_text(s.evaluator_hash[:12])}"
        f"</code></td><td>{s.n_made} / {s.n_real or '·'}</td></tr>"
        for s in first.scores
    )
    facts = "".join(
        f"<dt>{_text(key.replace('_', ' '))}</dt><dd>{_text(first.provenance[key])}</dd>"
        for key in ("reference", "reference_hash", "seed", "weights", "date", "device", "versions")
        if first.provenance.get(key)
    )
    samplers = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(r.provenance.get('steps', ''))} steps, "
        f"{_text(_short(r.provenance.get('solver', '')))}, {_text(_short(r.provenance.get('guidance', '')))}</dd>"
        for name, r in reports.items()
    )
    return (
        "<details><summary>How these were measured</summary><div class='scroll'><table><thead><tr><th scope='col'>"
        "figure</th><th scope='col'>evaluator</th><th scope='col'>its hash</th><th scope='col'>made / real</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div><dl>{samplers}{facts}</dl></details>"
    )


def _short(part: Any) -> str:
    """A component given as plain data, in one word and its settings."""
    if not isinstance(part, Mapping) or "is" not in part:
        return str(part)
    rest = ", ".join(f"{key} {_short(value)}" for key, value in part.items() if key != "is")
    name = str(part["is"]).rpartition(".")[2]
    return f"{name} ({rest})" if rest else name
