"""Several rounds of a distillation in one run, and what is recorded of every round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beeline.core.files import write_text
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.runs.bundle import Bundle
from beeline.runs.pairs.drift import Drift, drift, measured
from beeline.runs.run_directory import ready, unstarted

if TYPE_CHECKING:  # a run imports this module
    from beeline.runs.run import Distilled

ROUNDS = "rounds"  # the folder of all rounds but the last


def after_rounds(run: Distilled, out: Path, recipe: str, train: Callable[..., Bundle]) -> Distilled:
    """The last round of a run, after all rounds before it were trained, each in a folder of its own.

    A round that is complete is not repeated, and one that was interrupted continues.
    """
    rounds, method = run.method.rounds, run.method
    if rounds < 2:
        return run
    write_text(out / "run.yaml", recipe)  # by which an interrupted run is known
    one: Any = method
    last = replace(run, method=replace(one, rounds=1))
    for number in range(1, rounds):
        folder = out / ROUNDS / str(number)
        if (folder / "bundle" / "flow.json").is_file():
            ready(folder, last, resume=True)  # whether it is this round
        else:
            train(last, folder, resume=(folder / "run.yaml").is_file() and not unstarted(folder))
        following = last.method.next_round()
        last = replace(last, teacher=str(folder), method=following, network=None, start=None)
    return last


def measured_round(
    teacher: Bundle, student: Bundle, pairs: Batch, data: Batch, held: Batch, rng: Rng
) -> dict[str, Any]:
    """What the lineage of a student of pairs records of its round, after those of its teacher; {} without pairs.

    Straightness is that of the student's trajectories, drift that of the pairs from the data.
    """
    if pairs.x0 is None or min(len(pairs.x1), len(data.x1)) < 2:
        return {}
    found = drift(pairs.x1, data.x1, held.x1, rng)
    fixed = student.flow.trained is not None and student.flow.trained.fixed  # at some times alone
    entry = ({} if fixed else measured(student.flow, held, rng)) | {"drift": found._asdict()}
    return {ROUNDS: [*teacher.lineage.get(ROUNDS, []), entry]}


def in_words(found: dict[str, Any]) -> str:
    """One line on the last of the recorded rounds."""
    entry, number = found[ROUNDS][-1], len(found[ROUNDS])
    bend = f"relative straightness {entry['relative_straightness']:.3g}; " if "relative_straightness" in entry else ""
    return f"round {number}: {bend}{Drift(**entry['drift']).text()}"
