"""The convention of a network is found from its outputs on data."""

from __future__ import annotations

import json
import math
import runpy

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.hub.probing import candidates, finding, probe, write_entry
from beeline.hub.unknown import unknown
from beeline.networks.hub.convention import Convention
from beeline.networks.hub.family import noise_level
from beeline.paths.affine import Cosine, Linear, VariancePreserving

df = pytest.importorskip("diffusers", reason="diffusers is not installed")
SHIFT, SCALE = 0.7, 3.0
MEANS = torch.tensor([[2.0, 0.0, -1.0], [-1.0, 1.5, 0.5], [0.0, -2.0, 1.5]])
LATENTS = [(1.0, 0.0), (SCALE, SHIFT)]
EVERY = candidates(LATENTS)


def mixture(scale: float = 1.0, shift: float = 0.0) -> bl.distributions.GaussianMixture:
    """The distribution of scale (x1 - shift)."""
    return bl.distributions.GaussianMixture((scale * (MEANS - shift)).tolist(), 0.4 * scale)


def exact(convention: Convention):
    """The network of the exact velocity in a convention; times beyond its range are moved to the ends."""
    field = mixture(convention.latent_scale, convention.latent_shift).field(convention.path)

    def network(z, tau):
        u = tau / convention.time_scale
        u = (1 - u if convention.clock is noise_level else u).clamp(0.001, 0.999)
        return convention.sign * convention.prediction.value(z, field(z, u), u, convention.path)

    return network


@pytest.fixture(scope="module")
def data():
    return mixture().sample(512, bl.Rng(1))


def check(truth, data):
    found = probe(exact(truth), data, among=EVERY, batch_size=512)
    assert found.decided and found.convention == truth
    assert found.margin > 3 and min(found.margins.values()) >= found.margin


@pytest.mark.parametrize("truth", EVERY[::7], ids=str)
def test_conventions_are_found(truth, data):
    check(truth, data)


@pytest.mark.slow
def test_every_convention_is_found(data):
    for truth in EVERY:
        check(truth, data)


