"""Generates docs/editing-benchmark.md from the result file of the benchmark of edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.config.catalogue import CATALOGUE
from benchmarks import report
from benchmarks.fewstep_parts import store

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, PICTURE = DOCS / "editing-benchmark.md", DOCS / "figures" / "editing-mnist.png"
AIM = (0.9, 0.02)
LEFT_OUT = (
    "Edits that need more than two conditions (a region, operations on objects, adapters, an energy, a trained "
    "editor), or that are for data whose conditions are equal"
)
RESULTS = report.RESULTS / "editing.json"
HEAD = """# Editing benchmark

Every edit with its defaults and at several values of its main setting, without guidance unless it is named, with as
many steps as 32 evaluations of the network for a datum allow. `python -m benchmarks.editing` measures it. *Overhead* is
the processor time of an edit over that of its counted evaluations alone; times were taken on a machine that was also at
other work, so that they are uncertain by a fifth.
"""
ABOUT = {
    "exact": (
        "An exact distribution",
        "Labelled mixtures in the plane with their exact velocities. The counterfactual of a datum is the end of the "
        "exact flow under the new label from its noise under the old one. *Distance*: mean distance to it; *ratio*: "
        "over the smallest of `SDEdit`; *success*: probability of the new label. By its definition the counterfactual "
        "favours `InvertAndSample`.",
        ("distance", "ratio", "success", "evaluations"),
    ),
    "mnist": (
        "MNIST",
        "A small transformer ({teacher_steps:,} training steps), {data} held-out digits, each to the digit that is "
        "five further. *Success*: the share that an independent classifier assigns to the new label, with its "
        "standard *error*; *outside*: mean "
        "change outside the box around the digit, in the range of pixels (no mask was given to the edits); "
        "*structure*: distance of structures; a star marks the Pareto front of success and *outside*.",
        ("success", "error", "outside", "structure", "evaluations", "overhead"),
    ),
    "cifar10": (
        "CIFAR-10 in grey at 14 x 14",
        "As MNIST, with {data} pictures and {teacher_steps:,} training steps. Photographs fill the box, so that "
        "nothing is outside of it; chance is 0.1, and the classifier is right in about half of the real pictures.",
        ("success", "error", "outside", "structure", "evaluations", "overhead"),
    ),
}


def write(path: Path = PAGE, results: Path = RESULTS) -> None:
    path.write_text(page(store.read(results)), encoding="utf-8")


def page(figures: Mapping[str, Any]) -> str:
    """The page as Markdown; the same figures give the same text."""
    lines = [HEAD]
    for name, (title, about, columns) in ABOUT.items():
        lines += [f"## {title}", ""]
        rows = {row: found["0"] for row, found in figures.get(name, {}).items()}
        made = {row: dict(found) for row, found in rows.items() if "refused" not in found}
        if not made:
            lines += [f"Not measured yet: `python -m benchmarks.editing {name}`.", ""]
            continue
        lines += [about.format(**{"teacher_steps": 0, **next(iter(made.values()))["settings"]}), ""]
        best = min(
            (f["distance"] for row, f in made.items() if row.startswith("SDEdit") and "distance" in f), default=0
        )
        for found in made.values():
            if best and "distance" in found:
                found["ratio"] = found["distance"] / best
        lines += [f"| method | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for row, found in sorted(made.items(), key=lambda item: item[1].get("distance", -item[1]["success"])):
            cells = " | ".join(f"{found.get(c, float('nan')):.3g}" for c in columns)
            lines.append(f"| `{row}`{' *' if on_front(found, made) else ''} | {cells} |")
        lines += chosen(made)
        if name == "mnist" and PICTURE.exists():
            lines += ["", f"![success against what is kept]({PICTURE.relative_to(DOCS).as_posix()})"]
        refused = [row for row in rows if row not in made]
        lines += ["", *([f"Not for this network: {', '.join(f'`{r}`' for r in refused)}.", ""] if refused else [])]
    rows = {row.partition("(")[0] for name in ABOUT for row in figures.get(name, {})}
    others = ", ".join(f"`{name}`" for name in CATALOGUE["edits"] if name not in rows)
    lines += ["## Left out", "", f"{LEFT_OUT}: {others}.", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def chosen(made: Mapping[str, Any]) -> list[str]:
    """The row that the tuning pictures choose: the smallest change outside of those with enough success."""
    fit = {row: f for row, f in made.items() if f.get("tuning_success", 0) >= AIM[0]}
    if not fit:
        return []
    row = min(fit, key=lambda name: fit[name]["tuning_outside"])
    f = fit[row]
    count, (success, outside) = f["settings"]["tuning"], AIM
    return [
        "",
        f"Aim: success of at least {success} with a change outside of at most {outside}. Of the methods that reach "
        f"this success on {count} other digits, `{row}` changes the least outside of them ({f['tuning_success']:.3g}, "
        f"{f['tuning_outside']:.3g}). On the digits of the table it has {f['success']:.3g} ± {f['error']:.2g} and "
        f"{f['outside']:.3g}.",
    ]


def on_front(found: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether no other row has more success and keeps more."""
    if "outside" not in found:
        return False
    own = (found["success"], -found["outside"])
    rest = [(f["success"], -f["outside"]) for f in others.values()]
    return not any(r[0] >= own[0] and r[1] >= own[1] and r != own for r in rest)
