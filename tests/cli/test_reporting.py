"""Reports of runs: they describe the sampler and weights in use, keep their time budget, and never fail a run."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import beeline as bl
from beeline.cli import arguments
from beeline.cli import main as cli
from beeline.cli.console import console
from beeline.cli.report import measuring, plots
from beeline.cli.report.measuring import extras_within
from beeline.core.rng import Rng
from beeline.evaluation.evaluate import Extras
from beeline.evaluation.scores import Cost, Report
from beeline.evaluation.trajectory import Likelihood, straightness, transport_cost
from beeline.fields.flow import Flow
from beeline.runs import scoring
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.spaces.manifold import Geodesic, Sphere, Torus, UniformOnSpace

TINY = ["training.steps=3", "training.batch_size=16", "network.width=16", "data.n=300", "data.kept=120"]


def options(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a sampler of three Euler steps and no average, in a folder with a space."""
    out = tmp_path_factory.mktemp("my runs") / "a" / "run"
    more = ("sampler.steps=3", "sampler.solver=EULER", "training.ema=none")
    assert cli.run(["train", "two-moons", *options(*TINY, *more), "--out", str(out)]) == 0
    return out


def test_scores_by_the_own_sampler(runs: Path) -> None:
    (reports,) = json.loads((runs / "figures.json").read_text()).values()
    assert all(r["cost"]["evaluations"] == float(count) for count, r in reports.items())
    assert reports["3"]["provenance"]["steps"] == 3 and reports["3"]["provenance"]["solver"] == {"is": "solvers.EULER"}
    quality = bl.load(runs).lineage["quality"]["run"]
    assert quality == {s["name"]: s["value"] for s in reports["3"]["scores"]}
    assert {r["provenance"]["weights"] for r in reports.values()} == {"of the last step, not averaged"}
    page = (runs / "report.html").read_text()
    assert "not averaged" in page and "averaged (EMA)" not in page
    shown = page.partition("<pre><code>")[2].partition("</code>")[0].replace("&#39;", "'").replace("&#34;", '"')
    words = shlex.split(shown)
    assert words[:3] == ["beeline", "train", "two-moons"] and words[words.index("--out") + 1] == str(runs)


def test_the_command_line_is_quoted_with_all_options() -> None:
    line = arguments.command_line(
        "train", "my runs/a", ["x=(1, 2)"], Path("b c"), **{"--fork": True, "--at": 5, "--track": None}
    )
    assert shlex.split(line) == ["beeline", "train", "my runs/a", "--set", "x=(1, 2)", "--out", "b c", "--fork",
                                 "--at", "5"]  # fmt: skip


def test_labels_tell_directories_apart() -> None:
    assert scoring.labels_of(["x/run", "y/run"]) == ["x/run", "y/run"]
    assert scoring.labels_of(["x/run/bundle", "y/other"]) == ["run", "other"]
    assert len(set(scoring.labels_of(["a", "a"]))) == 2


def test_without_a_report(tmp_path: Path) -> None:
    assert cli.run(["train", "two-moons", *options(*TINY), "--no-report", "--out", str(tmp_path / "r")]) == 0
    assert not (tmp_path / "r" / "report.html").exists() and (tmp_path / "r" / "bundle" / "flow.json").is_file()


