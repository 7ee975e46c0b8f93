"""Generates docs/few-steps-benchmark.md from the result file of the few-step benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.fewstep_parts import store
from benchmarks.fewstep_parts.methods import LEFT_OUT
from benchmarks.fewstep_parts.students import EVALUATIONS

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, PICTURE = DOCS / "few-steps-benchmark.md", DOCS / "figures" / "few-steps-mnist.png"
ERRORS = ("shape error", "trend error")
NARROW = ", half width"
SOLVERS = ("Euler", "Heun")
TEACHER, STRAIGHT = "teacher", "Reflow(Sampler(8))"
HEAD = """# Few-step benchmark

Every method for few steps on the same teacher, with the same network and the same number of network passes. A pass is
one evaluation of the teacher's network for one datum: a forward pass counts one, its backward pass two, a forward-mode
derivative two more. The passes of the teacher and of the generation of pairs are included; at most half of them are
spent on pairs. Passes are counted from the operations of matrix products, convolutions and attention, those of a step
over {probed} steps before the training. Students start from the weights of the teacher, and no setting was tuned for
this page: methods have their defaults where a row names no other, and the same batch size and learning rate.

The columns 1 to 32 are evaluations of the network for a sample. A dash means that the student has no sampler with this
number: its heads, windows or steps are for others. A row is one training, so the student of PeRFlow(4) was not
trained for one evaluation; "for 1" names one that was.

The second table of a section is for the fewest evaluations that a student has, or the teacher's solver.

- *recall* and *coverage*: the share of real data near samples
- *pairing*: the distance of samples to the teacher's ends of their noise, over that to the ends of other noise. It is 0
  where a seed gives the same sample as the teacher, and about 1 where the pairing is lost; seeds, inversion and editing
  of the teacher then do not carry over.
- *passes a step*: for one datum; a plain flow-matching step has 3
- *CPU s*: of the training, with the data of the method; a dash where a GPU computed it
- *MiB*: peak memory of the training, above what the process held before it; where a GPU computed it, of the GPU, with
  what it held before
