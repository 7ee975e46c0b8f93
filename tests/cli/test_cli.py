"""The command line, end to end: every command, every kind of mistake."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import beeline as bl
from beeline.cli.main import run
from beeline.config import catalogue

SMALL = [
    "--set",
    "training.steps=6",
    "--set",
    "training.batch_size=16",
    "--set",
    "network.width=16",
    "--set",
    "sampler.steps=2",
]


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run on two moons, through the command line."""
    out = tmp_path_factory.mktemp("cli") / "moons"
    data = ["--set", "data.n=300", "--set", "data.kept=120"]
    assert run(["train", "two-moons", *SMALL, *data, "--out", str(out)]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The error line of a command that is refused."""
    assert run(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_run_writes_all_files(moons: Path) -> None:
    names = {p.name for p in moons.iterdir()}
    assert {"run.yaml", "bundle", "checkpoints", "log.jsonl", "samples", "report.html"} <= names
    lines = [json.loads(line) for line in (moons / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in lines if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert {"step", "loss", "lr", "grad_norm", "samples_per_second"} <= set(steps[0])
    page = (moons / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_yaml_gives_the_identical_run(moons: Path, tmp_path: Path) -> None:
    assert run(["train", str(moons / "run.yaml"), "--out", str(tmp_path / "again")]) == 0
    weights = [(d / "bundle" / "model.safetensors").read_bytes() for d in (moons, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_describe_yaml_is_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["describe", "digits", "--yaml"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "digits.yaml").write_text(text)
    assert run(["describe", "digits", "--json"]) == 0
    from beeline.cli import commands
    from beeline.recipes.images import digits

    assert commands.recipe(str(tmp_path / "digits.yaml")) == digits()


def test_resume_continues_the_log(moons: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = str(moons / "run.yaml")
    assert run(["train", recipe, "--set", "training.steps=3", "--out", str(out)]) == 0
    assert run(["train", recipe, "--out", str(out), "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines() if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_distil_and_compare(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "training.steps=4", "--set", "training.batch_size=16", "--set", "method.count=40"]
    out = tmp_path / "straight"
    assert run(["distill", str(moons), "reflow", *small, "--out", str(out)]) == 0
    one = tmp_path / "one"
    assert run(["distill", str(out), "one-step", *small, "--out", str(one)]) == 0
    capsys.readouterr()
    assert run(["compare", str(moons), str(out), str(one), "-n", "80", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [r["provenance"]["evaluations"] for r in reports] == [4.0, 4.0, 1.0]
    flow = json.loads((out / "bundle" / "flow.json").read_text())
    assert flow["independent"] is False
    assert flow["lineage"]["parent"] == str(moons) and set(flow["lineage"]["quality"]) == {"moons", "straight"}


def test_sample_writes_files_and_is_reproducible(moons: Path, tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "c.csv", "d.png"):
        assert (
            run(
                [
                    "sample",
                    str(moons),
                    "-n",
                    "5",
                    "--seed",
                    "3",
                    "--condition",
                    "label=1",
                    "--out",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    first, second = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert first.shape == (5, 2) and np.array_equal(first, second)
    rows = np.loadtxt(tmp_path / "c.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows[:, :2], first, atol=1e-6) and set(rows[:, 2]) == {1}  # with the label


def test_evaluate_reports_the_cost(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(moons), "-n", "80", "--set", "sampler.steps=3", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["cost"]["evaluations"] == 6.0 and report["provenance"]["n_real"] == 120


def test_list_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0 and run(["list", "solvers"]) == 0 and run(["describe", "LogitNormal"]) == 0
    out = capsys.readouterr().out
    assert "HEUN" in out and "2403.03206" in out and "t = 0.025" in out
    for name in catalogue.CATALOGUE["times"]:  # also those without a density
        assert run(["describe", f"times.{name}"]) == 0


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "train", "distill", "sample", "evaluate", "compare", "list", "describe"):
        assert run([command, "--help"]) == 0
        assert f"Example: beeline {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian", "digits"], "did you mean 'train'"),
        (["train", "digts"], "did you mean 'digits'"),
        (["train", "digits", "--set", "training.stpes=3"], "did you mean 'steps'"),
        (["train", "digits", "--set", "training.steps=-1"], "steps=-1"),
        (["train", "digits", "--set", "network.widht=3"], "did you mean 'width'"),
        (["train", "digits", "--set", "training.steps"], "give NAME=VALUE"),
        (["train", "digits", "--foo"], "No such option"),
        (["train", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["train", "mnist", "--set", "data.path=nowhere.npz"], "nowhere.npz"),
        (["sample", "nowhere", "--out", "x.png"], "holds no bundle"),
        (["list", "solver"], "did you mean 'solvers'"),
        (["describe", "Lineer"], "did you mean 'Linear'"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *argv)
    assert not list(tmp_path.iterdir()), "a refused command wrote files"


def test_existing_outputs_are_refused(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert "exists and is not a run" in refused(capsys, "train", "two-moons", "--out", str(tmp_path))
    assert "already holds a run" in refused(capsys, "train", "two-moons", "--out", str(moons))
    assert "is not a run" in refused(capsys, "train", "two-moons", "--out", str(tmp_path / "none"), "--resume")
    assert "holds other files" in refused(capsys, "demo", "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_resume_with_other_settings(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "train", str(moons), "--set", "training.batch_size=8", "--out", str(moons), "--resume")
    assert "training.batch_size was 16, is now 8" in error


def test_wrong_conditions_and_files(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = str(tmp_path / "x.png")
    assert "label 7" in refused(capsys, "sample", str(moons), "--condition", "label=7", "--out", x)
    assert "without ever dropping" in refused(capsys, "sample", str(moons), "--out", x)
    assert ".wav" in refused(capsys, "sample", str(moons), "--condition", "label=0", "--out", str(tmp_path / "x.wav"))
    assert "not a setting of the sampler" in refused(capsys, "sample", str(moons), "--set", "steps=3", "--out", x)
    assert "-1" in refused(capsys, "sample", str(moons), "-n", "-1", "--condition", "label=0", "--out", x)
    assert "neither a file" in refused(capsys, "evaluate", str(moons), "nowhere.csv")


def test_yaml_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\nb: 2")
    assert "is not YAML" in refused(capsys, "train", str(bad))
    bad.write_text("- 1\n- 2\n")
    assert "not settings by name" in refused(capsys, "train", str(bad))
    bad.write_text("is: times.Uniform\n")
    assert "not a run" in refused(capsys, "train", str(bad))


def test_report_of_a_run_on_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four held-out images are too few for a Frechet distance; other scores are reported."""
    pictures = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", images=pictures, labels=np.arange(40) % 2)
    small = ["network=MLP", "network.width=8", "network.depth=1", "training.steps=1", "training.batch_size=4"]
    given = [word for pair in [f"data.path={tmp_path / 'p.npz'}", *small] for word in ("--set", pair)]
    assert run(["train", "images", "--out", str(tmp_path / "run"), *given, "--json"]) == 0
    found = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert "kernel distance" in json.dumps(found).lower() and "frechet" not in json.dumps(found).lower()


def test_internal_errors_are_one_line_with_the_file_of_the_traceback(
    moons: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error: exit code 1, one line, and the traceback in a file."""
    from beeline.cli import listing

    def broken(*given: object) -> None:
        raise KeyError("an internal\nerror")

    monkeypatch.setattr(listing, "list_components", broken)
    assert run(["list", "solvers"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: KeyError: ") and error.count("\n") == 1
    log = Path(error.partition("with the file ")[2].partition(",")[0])
    text = log.read_text()
    log.unlink()
    assert text.startswith("beeline list solvers\n") and "Traceback" in text and "in broken" in text


def test_invalid_output_paths(moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("", " ", "/"):
        assert "'--out': got" in refused(capsys, "train", "two-moons", "--out", out)
        assert "'--out': got" in refused(capsys, "sample", str(moons), "--condition", "label=0", "--out", out)


@pytest.mark.parametrize(
    ("cond", "words"),
    [
        ("label=.nan", "no class '.nan'"),
        ("label=.inf", "no class '.inf'"),
        ("label=1.5", "no class '1.5'"),
        ("label=1099511627776", "the label 1099511627776 is outside"),
        ("label=1" + "0" * 400, "no class '100000"),
        ("label=[.nan]", "1 labels were given for 64"),
        ("label=1" + "0" * 5000, "no class '100000"),
        ("label=0,label=1", "two values of 'label'"),
        ("label=", "is not a condition"),
        ("label=²", "there is no class '²'"),
        ("[" * 2000, "which cannot be read"),
    ],
)
def test_invalid_conditions(cond: str, words: str, moons: Path, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert words in refused(capsys, "sample", str(moons), "--condition", cond, "--out", str(tmp_path / "x.npy"))
    assert not list(tmp_path.iterdir())


def test_names_with_brackets_and_spaces(
    moons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminal markup in a name is printed as it is, and a printed command is quoted for the shell."""
    from beeline.cli import commands
    from beeline.training.checks import Interrupted

    place = tmp_path / "my [/b] runs"
    shutil.copytree(moons, place)
    assert run(["evaluate", str(place), "-n", "20"]) == 0 and run(["compare", str(place), str(moons), "-n", "20"]) == 0

    def stopped(*given: object, **named: object) -> None:
        raise Interrupted("stopped", 3)

    monkeypatch.setattr(commands, "train_run", stopped)
    capsys.readouterr()
    assert run(["train", str(place), "--resume"]) in (2, 130)
    printed = capsys.readouterr().err
    words = shlex.split(printed.partition("Continue with: ")[2].splitlines()[0])
    assert words == ["beeline", "train", str(place), "--resume"]


def test_a_network_without_its_inner_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    error = refused(capsys, "train", "ring", "--set", "network=Potential", "--out", out)
    assert "Potential lacks network" in error
    assert "network.width: got" in refused(capsys, "train", "two-moons", "--set", "network.width=[1]", "--out", out)
    assert not list(tmp_path.iterdir())


def test_data_of_another_modality_are_refused(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds Image" in refused(capsys, "evaluate", str(moons), "digits")
    for data in ("3", "none", "true"):
        assert "give one of the data" in refused(capsys, "evaluate", str(moons), data)
    guide = "sampler.guidance=Guide(Weak(runs/x), Extrapolate(2))"
    words = ("sample", str(moons), "--condition", "label=0", "--out", "x.npy", "--set")
    assert "Weak got 'runs/x', which is not callable" in refused(capsys, *words, guide)


def test_a_yaml_key_null(tmp_path: Path) -> None:
    from beeline.core.files import read_plain

    (tmp_path / "a.yaml").write_text("drop: {is: drops.Drop, null: 10}\nnull: 3\n")
    assert read_plain(tmp_path / "a.yaml") == {"drop": {"is": "drops.Drop", "null": 10}, "null": 3}


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0 and capsys.readouterr().out == f"beeline {bl.__version__}\n"
    assert run([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}  " in text for name in ("verify", "fit-solver", "describe")) and "  doctor  " not in text
    for alias in ("doctor", "tune", "show", "ema"):
        assert run([alias, "--help"]) == 0