@pytest.mark.parametrize("truth", EVERY[:: len(EVERY) // 8], ids=str)
def test_the_field_of_a_convention_is_the_velocity_of_the_data(truth, data):
    x, t = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 64)
    wanted = mixture().field()(x.double(), t.double())
    assert (truth.field(exact(truth))(x.double(), t.double()) - wanted).abs().max() < 1e-4


def test_the_error_of_the_truth_is_the_least_possible(data):
    """It is that of the exact velocity, whatever the convention."""
    losses = [
        probe(exact(truth), data, among=[truth, Convention(sign=-truth.sign)]).losses[0] for truth in EVERY[:30:7]
    ]
    assert max(losses) - min(losses) < 1e-3


def weights(seed):
    torch.manual_seed(seed)
    act, linear = torch.nn.SiLU, torch.nn.Linear
    return torch.nn.Sequential(linear(4, 64), act(), linear(64, 64), act(), linear(64, 3))


@pytest.mark.parametrize("seed", range(4))
def test_random_weights_are_undecided(seed, data):
    net = weights(seed)
    found = probe(lambda z, tau: net(torch.cat([z, tau[:, None] / 1000], 1)), data)
    assert not found.decided and not found.learned and "a linear estimate of every coordinate reaches" in found.reason
    with pytest.raises(BeelineError, match="the convention is undecided"):
        found.convention  # noqa: B018


def test_a_network_of_zeros_is_undecided(data):
    found = probe(lambda z, tau: torch.zeros_like(z), data)
    assert not found.decided and found.margin == 0


def test_a_linear_estimate_is_no_network(data):
    """The linear estimate of every coordinate, in the right convention, has learned means and variances only."""
    mean, var = data.mean(0), data.var(0)

    def network(z, tau):
        t = tau[:, None]
        return ((mean + t * var / (t**2 * var + (1 - t) ** 2) * (z - t * mean)) - z) / (1 - t)

    assert not probe(network, data, among=candidates(paths=[Linear()])).learned


def test_a_network_without_time_leaves_the_time_open(data):
    """The mean velocity over all times of a state: its output is decided, its clock is not."""
    grid, target = torch.linspace(0.05, 0.95, 30).double(), mixture()

    def network(z, tau):
        rows, times = z.double().repeat_interleave(len(grid), 0), grid.repeat(len(z))
        share = target.log_density(rows, times).reshape(len(z), -1).softmax(1)
        v = target.field()(rows, times).reshape(len(z), len(grid), -1)
        return (share[..., None] * v).sum(1).to(z)

    found = probe(network, data)
    assert found.learned and not found.decided
    assert found.margins["output"] > 3 and found.margins["time scale"] == 0
    assert "time scale" in found.reason and "output" not in found.reason


def test_few_data_leave_near_readings_open():
    """Two scales of the latents that differ by four percent are told apart by 20000 data, not by 128."""
    near = [Convention(latent_scale=k) for k in (1.0, 1.04)]
    few, many = (
        probe(exact(near[0]), mixture().sample(n, bl.Rng(1)), among=near, n=n, batch_size=n) for n in (128, 20000)
    )
    assert few.learned and not few.decided and "latents" in few.reason
    assert many.convention == near[0]


def test_another_path_can_be_added(data):
    truth = Convention(bl.predictions.Noise(), path=Cosine())
    assert probe(exact(truth), data, paths=[Cosine()]).convention == truth


@pytest.fixture(scope="module")
def trained():
    """A network of the package, trained on the mixture."""
    with bl.Rng(0).ambient():
        network = bl.Network(bl.networks.MLP(3, width=64, depth=2))
    training = bl.Training(steps=400, lr=3e-3)
    x1 = mixture().sample(4000, bl.Rng(2))
    return bl.fit(network, bl.objectives.FlowMatching(), x1, training, log=lambda entry: None)


def test_a_trained_network_is_found_and_written(tmp_path, data, trained):
    found = probe(lambda z, tau: -trained(z, 1 - tau / 1000), data)
    truth = Convention(sign=-1.0, clock=noise_level, time_scale=1000.0)
    assert found.convention == truth
    write_entry(found, tmp_path / "entry.py")
    assert runpy.run_path(str(tmp_path / "entry.py"))["CONVENTION"] == truth


def test_a_bundle_obeys_the_convention_of_the_package(tmp_path, data, trained, capsys):
    np.savez(tmp_path / "data.npz", x1=data.numpy())
    bl.Bundle(bl.Flow(trained), lineage={"shape": [3]}).save(tmp_path / "bundle")
    command = ["probe", str(tmp_path / "bundle"), "--data", str(tmp_path / "data.npz"), "--device", "cpu"]
    assert run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["decided"] and (said["output"], said["time"], said["path"]) == ("+velocity", "t", "Linear")
    assert run([*command, "--out", str(tmp_path / "entry.py")]) == 0
    assert "verdict  output +velocity, time t, data x1, path Linear" in capsys.readouterr().out
    assert runpy.run_path(str(tmp_path / "entry.py"))["CONVENTION"] == Convention()


def test_undecided_conventions_are_not_written(tmp_path, data, trained, capsys):
    np.save(tmp_path / "data.npy", data.numpy() + 100)
    bl.Bundle(bl.Flow(trained), lineage={"shape": [3]}).save(tmp_path / "bundle")
    command = ["probe", str(tmp_path / "bundle"), "--data", str(tmp_path / "data.npy"), "--out", str(tmp_path / "e.py")]
    assert run(command) == 2
    shown = capsys.readouterr()
    assert "verdict  undecided" in shown.out and "the convention is undecided" in shown.err
    assert not (tmp_path / "e.py").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--latent", "much"], "--latent got 'much'"),
        (["--latent", "0,1"], "a scale is above 0"),
        (["--data", "nowhere.npz"], "there is no file nowhere.npz"),
        (["-n", "3"], "at least 32 data"),
    ],
)
def test_arguments_that_cannot_work_are_refused(more, message, tmp_path, data, trained, capsys):
    np.savez(tmp_path / "data.npz", x1=data.numpy())
    bl.Bundle(bl.Flow(trained), lineage={"shape": [3]}).save(tmp_path / "bundle")
    assert run(["probe", str(tmp_path / "bundle"), "--data", str(tmp_path / "data.npz"), *more]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def component(tmp_path_factory):
    """A small SD3 transformer with random weights beside the configuration of an autoencoder."""
    from tests.networks.hub import tiny_images

    folder = tmp_path_factory.mktemp("pipeline")
    pipe = tiny_images.sd3().pipe
    pipe.transformer.save_pretrained(folder / "transformer")
    pipe.vae.save_pretrained(folder / "vae")
    return folder


def conditions(n):
    return {"text": torch.randn(n, 5, 32), "pooled": torch.randn(n, 64)}


@pytest.mark.parametrize("place", ["", "transformer"])
def test_a_component_of_diffusers_is_opened(component, place):
    x1 = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    opened = unknown(component / place, x1, conditions(32))
    assert opened.latents == ((1.5035, 0.0609),)
    assert opened.call.family.name == "sd3"
    found = probe(component / place, x1, conditions(32), n=32)
    assert not found.learned
    assert any(c.latent_scale == 1.5035 for c in found.readings)


def test_a_component_without_its_conditions_is_refused(component):
    with pytest.raises(BeelineError, match="SD3Transformer2DModel takes the conditions text, pooled.*without pooled"):
        probe(component, torch.randn(64, 4, 8, 8), {"text": torch.randn(64, 5, 32)})


def test_a_network_of_no_family_is_called_by_its_arguments(tmp_path):
    net = df.UNet2DModel(
        8,
        2,
        4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
    )
    net.save_pretrained(tmp_path / "unet")
    x, tau = torch.randn(2, 2, 8, 8), torch.tensor([10.0, 900.0])
    opened = unknown(tmp_path, torch.randn(64, 2, 8, 8))
    assert opened.call(x, tau).shape == (2, 4, 8, 8)
    assert (opened.call(x, tau) - net.eval()(x, tau).sample).abs().max() < 1e-6
    assert not probe(tmp_path, torch.randn(64, 2, 8, 8)).learned  # the second half of its output is left out


def test_a_component_that_diffusers_does_not_have_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "NoSuchModel"}))
    with pytest.raises(BeelineError, match="holds a NoSuchModel, which diffusers"):
        probe(tmp_path, torch.randn(64, 2))


