"""Tree-Ring watermarks: exact statistics of noise, and marks that an exact inversion finds again."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.couplings.watermark import TreeRing
from beeline.data.images import Image, Images
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT
from beeline.runs.bundle import Bundle
from beeline.runs.editing.watermarks import detect, secret_of, watermarked
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import HEUN


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(28, 28), (16, 31)])
def test_p_values_of_noise_are_uniform_and_those_of_marks_vanish(seed, size):
    noise = Rng(seed).normal(torch.empty(600, 2, *size))
    mark = TreeRing(seed + 10, radius=5, channel=1)
    assert kstest(mark.p_value(noise).numpy(), "uniform").pvalue > 1e-3
    marked = mark(noise)
    assert float(mark.p_value(marked).max()) < 1e-6 and float(mark.distance(marked).max()) < 1e-4
    assert float(TreeRing(seed + 11, 5, 1).p_value(marked).median()) > 1e-3, "another key finds nothing"
    assert torch.equal(marked[:, 0], noise[:, 0]), "other channels stay as they are"


def test_p_values_of_states_that_are_far_from_noise():
    """A poor inversion leaves hardly any coefficient outside of the rings, which makes the statistic large."""
    noise, mark = Rng(0).normal(torch.empty(4, 1, 16, 16)), TreeRing(3, 2)
    found = mark.p_value(torch.cat([mark(noise * 1e-4), mark(noise * 1e-4) + 0.5 * noise, torch.ones(1, 1, 16, 16)]))
    assert bool(((found[:8] >= 0) & (found[:8] <= 1)).all()) and float(found[:4].max()) < 1e-6


def test_a_mark_leaves_the_power_of_noise():
    noise = Rng(0).normal(torch.empty(1, 1, 28, 28)).expand(400, -1, -1, -1)
    made = torch.cat([TreeRing(k)(noise[k : k + 1]) for k in range(400)])
    assert abs(float(made.std()) - float(noise[0].std())) < 0.03, "over keys, coefficients have the variance of noise"


def test_the_coefficients_of_a_mark_are_those_of_a_real_picture():
    inside, wanted = TreeRing(3, 4)._rings((15, 20))
    values = torch.where(inside, wanted, wanted.new_zeros(()))
    assert float(torch.fft.ifft2(values).imag.abs().max()) < 1e-12
    assert not inside[0, 0] and int(inside.sum()) % 2 == 0


class Scaled(torch.nn.Module):
    """The field whose flow multiplies the noise by 0.5."""

    def forward(self, x, t, cond=None):
        return -0.5 * x / (1 - 0.5 * t.view(-1, 1, 1, 1))


@pytest.fixture(scope="module")
def bundle():
    pixels = Rng(0).integers(256, 2 * 28 * 28).view(2, 28, 28, 1).to(torch.uint8).numpy()
    return Bundle(Flow(Scaled()), Sampler(8, solver=HEUN), Image().fit(Images(pixels)), {"shape": [1, 28, 28]})


def test_inverting_an_exact_flow_separates_marked_from_plain_samples(bundle):
    mark = TreeRing.of_secret(b"secret")
    marked, plain = watermarked(bundle, mark).sample(32), bundle.sample(32)
    assert not np.array_equal(marked.pixels, plain.pixels)
    found, none = detect(bundle, mark, marked), detect(bundle, mark, plain)
    assert float(found.p_value.max()) < 1e-6 < float(none.p_value.min())
    assert found.summary["marked"] == 32 and none.summary["marked"] == 0
    noisy = np.clip(marked.pixels + np.random.default_rng(0).normal(0, 8, marked.pixels.shape), 0, 255)
    assert detect(bundle, mark, Images(noisy.astype(np.uint8))).summary["marked"] == 32


@pytest.mark.parametrize(
    ("mark", "shape", "message"),
    [(TreeRing(0), (3,), "pictures"), (TreeRing(0, channel=3), (1, 8, 8), "a channel from 0 to 0"),
     (TreeRing(0, radius=4), (1, 8, 8), "a radius from 1 to 3")],
)  # fmt: skip
def test_data_that_are_too_small_are_refused(mark, shape, message):
    with pytest.raises(BeelineError, match=message):
        mark(torch.zeros(1, *shape))


def test_the_command_finds_a_mark(bundle, tmp_path, capsys):
    secret, file = tmp_path / "secret", tmp_path / "it.npz"
    secret.write_text("0123456789abcdef")
    made = watermarked(trained(), secret_of(secret)).sample(8)
    trained().modality.save(made, file)
    place = trained().save(tmp_path / "bundle")
    assert (
        run(["detect", str(place), str(file), "--watermark", str(secret), "--set", "sampler.steps=20", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == 8 and found["marked"] == 8 and found["provenance"] is None
    for words, message in [
        (["--watermark", "none"], "there is no file none"),
        (["--watermark", str(file.parent / "few")], "at least 8"),
    ]:
        (tmp_path / "few").write_text("abc")
        assert run(["detect", str(place), str(file), *words]) == 2
        assert message in capsys.readouterr().err


def trained():
    """A bundle of a network that can be saved and whose flow is nearly straight: its weights are small."""
    pixels = Rng(0).integers(256, 2 * 16 * 16).view(2, 16, 16, 1).to(torch.uint8).numpy()
    with Rng(1).ambient():
        net = DiT((1, 16, 16), width=16, depth=1, heads=2)
    return Bundle(Flow(Network(net).eval()), Sampler(20), Image().fit(Images(pixels)), {"shape": [1, 16, 16]})