def test_a_failed_preview_is_reported_on_the_page(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from beeline.cli.report import writing

    def broken(*given: object, **more: object) -> bytes:
        raise RuntimeError("no picture <today>")

    monkeypatch.setattr(writing.Bundle, "sample", broken)
    assert cli.run(["train", "two-moons", *options(*TINY), "--out", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Not measured" in page and "no picture &lt;today&gt;" in page

    def worse(*given: object, **more: object) -> str:
        raise OSError(30, "Read-only file system")

    capsys.readouterr()
    monkeypatch.setattr(writing, "page", worse)
    assert cli.run(["train", "two-moons", *options(*TINY), "--json", "--out", str(tmp_path / "s")]) == 0
    captured = capsys.readouterr()
    assert (
        captured.err.count("\n") == 1
        and "Read-only" in captured.err
        and (tmp_path / "s" / "bundle" / "flow.json").is_file()
    )
    log = Path(captured.err.rsplit("the traceback is in ", 1)[1].strip())
    assert "in worse" in log.read_text()
    log.unlink()


def test_a_report_keeps_to_its_budget(runs: Path) -> None:
    """The clock counts rows evaluated by the network, so that the result does not depend on the machine."""
    bundle, spent = bl.load(runs), 0

    def count(*given: object) -> None:
        nonlocal spent
        spent += len(given[1][0])  # type: ignore[index]

    bundle.flow.field.register_forward_pre_hook(count)
    real = scoring.RealData.of(scoring.data_of(bundle))
    budget = measuring.Budget(400_000, lambda: float(spent))
    seen = measuring.measure_model("run", bundle, [], real, 500, Rng(0), budget=budget)
    assert seen.own is not None and not seen.missing and set(seen.by_count) == {1, 2, 3, 4, 8, 16, 32}
    full, spent = spent, 0
    seen = measuring.measure_model(
        "run", bundle, [], real, 500, Rng(0), budget=measuring.Budget(60_000, lambda: float(spent))
    )
    short = spent
    assert seen.own is not None and 0 < short <= 60_000 < full
    spent = 0
    none = measuring.measure_model(
        "run", bundle, [], real, 500, Rng(0), budget=measuring.Budget(100, lambda: float(spent))
    )
    assert none.own is not None and set(none.by_count) == {3.0} and len(none.missing) == 6 and spent < short
    log = [{"step": i, "samples_per_second": 16.0} for i in range(200)]
    assert measuring.Budget.of_log(log, 32).limit == pytest.approx(40.0)
    assert measuring.Budget.of_log([], 32).limit == measuring.SHORTEST


@pytest.mark.parametrize(
    ("needed", "limit", "measured"), [(29.0, 10.0, True), (31.0, 10.0, False), (31.0, math.inf, True)]
)
def test_a_classifier_that_takes_too_long_is_left_out(
    runs: Path, monkeypatch: pytest.MonkeyPatch, needed: float, limit: float, measured: bool
) -> None:
    bundle = bl.load(runs)
    monkeypatch.setattr(measuring, "classifier_seconds", lambda *given: needed)
    real = scoring.RealData.of(scoring.data_of(bundle))
    seen = measuring.measure_model(
        "run", bundle, [], real, 80, Rng(0), counts=(1,), budget=measuring.Budget(limit, lambda: 0.0), exact=True
    )
    assert seen.own is not None
    names = {score.name for score in seen.own.scores}
    assert ("Frechet distance" in names) == measured and {"sliced Wasserstein", "energy distance"} <= names
    assert any("takes about 31 s" in text and "beeline evaluate" in text for text in seen.missing) == (not measured)


def test_dollars_and_brackets_in_names_are_literal() -> None:
    name = "$x_{$ a_b"
    drawn = [plots.training({name: [(0, 1.0), (1, 0.5)]}), plots.quality({name: [(1, 2.0), (2, 1.0)]}, "$y_{$"),
             plots.loss_by_time({name: [1.0, 2.0]}, mean=[1.0, 1.0])]  # fmt: skip
    for figure in drawn:
        assert name in plots.svg(figure, "n")
    with console.capture() as got:
        console.print(Report((), Cost(1, 1, 1.0, 1.0, None, "process"), {"name": "run [/b]"}).table())
    assert "run [/b]" in got.get()


def test_tables_with_dollars_in_columns_and_levels() -> None:
    import pandas as pd

    from beeline.data.tables.table import Table
    from beeline.estimators.tabular_report import correlations, histograms, picture

    frame = pd.DataFrame({"$p_{$": [1.5, 2.5, 3.5, 4.5] * 10, "q": ["$x_{$", "b_c$d$", "e", "f"] * 10})
    schema = Table().fit(frame).columns
    figure = histograms(schema, frame, frame)
    assert picture(figure).startswith("<img") and picture(correlations(schema, frame, frame)).startswith("<img")
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["$x_{$", "b_c$d$", "e", "f"]


def test_evaluating_on_no_data_set_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(runs), "3"]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1 and "neither a file, a recipe nor a data set" in captured


@pytest.mark.parametrize("steps", [4, 9])
def test_geodesics_are_straight_on_their_space(steps: int) -> None:
    """A rotation at constant speed w is a geodesic: S = 0, cost w^2; beyond half a turn it is curved."""
    x0 = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)

    def flow(speed: float) -> Flow:
        return Flow(
            lambda x, t, cond=None: speed * torch.stack([-x[:, 1], x[:, 0]], 1), Geodesic(), UniformOnSpace(Sphere())
        )

    for speed, near in ((1.3, 1.3), (math.pi + 1, math.pi - 1)):
        found = straightness(flow(speed), x0, Sampler(steps, solver=EULER))  # Euler's step is a geodesic here
        assert found.transport == pytest.approx(near**2, abs=1e-9)
        assert found.value == pytest.approx(speed**2 - near**2, abs=1e-9)
    torus = Flow(lambda x, t, cond=None: torch.full_like(x, 1.0), Geodesic(Torus()), UniformOnSpace(Torus()))
    across = torch.tensor([[3.0]], dtype=torch.float64)
    assert float(transport_cost(torus, across, Sampler(steps, solver=HEUN))) == pytest.approx(1.0)
    flat = straightness(replace(torus, path=bl.paths.Linear()), across, Sampler(steps))
    assert flat.value == pytest.approx(0.0, abs=1e-12) and flat.transport == pytest.approx(1.0)


def test_extras_fit_into_the_time_that_is_left() -> None:
    usual = Extras(likelihood=Likelihood())
    assert extras_within(usual, math.inf, 1.0) == usual
    assert extras_within(usual, 1e6, 1e-3) == usual
    few = extras_within(usual, seconds=2 * 100 * 20, forward=1.0)  # 20 trajectories of 50 steps of HEUN
    assert few.rows == 20 and few.trajectories is not None and few.likelihood is None
    none = extras_within(usual, seconds=1.0, forward=1.0)
    assert none.trajectories is None and none.likelihood is None