@pytest.mark.parametrize("truth", EVERY[::11], ids=str)
def test_entries_construct_the_convention(truth):
    space: dict = {}
    exec(truth.entry(), space)
    assert space["CONVENTION"] == truth


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((3, torch.randn(64, 2)), "probe got int; give a bundle"),
        ((lambda x, t: x, torch.randn(8, 2)), "at least 32 data"),
        ((lambda x, t: x, torch.zeros(64, 2)), "standard deviation of 0.0"),
        ((lambda x, t: x, torch.randint(9, (64, 2))), "floating point numbers"),
        ((lambda x, t: x, [1.0]), "data is list"),
        ((lambda x, t: x[:, :1], torch.randn(64, 2)), r"returned \[64, 1\] for a state of shape \[64, 2\]"),
        ((lambda x, t: x @ x, torch.randn(64, 2)), "the network failed on a state of shape"),
        ((lambda x, t: x / 0, torch.randn(64, 2)), "NaN or infinite values under every reading"),
        ((lambda x, t: x, torch.randn(64, 2), torch.zeros(3)), "has 3 rows for 64 data"),
    ],
)
def test_what_cannot_be_probed_is_refused(arguments, message):
    with pytest.raises(BeelineError, match=message):
        probe(*arguments)


def test_a_learned_variance_is_left_out(data):
    truth = Convention(bl.predictions.Noise(), clock=noise_level, time_scale=1000.0, path=VariancePreserving())
    inside, wide = exact(truth), data.reshape(-1, 3, 1, 1)

    def network(z, tau):
        out = inside(z.flatten(1), tau)
        return torch.cat([out, 5 * torch.ones_like(out)], 1)[..., None, None]

    assert probe(network, wide).convention == truth


def test_infinite_errors_are_missing_in_json():
    readings = candidates()[:3]
    errors = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 4.0], [math.inf] * 3], dtype=torch.float64)
    found = finding(readings, errors, torch.tensor([5.0, 6.0, 7.5], dtype=torch.float64))
    assert found.readings[0] == readings[0] and found.leads[2] == math.inf
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert said["readings"][2]["error"] is None and said["readings"][1]["error"] == found.losses[1]


def test_missing_data_are_refused_before_weights_are_read(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel"}))
    monkeypatch.setattr("beeline.hub.unknown.component", lambda folder: pytest.fail("the weights were read"))
    with pytest.raises(BeelineError, match="--data FILE"):
        bl.hub.probe(str(tmp_path))
