"""From one data set to another: what is learned from, where a flow starts, and what becomes of a user's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.cli.main import run as cli
from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import MinibatchOT, Paired
from beeline.couplings.transport import Remembered
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.data.point_files import DistributionData, PointFile
from beeline.data.translation import DatasetSource, PairedDataset
from beeline.distillation.students import Reflow
from beeline.objectives.coupled import Augmented, FromStart
from beeline.objectives.matching import FlowMatching
from beeline.recipes.translation import transfer, translation
from beeline.runs.run import Distilled, Run, prepare, train
from beeline.solvers.runge_kutta import EULER
from beeline.training.config import Training

NET = {"is": "networks.MLP", "width": 32, "depth": 2}
SMALL = {"training.steps": 3, "training.batch_size": 8, "sampler.steps": 2, "network.width": 8}


def quiet(entry: dict[str, object]) -> None:
    """A log that says nothing."""


def gaussians(n: int = 40, m: int = 40, **settings: object) -> PairedDataset:
    narrow, wide = Gaussian([-2.0, 0.0], [1.0, 1.0]), Gaussian([3.0, 1.0], [2.0, 0.5])
    return PairedDataset(DistributionData(narrow, n=n, kept=10), DistributionData(wide, n=m, kept=10), **settings)  # type: ignore[arg-type]


def point_files(where: Path, n: int = 60) -> tuple[str, str]:
    x = np.random.default_rng(0).normal(size=(n, 2))
    np.savetxt(where / "a.csv", x, delimiter=",", header="u,v", comments="")
    np.savetxt(where / "b.csv", -x, delimiter=",", header="u,v", comments="")
    return str(where / "a.csv"), str(where / "b.csv")


def pictures(where: Path, n: int = 12) -> None:
    for name in ("before", "after"):
        (where / name).mkdir()
        for i in range(n):
            level = 20 * i if name == "before" else 255 - 20 * i
            Picture.fromarray(np.full((8, 8), level, np.uint8)).save(where / name / f"{i:02d}.png")


@pytest.mark.parametrize("n, m", [(30, 40), (50, 40)])
def test_domains_meet_anew_in_every_epoch_and_no_row_is_left_out(n: int, m: int) -> None:
    work = prepare(Run(gaussians(n, m), NET, FlowMatching(coupling=Paired())))
    microbatches = [work.data.microbatch(i, m) for i in range(2 * n)]
    first, second = microbatches[0], microbatches[1]
    assert {tuple(x) for x in first.x1.tolist()} == {tuple(x) for x in second.x1.tolist()}  # epochs of the target
    partner = {tuple(x): tuple(y) for x, y in zip(first.x1.tolist(), first.x0.tolist(), strict=True)}
    again = {tuple(x): tuple(y) for x, y in zip(second.x1.tolist(), second.x0.tolist(), strict=True)}
    assert sum(partner[x] == again[x] for x in partner) < m / 4
    seen = torch.cat([microbatch.x0 for microbatch in microbatches]).unique(dim=0, return_counts=True)
    assert len(seen[1]) == n and seen[1].eq(2 * m).all()  # every source row equally often


def test_partners_stay_together(tmp_path: Path) -> None:
    a, b = point_files(tmp_path)
    work = prepare(Run(PairedDataset(PointFile(a), PointFile(b), aligned=True), NET, Augmented()))
    for i in range(5):
        microbatch = work.data.microbatch(i, 16)
        assert torch.allclose(microbatch.x0, -microbatch.x1, atol=1e-6)
    assert torch.allclose(work.heldout.data.x0, -work.heldout.data.x1, atol=1e-6)


def test_the_transport_of_one_gaussian_to_another(tmp_path: Path) -> None:
    """PairedDataset Gaussians with diagonal covariances the optimal map is affine, coordinate by coordinate."""
    run = Run(
        gaussians(4000, 4000),
        {**NET, "width": 64},
        FlowMatching(coupling=MinibatchOT()),
        Training(steps=800, batch_size=256, lr=bl.lr_schedules.WarmupCosine(3e-3, 20)),
        bl.Sampler(8),
    )
    bundle = train(run, tmp_path / "run", log=quiet)
    assert not bundle.flow.independent and isinstance(bundle.flow.source, DatasetSource)
    x0 = Rng(5).normal(torch.empty(500, 2)) + torch.tensor([-2.0, 0.0])
    wanted = torch.tensor([3.0, 1.0]) + (x0 - torch.tensor([-2.0, 0.0])) * torch.tensor([2.0, 0.5])
    error = (bundle.draw(x0) - wanted).square().mean().sqrt()
    assert error < 0.35, error  # the target has a deviation of 1.5 (rms), batches of 256 blur the map
    again = bl.load(tmp_path / "run")
    assert torch.equal(again.start(range(4)), bundle.start(range(4)))


def test_drawing_starts_from_held_out_rows_and_students_from_training_rows(tmp_path: Path) -> None:
    run = config.change(Run(gaussians(), NET, FlowMatching(coupling=Paired())), SMALL)
    bundle = train(run, tmp_path / "run", log=quiet)
    train_rows, held = (set(map(tuple, part.values.astype(np.float32).tolist())) for part in gaussians().source.load())
    assert set(map(tuple, bundle.start(range(30)).tolist())) <= held
    student = Distilled(str(tmp_path / "run"), Reflow(bl.Sampler(2), count=20), run.training)
    from beeline.runs.run import prepare_distilled

    pairs = prepare_distilled(student).data
    assert set(map(tuple, pairs.x0.tolist())) <= train_rows
    assert isinstance(train(student, tmp_path / "student", log=quiet).flow.source, DatasetSource)


def test_an_assignment_of_the_whole_data_set_uses_its_source_points() -> None:
    work = prepare(Run(gaussians(), NET, FlowMatching(coupling=Remembered())))
    assert isinstance(work.data, Batch)
    rows = {tuple(row) for row in gaussians().source.load()[0].values.astype(np.float32).tolist()}
    assert {tuple(row) for row in work.data.x0.tolist()} == rows
    x0, x1 = work.data.x0, work.data.x1
    assert (x0 - x1).square().sum() < (x0.roll(1, 0) - x1).square().sum()


def test_ends_are_kept_where_all_paths_cross(tmp_path: Path) -> None:
    """x1 = -x0: every path passes through the origin at t = 1/2, where a field of the state alone knows nothing."""
    exact = lambda x, t, cond: -2 * cond["start"]  # noqa: E731
    x = Rng(0).normal(torch.empty(200, 2))
    assert float(Augmented()(exact, Batch(-x, x), Rng(1)).value) < 1e-12

    a, b = point_files(tmp_path, 500)
    data = PairedDataset(PointFile(a), PointFile(b), aligned=True)
    errors = {}
    for objective in (Augmented(), FlowMatching(coupling=Paired())):
        training = Training(steps=300, batch_size=128, lr=bl.lr_schedules.WarmupCosine(3e-3, 20))
        bundle = train(
            Run(data, NET, objective, training, bl.Sampler(4, solver=EULER)),
            tmp_path / type(objective).__name__,
            log=quiet,
        )
        start, wanted = (PointFile(name).read()[0] for name in (a, b))
        errors[type(objective)] = np.sqrt(np.mean((bundle.translate(start).values - wanted.values) ** 2))
    assert errors[Augmented] < 0.15 and errors[FlowMatching] > 0.5, errors


def test_a_field_told_its_start_keeps_conditions_seeds_and_direction() -> None:
    told = FromStart(lambda x, t, cond=None: x + cond["label"][:, None], "start")
    flow = bl.Flow(told)
    x0 = Rng(0).normal(torch.empty(4, 2))
    label = {"label": torch.arange(4.0)}
    whole = bl.Sampler(3)(flow, x0, label)
    assert torch.allclose(bl.Sampler(3)(flow, x0[2:3], {"label": torch.tensor([2.0])}), whole[2:3])
    with pytest.raises(ValueError, match="FromStart"):
        bl.Sampler(3).invert(flow, x0, label)
    with pytest.raises(ValueError, match="solved backwards"):
        told.process().check(flow, EULER, torch.tensor([1.0, 0.0]))


def test_pictures_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path)
    changes = {"source": str(tmp_path / "before"), "target": str(tmp_path / "after")}
    run = config.change(translation(**changes), {**SMALL, "network.multipliers": "[1]", "network.blocks": 1})
    assert config.build(config.describe(run)) == run
    train(run, tmp_path / "run", log=quiet)
    base = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "out.npy")]
    assert cli([*base, "--input", str(tmp_path / "before")]) == 0
    everything = np.load(tmp_path / "out.npy")
    assert everything.shape == (12, 8, 8, 1)
    assert cli([*base, "--input", str(tmp_path / "before" / "03.png")]) == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), everything[3:4])
    capsys.readouterr()
    assert cli([*base, "--input", str(tmp_path / "befor")]) == 2
    assert "befor does not exist" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Independent samples others.* Paired"):
        prepare(Run(gaussians(), NET))
    with pytest.raises(ValueError, match="30 training data and the target 40, .* aligned=False"):
        prepare(Run(gaussians(30, 40, aligned=True), NET, Augmented()))
    line = DistributionData(GaussianMixture([[0.0], [1.0]], 0.1), n=20, kept=5)
    with pytest.raises(ValueError, match=r"shape \(1,\) and target data \(2,\)"):
        prepare(Run(PairedDataset(line, gaussians().target), NET, Augmented()))
    with pytest.raises(ValueError, match="finite data set has no density"):
        prepare(Run(gaussians(), NET, Augmented())).finish(None).flow.source.log_prob(torch.zeros(1, 2))
    run = config.change(Run(gaussians(), NET, FlowMatching(coupling=Paired())), SMALL)
    train(run, tmp_path / "run", log=quiet)
    assert cli(["sample", str(tmp_path / "run"), "--input", "a.csv", "--out", str(tmp_path / "x.csv")]) == 2
    assert "was to be read as DistributionData reads its data" in capsys.readouterr().err
    with pytest.raises(ValueError, match="starts from noise"):
        bl.Bundle(bl.Flow(lambda x, t: x)).translate(torch.zeros(1, 2))


def test_the_recipe_moves_moons_to_modes(tmp_path: Path) -> None:
    run = config.change(transfer(), {**SMALL, "data.source.n": 50, "data.target.n": 50})
    bundle = train(run, tmp_path / "run", log=quiet)
    assert bundle.sample(3).values.shape == (3, 2)