"""
RING = (
    "Eight modes on a ring (spread 0.15, radius 2), whose flow is known exactly; the teacher is an MLP that was "
    "trained on samples. Energy distance to {samples:,} exact samples, which is 0 ± 0.0004 for two sets of exact ones; "
    "*exact*: RMSE to the end of the exact flow from "
    "the same noise; *modes*: the share of modes with at least half of their samples."
)
PICTURES = (
    "The teacher is a transformer with {parameters:,} parameters, without guidance. Frechet distance in the features "
    "of a classifier of the training set, {samples:,} samples against all test images; *agreement*: the share of "
    "samples that the classifier assigns to their label."
)
LONG = (
    " The budget is about what 15 minutes of two processor cores allow, which is the limit of the aims below: 150,000 "
    "passes took {spent} s of one core. An aim without a student here is shown with the budget of the section above."
)
REDUCED = (
    " The network of the teacher is that of MNIST; the comparison at 32 x 32 in colour, with 35 million parameters, "
    "was not made."
)
COSTS = (
    "Processor seconds of a training step over those of a plain flow-matching step with the same network and batch "
    "(median of alternating rounds), and the passes counted for one datum. Making the data of a method (pairs) is not "
    "part of a step. What exceeds 2 does so because of its passes; where the time exceeds the share of the passes, the "
    "rest is in operations that are not matrix products."
)
TABLES = (
    "`TabularFlow` with its defaults, and its `distill` (`OneStep`), measured by `python -m benchmarks.tables` "
    "({count} seeds). Errors against the training rows; aim: at most 1.1 times those of the teacher."
)


@dataclass(frozen=True)
class Section:
    """How a world is shown."""

    world: str
    title: str
    about: str
    columns: Sequence[str] = ("agreement", "recall", "coverage")
    after: Callable[[Mapping[str, Any]], list[str]] = (
        lambda figures: []
    )  # further lines, from the figures of all worlds


def write(path: Path = PAGE, results: Path = store.FILE) -> None:
    tables = report.read(report.RESULTS / "tables.json")
    path.write_text(page(store.read(results), tables), encoding="utf-8")


def page(figures: Mapping[str, Any], tables: Mapping[str, Any]) -> str:
    """The page as Markdown; the same figures give the same text."""
    lines = [HEAD.format(probed=10)]
    for section in SECTIONS:
        lines += [*world(figures, section), *section.after(figures)]
    lines += [*adult(tables), *costs(figures.get("costs", {}))]
    lines += ["## Left out", "", *(f"- `{name}`: {why}" for name, why in LEFT_OUT.items()), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def world(figures: Mapping[str, Any], section: Section) -> list[str]:
    """The tables of a world."""
    lines, rows, columns = [f"## {section.title}", ""], dict(figures.get(section.world, {})), section.columns
    if TEACHER not in rows:
        return [*lines, f"Not measured yet: `python -m benchmarks.fewstep {section.world}`.", ""]
    teacher = rows.pop(TEACHER)
    settings = next(iter(teacher.values()))["settings"]
    values = {"parameters": 0, **next(iter(teacher.values())), **settings, "spent": _spent(figures.get("mnist", {}))}
    devices = {_gpu(one) for seeds in (teacher, *rows.values()) for one in seeds.values()} - {""}
    computed = f" Computed on one {' or '.join(sorted(devices))}." if devices else ""
    lines += [
        section.about.format(**values),
        "",
        f"Budget: {settings['budget']:,} passes, batches of {settings['batch']}.{computed}",
        "",
    ]
    quality = [[f"teacher, {kind}", *_distances([one[kind] for one in teacher.values()])] for kind in SOLVERS]
    others = []
    for kind in SOLVERS:
        found = [_fewest(one[kind]) for one in teacher.values()]
        others.append(
            [f"teacher, {kind}", *(mean(found, c) for c in (*columns, "pairing")), str(len(teacher)), *[""] * 4]
        )
    sound = {row: [s for s in seeds.values() if "error" not in s] for row, seeds in rows.items()}
    for row, found in sorted(((r, f) for r, f in sound.items() if f), key=lambda item: _order(item[1])):
        at = [seed["evaluations"] for seed in found]
        quality.append([shown(row), *_distances(at)])
        spent = [
            str(len(found)),
            f"{statistics.mean(s['steps'] for s in found):,.0f}",
            f"{statistics.mean(s['passes_per_step_and_datum'] for s in found):.1f}",
            "-" if any(map(_gpu, found)) else f"{statistics.mean(s['cpu_seconds'] for s in found):.0f}",
            f"{max(s['memory_bytes'] for s in found) / 2**20:.0f}",
        ]
        others.append([shown(row), *(mean([_fewest(one) for one in at], c) for c in (*columns, "pairing")), *spent])
    lines += [*_table(["distance at", *map(str, EVALUATIONS)], quality), ""]
    lines += _table(
        ["at the fewest evaluations", *columns, "pairing", "seeds", "steps", "passes a step", "CPU s", "MiB"], others
    )
    failed = {row: seeds for row, seeds in rows.items() if not sound[row]}
    lines += ["", *(f"- {shown(row)} failed: {next(iter(seeds.values()))['error']}" for row, seeds in failed.items())]
    everywhere = {row for one in SECTIONS for row in figures.get(one.world, {}) if row != TEACHER}
    missing = [shown(row) for row in sorted(everywhere) if row not in rows]
    lines += ["", f"Not measured here: {', '.join(missing)}.", ""] if missing else [""]
    return lines


def targets(figures: Mapping[str, Any]) -> list[str]:
    """The aims on MNIST and what was reached with the first seed, with the larger budget where it was measured."""
    worlds = [figures[name] for name in ("mnist-long", "mnist") if TEACHER in figures.get(name, {})]
    if not worlds:
        return []
    best = [min(rows[TEACHER]["0"][kind]["32"]["distance"] for kind in SOLVERS) for rows in worlds]
    lines = [f"The teacher at 32 evaluations has {best[0]:.3g} (the better of both solvers).", ""]
    lines += _table(["aim", "reached", "by", "passes"], [[text, *_reached(worlds, aim)] for text, aim in AIMS.items()])
    return [*lines, ""]


@dataclass(frozen=True)
class Aim:
    """The distance of the best student at some evaluations, over that of the teacher at others."""

    evaluations: str
    counts: Callable[[str], bool]  # whether a row is among the students of the aim
    teacher: Sequence[str]  # solvers
    over: str  # evaluations of the teacher


AIMS = {
    "one evaluation: at most 1.15 times the teacher at 32": Aim("1", lambda row: NARROW not in row, SOLVERS, "32"),
    "two evaluations: at most 1.05 times the teacher at 32": Aim("2", lambda row: NARROW not in row, SOLVERS, "32"),
    "half of the width, one evaluation: at most 1.6 times the teacher at 32": Aim(
        "1", lambda row: NARROW in row, SOLVERS, "32"
    ),
    "reflow alone, one evaluation: at most 0.25 times the teacher at one": Aim(
        "1", lambda row: row == STRAIGHT, SOLVERS[:1], "1"
    ),
}


def _reached(worlds: Sequence[Mapping[str, Any]], aim: Aim) -> list[str]:
    """The ratio, the student and its budget in the first of the worlds that has such a student."""
    for rows in worlds:
        students = {row: seeds.get("0", {}).get("evaluations", {}) for row, seeds in rows.items() if aim.counts(row)}
        known = {row: at[aim.evaluations] for row, at in students.items() if "distance" in at.get(aim.evaluations, {})}
        if known:
            first = rows[TEACHER]["0"]
            row = min(known, key=lambda name: float(known[name]["distance"]))
            ratio = known[row]["distance"] / min(first[kind][aim.over]["distance"] for kind in aim.teacher)
            return [f"{ratio:.3g} times", shown(row), f"{first['settings']['budget']:,}"]
    return ["not measured", "", ""]


def drawn(figures: Mapping[str, Any]) -> list[str]:
    """The picture of samples of MNIST, where there is one."""
    about = "One evaluation, the same noise and labels 0 to 9 in every row; the first row is the teacher at 32."
    place = PICTURE.relative_to(DOCS).as_posix()
    return [about, "", f"![samples of the students]({place})", ""] if "mnist" in figures and PICTURE.exists() else []


SECTIONS = (
    Section("ring", "A distribution in the plane", RING, ("exact", "modes", "recall", "coverage")),
    Section("mnist", "MNIST", PICTURES, after=drawn),
    Section("mnist-long", "MNIST with eight times the budget", PICTURES + LONG, after=targets),
    Section("cifar10", "CIFAR-10 in grey at 14 x 14", PICTURES + REDUCED),
)


def adult(found: Mapping[str, Any]) -> list[str]:
    """The section of the table Adult, from the results of the table benchmark."""
    runs = [run for run in found.get("figures", {}).get("runs", []) if run["set"] == "adult"]
    both = {name: [run for run in runs if run["model"] == name] for name in ("beeline", "one-step")}
    lines = ["## The table Adult", ""]
    if not all(both.values()):
        return [*lines, "Not measured yet: `python -m benchmarks.tables`.", ""]
    about = TABLES.format(count=len(both["beeline"]))
    lines += [about, "", _row(["", "evaluations", "shape error", "trend error"]), _row(["---"] * 4)]
    for kind, name, evaluations in (("teacher", "beeline", "16"), ("student", "one-step", "1")):
        lines.append(_row([kind, evaluations, *(mean(both[name], error) for error in ERRORS)]))
    ratios = [
        statistics.mean(r[e] for r in both["one-step"]) / statistics.mean(r[e] for r in both["beeline"]) for e in ERRORS
    ]
    return [*lines, _row(["student over teacher", "", *(f"{ratio:.2f}" for ratio in ratios)]), ""]


def costs(rows: Mapping[str, Any]) -> list[str]:
    """The section of the costs of a step."""
    lines = ["## Cost of a step", ""]
    sound = {name: seeds["0"] for name, seeds in rows.items() if "error" not in seeds["0"]}
    if not sound:
        return [*lines, "Not measured yet: `python -m benchmarks.fewstep costs`.", ""]
    lines += [
        COSTS,
        "",
        _row(["method", "objective", "time", "passes", "passes over plain", "reason above 2"]),
        _row(["---"] * 6),
    ]
    for name, found in sorted(sound.items(), key=lambda item: float(item[1]["ratio"])):
        extra = found["passes"] - found["plain_passes"]
        reason = f"{extra:.1f} passes more than the {found['plain_passes']:.1f} of a plain step"
        reason += ", and other operations" if found["ratio"] > 1.25 * found["ratio_of_passes"] else ""
        reason = reason if found["ratio"] > 2 else ""
        cells = [shown(name), found["objective"], f"{found['ratio']:.2f}", f"{found['passes']:.1f}"]
        lines.append(_row([*cells, f"{found['ratio_of_passes']:.2f}", reason]))
    failed = {name: seeds["0"]["error"] for name, seeds in rows.items() if name not in sound}
    return [*lines, "", *(f"- {shown(name)} failed: {error}" for name, error in failed.items()), ""]


def shown(row: str) -> str:
    """The name of a row without empty brackets."""
    return row.replace("()", "")


def mean(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """The mean over seeds, with the standard deviation of two or more; a dash where there is no figure."""
    if not all(name in one for one in found):
        return "-"
    values = [float(one[name]) for one in found]
    return _number(statistics.mean(values)) + (f" ± {_number(statistics.stdev(values), 1)}" if len(values) > 1 else "")


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.4f}"


def _distances(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [mean([row.get(str(k), {}) for row in found], "distance") for k in EVALUATIONS]


def _fewest(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures at the fewest evaluations that the student has."""
    known = [row[str(k)] for k in EVALUATIONS if "distance" in row.get(str(k), {})]
    none: Mapping[str, Any] = {}
    return known[0] if known else none


def _gpu(row: Mapping[str, Any]) -> str:
    """The GPU on whose machine a row was measured, or an empty text."""
    return str(row.get("machine", {}).get("accelerator", ""))


def _spent(rows: Mapping[str, Any]) -> str:
    """The fewest and the most processor seconds of the students that no GPU computed."""
    sound = [one for seeds in rows.values() for one in seeds.values() if "cpu_seconds" in one and not _gpu(one)]
    found = [one["cpu_seconds"] for one in sound]
    return f"{min(found):.0f} to {max(found):.0f}" if found else "-"


def _order(found: Sequence[Mapping[str, Any]]) -> float:
    return float(_fewest(found[0]["evaluations"]).get("distance", float("inf")))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
