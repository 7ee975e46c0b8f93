"""Inverse problems of bundles: exact posteriors, every kind of data, and mistakes."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import Gaussian
from beeline.data.images import Image
from beeline.data.points import Points
from beeline.data.sequences import Sequences
from beeline.data.signals.arrays import Arrays
from beeline.data.tables.table import Table
from beeline.networks.tabular import TabularMLP
from beeline.runs.solving.tasks import Colourise, Deblur, Denoise, Forecast, Impute, Inpaint, Upscale
from beeline.sampling.steering.inverse.pulls import PseudoInverse, Pull
from beeline.sampling.steering.operators.axes import MotionBlur
from beeline.spaces.simplex import Dirichlet, PosteriorNetwork, Simplex
from beeline.spaces.tokens import MaskTokens, TokenMixture

NAN = float("nan")
GRID, LINE = (1, 4, 4), (2, 1, 8)


def smooth(shape: tuple[int, ...]) -> Gaussian:
    """A Gaussian whose neighbouring numbers are correlated."""
    count = int(np.prod(shape))
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(count, -1)
    apart = ((place[:, None] - place) ** 2).sum(-1)
    covariance = 0.09 * np.exp(-apart / 4) + 1e-3 * np.eye(count)
    return Gaussian((0.0,) * count, covariance=tuple(map(tuple, covariance.tolist())))


def exact(shape: tuple[int, ...], modality: object) -> bl.Bundle:
    """A bundle with the exact flow of a smooth Gaussian."""
    field = smooth(shape).field()
    flow = bl.Flow(lambda x, t, cond=None: field(x.flatten(1), t).reshape(x.shape))
    return bl.Bundle(flow, bl.Sampler(20), modality)


def images() -> bl.Bundle:
    return exact(GRID, Image(GRID))


def signals() -> bl.Bundle:
    return exact(LINE, Arrays(sizes=(2, 8), mean=(10.0, 0.0), std=(2.0, 1.0)))


def test_imputation_samples_the_posterior_of_points() -> None:
    data = Gaussian((0.0, 0.0), covariance=((1.0, 0.8), (0.8, 1.0)))
    modality = Points(columns=("a", "b"), mean=(10.0, 0.0), std=(2.0, 1.0))
    bundle = bl.Bundle(bl.Flow(data.field()), bl.Sampler(20), modality)
    found = bundle.solve("impute", np.array([[12.0, NAN], [8.0, 0.5]]), draws=400)
    values = found.samples.values.reshape(2, 400, 2)
    assert (values[0, :, 0] == 12).all() and np.allclose(values[1], [8, 0.5])
    assert values[0, :, 1].mean() == pytest.approx(0.8, abs=0.1) and values[0, :, 1].std() == pytest.approx(
        0.6, abs=0.08
    )
    assert found.deviation.values[0] == pytest.approx([0, values[0, :, 1].std(ddof=1)], abs=1e-6)
    assert found.summary["largest_deviation"] == pytest.approx(found.deviation.values.max(), rel=1e-5)


def picture(seed: int = 0) -> np.ndarray:
    x = smooth(GRID).sample(1, bl.Rng(seed)).reshape(1, 4, 4)
    return Image(GRID).decode(x[None].float()).pixels[0]


def test_images_are_restored() -> None:
    bundle, truth = images(), picture()
    hole = np.zeros((4, 4))
    hole[1, 1] = hole[2, 3] = 1
    made = bundle.solve(Inpaint(hole), truth[None], draws=20).samples.pixels
    assert (made[:, hole == 0] == truth[hole == 0]).all()
    assert abs(made.mean(0) - truth).mean() < 6
    small = truth.reshape(2, 2, 2, 2).mean((1, 3)).round().astype(np.uint8)[None]
    for controller in (None, Pull, functools.partial(PseudoInverse, deviation=0.3)):
        made = bundle.solve("upscale", small, draws=20, controller=controller).samples.pixels
        assert abs(made[..., 0].reshape(20, 2, 2, 2, 2).mean((2, 4)) - small).mean() < 6
    clean = np.stack([picture(seed) for seed in range(20)])
    noisy = np.clip(clean + np.random.default_rng(0).normal(size=clean.shape) * 25, 0, 255).round().astype(np.uint8)
    made = bundle.solve(Denoise(), noisy, draws=10, noise=0.2).samples.pixels.reshape(20, 10, *clean.shape[1:])
    assert ((made.mean(1) - clean) ** 2).mean() < 0.5 * ((noisy.astype(float) - clean) ** 2).mean()
    blurred = MotionBlur(3).apply(torch.from_numpy(truth[None, None, ..., 0].astype(np.float64))).numpy()[0, 0]
    made = bundle.solve(Deblur(MotionBlur(3)), blurred.round().astype(np.uint8)[None], draws=20).samples.pixels
    assert abs(made.mean(0)[..., 0] - truth[..., 0]).mean() < 15


def test_grey_images_get_colours() -> None:
    bundle = exact((3, 4, 4), Image((3, 4, 4)))
    made = bundle.solve("colourise", np.full((1, 4, 4), 140, np.uint8), draws=3).samples.pixels
    assert made.shape == (3, 4, 4, 3) and abs(made @ [0.299, 0.587, 0.114] - 140).mean() < 6


def test_signals_are_continued_and_filled() -> None:
    bundle, x = signals(), np.linspace(-0.3, 0.3, 8)
    given = np.stack([10 + 2 * x, x])[None].astype(np.float32)
    made = bundle.solve("forecast", given[..., :5], draws=4)
    assert np.allclose(made.samples.values[..., :5], given[..., :5], atol=1e-5)
    assert (made.deviation.values[..., :5] < 1e-6).all() and (made.deviation.values[..., 5:] > 0).all()
    given[0, 1, 3] = NAN
    filled = bundle.solve("impute", given).samples.values
    assert np.isfinite(filled).all() and abs(filled[0, 1, 3]) < 0.5


@pytest.mark.parametrize("masked", [True, False])
def test_sequences_keep_their_known_symbols(masked: bool) -> None:
    modality = Sequences("ABC_" if masked else "ABC", 5)
    path = TokenMixture() if masked else Dirichlet()
    with bl.Rng(0).ambient():
        net = PosteriorNetwork(bl.Network(bl.networks.MLP(shape=modality.shape, width=8, depth=1)), path)
    flow = bl.Flow(net, path, MaskTokens() if masked else Simplex())
    bundle = bl.Bundle(flow, bl.Sampler(4, solver=bl.solvers.TokenJumps(path) if masked else bl.solvers.HEUN), modality)
    found = bundle.solve("impute", ["A?CA?", "BBBB?"], draws=3)
    assert [text[:4] for text in found.samples[3:]] == ["BBBB"] * 3 and all(
        t[0] + t[2:4] == "ACA" for t in found.samples[:3]
    )
    assert 0 < found.summary["mean_share_of_the_most_frequent_symbol"] <= 1
    assert bundle.solve("forecast", ["CC"]).samples[0][:2] == "CC"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> bl.Bundle:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": np.arange(40) % 17 + 20.5, "city": ["Rome", "Oslo"] * 20})
    table = Table().fit(frame)
    with bl.Rng(0).ambient():
        net = bl.Network(
            TabularMLP(table.groups, conditions=table.conditions, width=32), prediction=bl.predictions.Data(0.01)
        )
    return bl.Bundle(bl.Flow(net), bl.Sampler(2), table)


def test_empty_cells_of_tables_are_filled(rows: bl.Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,city\n20.5,\n,Oslo\n30.5,Rome\n")
    found = rows.solve("impute", tmp_path / "a.csv", draws=2)
    made = found.samples
    assert len(made) == 6 and not made.isna().any(axis=None)
    assert made["age"][:2].tolist() == [20.5, 20.5] and made["city"][2:].tolist() == ["Oslo", "Oslo", "Rome", "Rome"]
    assert set(found.summary) == {"age", "city"}
    with pytest.raises(BeelineError, match="no cell of the 1 rows is empty"):
        rows.solve("impute", made[:1])
    with pytest.raises(BeelineError, match="tables have states"):
        rows.solve("denoise", made, noise=0.1)


def test_draws_are_those_of_the_seed() -> None:
    given = np.array([[0.3] * 4 + [NAN] * 12]).reshape(1, 1, 4, 4)
    bundle = replace(images(), modality=Arrays(sizes=GRID, mean=(0.0,), std=(1.0,)))
    first, again, other = (bundle.solve("impute", given, seed=seed).samples.values for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


ZEROS = np.zeros((1, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("task", "given", "more", "message"),
    [
        (Inpaint(), ZEROS, {}, "nothing is missing"),
        (Inpaint(np.ones((4, 4))), ZEROS, {}, "everything is missing"),
        (Inpaint(np.ones((3, 4))), ZEROS, {}, r"mask has shape \(3, 4\)"),
        (Inpaint(np.eye(4)), ZEROS[:, :2], {}, r"shape \(1, 2, 4\), but the model has \(1, 4, 4\)"),
        (Upscale(), ZEROS, {}, "smaller by one whole factor"),
        (Upscale(), ZEROS[:, :3, :3], {}, "smaller by one whole factor"),
        (Deblur(), ZEROS[:, :2], {}, "give data of that shape"),
        (Denoise(), ZEROS, {}, "give its standard deviation"),
        (Denoise(), ZEROS, {"noise": 0.0}, "its deviation is above 0"),
        (Denoise(), ZEROS, {"noise": 0.1, "draws": 0}, "whole number from 1"),
        (Colourise(), ZEROS, {}, "three channels"),
        (Forecast(), ZEROS, {}, "nothing is missing"),
        (Impute(), "nowhere.png", {}, "nowhere.png does not exist"),
        (Impute(), 3, {}, "the images are int"),
        ("paint", ZEROS, {}, "valid names"),
    ],
)
def test_mistakes(task: object, given: object, more: dict[str, object], message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        images().solve(task, given, **more)


def test_other_bundles_are_refused(tmp_path: Path) -> None:
    bundle = images()
    with pytest.raises(BeelineError, match="has no modality"):
        replace(bundle, modality=None).solve("impute", ZEROS)
    sequences = bl.Bundle(bundle.flow, modality=Sequences("AB", 3))
    with pytest.raises(BeelineError, match="have states"):
        sequences.solve("denoise", ["AB?"])
    with pytest.raises(BeelineError, match="a noise was given"):
        sequences.solve("impute", ["AB?"], noise=0.1)
    with pytest.raises(BeelineError, match="a controller was given"):
        sequences.solve("impute", ["AB?"], controller=Pull)
    (tmp_path / "picture").write_bytes(b"\x89PNG")
    with pytest.raises(BeelineError, match="no text in UTF-8"):
        sequences.solve("impute", str(tmp_path / "picture"))
    with pytest.raises(BeelineError, match="lengths"):
        sequences.solve("impute", ["AB?A"])
    with pytest.raises(BeelineError, match="path of symbols"):
        sequences.solve("impute", ["AB?"])


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with bl.Rng(0).ambient():
        net = bl.Network(bl.networks.MLP(shape=GRID, width=8, depth=1))
    return bl.Bundle(bl.Flow(net), bl.Sampler(4), Image(GRID)).save(tmp_path_factory.mktemp("solve") / "bundle")


def test_the_command_writes_pictures_and_deviations(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image as Picture

    truth, alpha = picture()[..., 0], np.full((4, 4), 255, np.uint8)
    alpha[1, 1] = 0
    cut, mask = tmp_path / "cut.png", tmp_path / "mask.png"
    Picture.fromarray(np.dstack([truth, truth, truth, alpha])).save(cut)
    Picture.fromarray(255 - alpha).save(mask)
    one, many = tmp_path / "one.png", tmp_path / "many"
    assert run(["solve", str(saved), "inpaint", str(cut), "--out", str(one)]) == 0
    with Picture.open(one) as made:
        pixels = np.asarray(made)
    assert pixels.shape == (4, 4) and (pixels[alpha > 0] == truth[alpha > 0]).all()
    Picture.fromarray(truth).save(cut)
    capsys.readouterr()
    words = ["-n", "3", "--mask", str(mask), "--set", "sampler.steps=2", "--set", "controller=Pull", "--json"]
    assert run(["solve", str(saved), "Inpaint", str(cut), "--out", str(many), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(list(many.glob("*.png"))) == 3 and found["draws"] == 3 and found["inputs"] == 1
    assert len(list(Path(found["deviation"]).glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paint", "IN", "--out", "OUT"], "there is no task 'paint'"),
        (["deblur", "none.png", "--out", "OUT"], "there is no file none.png"),
        (["deblur", "IN", "--out", "OUT", "--mask", "IN"], "--mask is for 'inpaint'"),
        (["deblur", "IN", "--out", "a.csv"], "cannot write"),
        (["deblur", "IN", "--out", "OUT", "--set", "training.steps=3"], "set sampler.*, task.* or controller.*"),
        (["deblur", "IN", "--out", "OUT", "--set", "task.width=3"], "width"),
        (["deblur", "IN", "--out", "OUT", "--set", "controller=EnergyGuidance"], "does not solve linear problems"),
        (["deblur", "IN", "--out", "OUT", "--set", "controller.steps=3"], "steps"),
        (["deblur", "IN", "--out", "OUT", "--set", "task.blur=Grey()"], "over the channels"),
        (["denoise", "IN", "--out", "OUT", "--noise", "-1"], "above 0"),
        (["denoise", "IN", "--out", "OUT", "-n", "0"], "whole number"),
        (["deblur", "IN", "--out", "OUT", "--set", "controller=Pull(deviation=0.5)"], "each setting by itself"),
        (["denoise", "OUT/flow.json", "--out", "OUT"], "there is no file"),
    ],
)
def test_mistakes_at_the_command_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    from PIL import Image as Picture

    Picture.fromarray(picture()[..., 0]).save(tmp_path / "in.png")
    places = {"IN": str(tmp_path / "in.png"), "OUT": str(tmp_path / "out.png")}
    assert run(["solve", str(saved), *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
