"""Runs as values: every recipe trains on data of its kind, and refuses what it cannot use before it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.data.image_files import ImageFile
from beeline.data.point_files import PointFile
from beeline.distillation.students import OneStep, Reflow
from beeline.recipes import images, points
from beeline.recipes.translation import transfer
from beeline.runs.run import Distilled, Run, prepare_distilled, train
from beeline.training.logs.run_log import JsonLines, read_log

SMALL = {"training.steps": 3, "training.batch_size": 8, "sampler.steps": 2}


def quiet(entry: dict[str, object]) -> None:
    """A log that says nothing."""


def image_file(where: Path, n: int = 24) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 12, 10, 1), dtype=np.uint8)
    np.savez(where / "tiny.npz", x_train=pixels, y_train=np.arange(n) % 10, x_test=pixels[:8], y_test=np.arange(8))
    return str(where / "tiny.npz")


def point_file(where: Path) -> str:
    np.savetxt(
        where / "tiny.csv", np.random.default_rng(0).normal(size=(40, 3)), delimiter=",", header="a,b,c", comments=""
    )
    return str(where / "tiny.csv")


def test_recipes_train_on_their_kind_of_data(tmp_path: Path) -> None:
    runs = {
        "mnist": config.change(images.mnist(image_file(tmp_path)), {**SMALL, "network.width": 8}),
        "images": config.change(images.images(image_file(tmp_path)), {**SMALL, "network.width": 8}),
        "points": config.change(points.points(point_file(tmp_path)), {**SMALL, "network.width": 8}),
    }
    for name, run in runs.items():
        bundle = train(run, tmp_path / name, log=quiet)
        assert torch.isfinite(bundle.draw(bundle.start(range(3)))).all()
        assert config.build(config.describe(run)) == run


def test_the_flow_of_a_run_says_what_it_assumes(tmp_path: Path) -> None:
    run = config.change(points.points(point_file(tmp_path)), {**SMALL, "objective.coupling": "MinibatchOT"})
    bundle = train(run, tmp_path / "ot", log=quiet)
    assert not bundle.flow.independent
    with pytest.raises(ValueError, match="coupling was not independent"):
        bundle.flow.score(torch.zeros(1, 3), torch.zeros(1))
    straight = train(
        Distilled(str(tmp_path / "ot"), Reflow(bl.Sampler(2)), run.training), tmp_path / "straight", log=quiet
    )
    assert straight.lineage["parent_weights"] == bundle.weights and not straight.flow.independent


def test_a_student_starts_from_its_teacher(tmp_path: Path) -> None:
    run = config.change(points.points(point_file(tmp_path)), SMALL)
    teacher = train(run, tmp_path / "teacher", log=quiet)
    still = config.change(run.training, {"steps": 1, "lr": "Constant(peak=1e-9)"})
    student = train(
        Distilled(str(tmp_path / "teacher"), OneStep(bl.Sampler(2)), still), tmp_path / "student", log=quiet
    )
    x0 = teacher.start(range(4))
    one = bl.Sampler(1, solver=bl.solvers.EULER)
    assert torch.allclose(teacher.draw(x0, sampler=one), student.draw(x0), atol=1e-4)
    assert student.sampler.evaluations == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ImageFile("nowhere.npz"), "nowhere.npz"),
        (PointFile("nowhere.csv"), "nowhere.csv"),
        (ImageFile("empty"), "empty"),
        (PointFile("nan.csv"), "line 3, column 'b'"),
    ],
)
def test_bad_data_leave_nothing_behind(
    data: ImageFile | PointFile, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nan.csv").write_text("a,b\n1,2\n3,nan\n")
    with pytest.raises(ValueError, match=words):
        train(Run(data, {"is": "networks.MLP"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_names_its_network() -> None:
    with pytest.raises(ValueError, match="names no class"):
        Run(PointFile("x.csv"), {"width": 3})
    with pytest.raises(ValueError, match="did you mean 'width'"):
        Run(PointFile("x.csv"), {"is": "networks.MLP", "witdh": 3})
    with pytest.raises(ValueError, match="no setting 'shape' here"):
        Run(PointFile("x.csv"), {"is": "networks.UNet", "shape": [1, 8, 8]})


def test_a_teacher_without_data_is_refused(tmp_path: Path) -> None:
    run = config.change(points.points(point_file(tmp_path)), SMALL)
    bundle = train(run, tmp_path / "teacher", log=quiet)
    bl.Bundle(bundle.flow, bundle.sampler, bundle.modality).save(tmp_path / "bare")
    with pytest.raises(ValueError, match="does not record the data"):
        train(Distilled(str(tmp_path / "bare"), Reflow()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_log_drops_steps_that_are_run_again(tmp_path: Path) -> None:
    first = JsonLines(tmp_path / "log.jsonl")
    for step in range(1, 6):
        first({"step": step, "loss": float(step)})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # cut by a crash
    again = JsonLines(tmp_path / "log.jsonl")
    again({"step": 3, "note": "resumed"})
    again({"step": 4, "loss": 40.0})
    entries = read_log(tmp_path / "log.jsonl")
    assert [(e["step"], e.get("loss")) for e in entries if "loss" in e] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_smaller_student_learns_annealed_pairs_by_name(tmp_path: Path) -> None:
    teacher = train(config.change(points.points(point_file(tmp_path)), SMALL), tmp_path / "teacher", log=quiet)
    run = config.change(
        Distilled(str(tmp_path / "teacher"), Reflow(bl.Sampler(2), count=4000), bl.Training(4, batch_size=8)),
        {"method.anneal": 4, "network": {"is": "networks.MLP", "width": 4, "depth": 1}},
    )
    assert config.build(config.describe(run)) == run
    work, again = prepare_distilled(run), prepare_distilled(run)
    plain = prepare_distilled(config.change(run, {"method.anneal": 0})).data
    size = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert size(work.networks["student"]) < size(teacher.flow.field)
    for made, same in zip(work.networks["student"].parameters(), again.networks["student"].parameters(), strict=True):
        assert torch.equal(made, same)
    place = {tuple(row.tolist()): i for i, row in enumerate(plain.x1)}
    for number, blend in ((0, 1.0), (1, 0.75), (3, 0.25), (4, 0.0), (9, 0.0)):
        microbatch = work.data.microbatch(number, 2000)
        stored = plain.x0[[place[tuple(row.tolist())] for row in microbatch.x1]]
        if blend == 0:
            assert torch.equal(microbatch.x0, stored)
            continue
        noise = (microbatch.x0 - (1 - blend**2) ** 0.5 * stored) / blend
        assert abs(float(noise.mean())) < 0.06 and abs(float(noise.var()) - 1) < 0.09
        assert abs(float((noise * stored).mean())) < 0.06
    made = train(run, tmp_path / "student", log=quiet)
    assert size(bl.load(tmp_path / "student").flow.field) == size(work.networks["student"])
    assert torch.isfinite(made.draw(made.start(range(3)))).all()
    with pytest.raises(ValueError, match="has no setting 'wide'"):
        config.change(run, {"network.wide": 3})
    with pytest.raises(ValueError, match="number of microbatches"):
        Reflow(anneal=-1)


def test_a_second_stage_goes_on_from_a_student_on_the_pairs_of_the_first_teacher(tmp_path: Path) -> None:
    teacher = train(config.change(points.points(point_file(tmp_path)), SMALL), tmp_path / "teacher", log=quiet)
    plain = Distilled(str(tmp_path / "teacher"), OneStep(bl.Sampler(2), count=20), bl.Training(6, batch_size=8))
    first = train(plain, tmp_path / "first", log=quiet)
    second = config.change(plain, {"start": str(tmp_path / "first"), "method.distance": "Perceptual(plain=0.0)"})
    assert config.build(config.describe(second)) == second
    work, alone = prepare_distilled(second), prepare_distilled(plain)
    assert torch.equal(work.data.x0, alone.data.x0) and torch.equal(work.data.x1, alone.data.x1)
    x0 = teacher.start(range(9))
    times, student = torch.zeros(9), work.networks["student"]
    assert torch.equal(student(x0, times), first.flow.field(x0, times))
    assert all(w.requires_grad for w in student.parameters())
    # the loss is that of the features of the data that the student makes, and of nothing else
    pairs, features = work.data, second.method.distance.features
    with torch.no_grad():
        made, wanted = features(pairs.x0 + student(pairs.x0, torch.zeros(20))), features(pairs.x1)
        loss = work.objective(student, pairs, Rng(0)).value
        assert torch.allclose(loss, (made - wanted).square().mean(), rtol=1e-5)
    again = train(second, tmp_path / "second", log=quiet)
    assert again.lineage["start"] == str(tmp_path / "first") and again.lineage["parent_weights"] == teacher.weights
    other = config.change(points.points(point_file(tmp_path)), {**SMALL, "objective.path": "Cosine"})
    train(other, tmp_path / "other", log=quiet)
    with pytest.raises(ValueError, match="has another path, source or data"):
        prepare_distilled(config.change(second, {"start": str(tmp_path / "other")}))
    with pytest.raises(ValueError, match="it has one network"):
        config.change(second, {"network": {"is": "networks.MLP", "width": 4}})


@pytest.mark.parametrize("labelled", [True, False])
def test_a_network_with_grouped_convolutions_is_no_table(tmp_path: Path, labelled: bool) -> None:
    """Convolutions have a number of groups, tables have groups of coordinates; only the latter take known cells."""
    data = ImageFile(image_file(tmp_path), labels=labelled)
    run = config.change(images.images(), {**SMALL, "network.width": 8, "network.multipliers": "[1]"})
    run = config.change(run, {"data": data, "objective.drop": "Drop(0.1, null=10)" if labelled else "none"})
    train(run, tmp_path / "teacher", log=quiet)
    student = Distilled(str(tmp_path / "teacher"), Reflow(bl.Sampler(2), count=8), run.training)
    work = prepare_distilled(student)
    assert type(work.objective).__name__ == "FlowMatching"
    assert train(student, tmp_path / "student", log=quiet).flow.path == bl.paths.Linear()


@pytest.mark.parametrize("method", [Reflow(count=64), OneStep(count=64)], ids=lambda m: type(m).__name__)
def test_students_of_a_flow_on_a_sphere_stay_on_it(method: Reflow, tmp_path: Path) -> None:
    small = {"training.steps": 3, "training.batch_size": 8, "network.width": 16}
    teacher = train(config.change(points.directions(), small), tmp_path / "run", log=quiet)
    run = Distilled(str(tmp_path / "run"), method, bl.Training(3, batch_size=8))
    student = train(run, tmp_path / "student", log=quiet)
    for bundle in (teacher, student, bl.load(tmp_path / "student")):
        made = bundle.draw(bundle.start(range(32)), sampler=None)
        assert float((made.norm(dim=-1) - 1).abs().max()) < 1e-6
        fixed = bundle.flow.trained is not None  # one step with one evaluation
        flat = bl.Sampler(1, solver=bl.solvers.EULER) if fixed else bl.Sampler(3)
        plain = bundle.draw(bundle.start(range(32)), sampler=flat)  # a solver of flat space is projected
        assert float((plain.norm(dim=-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("changed", [0, 1])
def test_augmented_images_are_refused_where_they_are_paired(tmp_path: Path, changed: int) -> None:
    path = image_file(tmp_path)
    pair = [ImageFile(path, flip=i == changed) for i in range(2)]
    run = config.change(transfer(), {"data.source": pair[0], "data.target": pair[1], **SMALL})
    with pytest.raises(ValueError, match="the images are augmented"):
        train(run, tmp_path / "run", log=quiet)
    assert not (tmp_path / "run").exists()
