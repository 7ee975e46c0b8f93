"""``beeline runs``: list, compare, open and delete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import beeline as bl
from beeline.cli.main import run as command
from beeline.cli.runs.summary import summaries
from beeline.core.files import locked
from beeline.data.image_files import Digits


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with two short runs, and one that was interrupted."""
    root = tmp_path_factory.mktemp("runs")
    for name, steps in (("a", 4), ("b", 6)):
        recipe = bl.Run(
            Digits(),
            {"is": "networks.MLP", "width": 8, "depth": 1},
            training=bl.Training(steps=steps, batch_size=8, checkpoint_every=2),
            sampler=bl.Sampler(2),
        )
        bl.train(recipe, out=root / name, device="cpu")
    settings = yaml.safe_load((root / "b" / "run.yaml").read_text())
    settings["training"]["steps"] = 50
    (root / "b" / "run.yaml").write_text(yaml.safe_dump(settings))
    (root / "not a run").mkdir()
    return root


def copied(folder: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(folder, to)
    return to


def test_the_list_has_state_steps_losses_age_and_size(made, capsys):
    assert command(["runs", "--root", str(made), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == {"a", "b"}
    a = found["a"]
    assert (a["state"], a["step"], a["steps"], a["recipe"]) == ("finished", 4, 4, "MLP, FlowMatching")
    assert a["data"] == "Digits" and a["heldout"] > 0 and a["scores"] == {} and a["age"] >= 0
    assert a["size"] == sum(f.stat().st_size for f in (made / "a").rglob("*") if f.is_file())
    assert (found["b"]["state"], found["b"]["step"], found["b"]["steps"]) == ("interrupted", 6, 50)
    with locked(made / "b"):  # in another process the lock could not be taken either
        assert {s.name: s.state for s in summaries(made)}["b"] == "running"
    assert command(["runs", "--root", str(made)]) == 0
    text = capsys.readouterr().out
    assert "interrupted" in text and "4/4" in text and max(map(len, text.splitlines())) <= 80


def test_an_empty_folder_and_damaged_files_are_no_error(made, tmp_path, capsys):
    assert command(["runs", "--root", str(tmp_path / "none")]) == 0
    assert "there are no runs" in capsys.readouterr().out
    copied(made / "a", tmp_path / "a")
    (tmp_path / "a" / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"ste')
    (tmp_path / "a" / "bundle" / "flow.json").write_text("{")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.yaml").write_text(": [")
    (only,) = summaries(tmp_path)
    assert (only.state, only.step) == ("interrupted", 2)


def test_the_list_starts_without_torch(made):
    program = (
        f"import sys; from beeline.cli.main import run; code = run(['runs', '--root', {str(made)!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_comparison_shows_settings_losses_and_samples(made, capsys):
    assert command(["runs", "compare", "a", "b", "--root", str(made)]) == 0
    text = capsys.readouterr().out
    assert "training.steps" in text and "50" in text and "Losses" in text
    page = (made / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "training.steps" in page and page.count("<svg") == 2
    assert command(["runs", "compare", "a", "--root", str(made)]) == 2
    assert "a comparison needs two or more" in capsys.readouterr().err


def test_open_prints_the_report_or_the_live_page(made, capsys):
    assert command(["runs", "open", "a", "--root", str(made)]) == 0
    assert capsys.readouterr().out.strip() == str(made / "a" / "live.html")
    assert command(["runs", "open", str(made / "a")]) == 0
    assert command(["runs", "open", "c", "--root", str(made)]) == 2
    assert "there is no run 'c'" in capsys.readouterr().err


def test_delete_asks_and_refuses(made, tmp_path, capsys, monkeypatch):
    one, two = copied(made / "a", tmp_path / "one"), copied(made / "b", tmp_path / "two")
    root = ["--root", str(tmp_path)]
    (tmp_path / "folder").mkdir()
    for name, reason in (("folder", "has no run.yaml"), ("", "there is no run"), ("..", "has no run.yaml")):
        assert command(["runs", "delete", "--yes", name, *root]) == 2
        assert reason in capsys.readouterr().err
    (tmp_path / "link").symlink_to(one)
    assert command(["runs", "delete", "--yes", "link", *root]) == 2
    assert "is a link" in capsys.readouterr().err
    with locked(two):
        assert command(["runs", "delete", "--yes", "one", "two", *root]) == 2
    assert "is training" in capsys.readouterr().err and one.is_dir()  # nothing is deleted where one is refused
    answers = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda text: next(answers))
    assert command(["runs", "delete", "one", *root]) == 0
    assert "nothing was deleted" in capsys.readouterr().out and one.is_dir()
    assert command(["runs", "delete", "one", *root]) == 0 and not one.exists()
    assert command(["runs", "delete", "two", "--yes", *root]) == 0 and not two.exists()
    assert (tmp_path / "folder").is_dir()


def test_delete_names_the_students_of_a_teacher(made, tmp_path, capsys, monkeypatch):
    one, two = copied(made / "a", tmp_path / "one"), copied(made / "b", tmp_path / "two")
    method = {"is": "distillations.OneStep"}
    (two / "run.yaml").write_text(
        yaml.safe_dump({"format": 3, "is": "runs.Distilled", "teacher": str(one), "method": method})
    )
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert command(["runs", "--root", str(tmp_path), "delete", "one"]) == 0
    assert "it is the teacher of two" in capsys.readouterr().out
