"""The held-out loss of students: a loss, or the distance of samples where that decides."""

from __future__ import annotations

from pathlib import Path

import pytest

import beeline as bl
from beeline.config import build as config
from beeline.distillation.decoding import ParallelDecoding
from beeline.distillation.maps.presets import MeanFlow
from beeline.objectives.games.distance import SampleDistance
from beeline.recipes import points
from beeline.runs.run import Distilled, prepare_distilled, train
from beeline.training.early_stopping import EarlyStopping


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("held") / "teacher"
    small = {"training.steps": 3, "training.batch_size": 8, "network.width": 16, "data.n": 300, "data.kept": 120}
    train(config.change(points.two_moons(), small), out, log=None)
    return str(out)


@pytest.mark.parametrize(
    ("method", "chosen", "samples"),
    [
        (ParallelDecoding(intervals=4), None, False),
        (ParallelDecoding(intervals=4), True, True),
        (MeanFlow(), None, True),
        (MeanFlow(), False, False),
    ],
)
def test_what_is_held_out(teacher: str, method: object, chosen: bool | None, samples: bool) -> None:
    training = bl.Training(3, batch_size=8, early_stopping=EarlyStopping(None, every=7))
    work = prepare_distilled(Distilled(teacher, method, training, by_samples=chosen), "cpu")  # type: ignore[arg-type]
    assert work.heldout is not None and isinstance(work.heldout.objective, SampleDistance) == samples
    assert work.heldout.every == 7 and work.monitors == ()
    net = next(iter(work.networks.values()))
    first = work.heldout(net)
    assert first.value == work.heldout(net).value  # the same noise in every call


def test_a_student_keeps_the_weights_whose_samples_are_best(teacher: str, tmp_path: Path) -> None:
    training = bl.Training(6, batch_size=8, early_stopping=EarlyStopping(None, every=2), checkpoint_every=2)
    entries: list[dict[str, object]] = []
    run = Distilled(teacher, ParallelDecoding(intervals=4), training, by_samples=True)
    train(run, tmp_path / "student", log=entries.append)
    scores = {e["step"]: e["heldout"]["ema"]["value"] for e in entries if "heldout" in e}  # type: ignore[index]
    best = min(scores, key=lambda step: scores[step])
    assert set(scores) == {2, 4, 6}
    assert (best == 6) != any(f"after step {best}, whose weights are kept" in str(e.get("note")) for e in entries)
