"""The reference, rule, controller and energy of CONTRIBUTING, on a network for digits and on a tiny FLUX."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from typer.testing import CliRunner

import beeline as bl
from beeline.cli.main import app
from beeline.config.registry import register, unregister
from beeline.data.images import Image
from beeline.networks.dit import DiT
from beeline.sampling.steering.descending import EnergyGuidance
from tests.test_readme import KINDS, blocks, run

OWN = ("Clipped", "Scaled", "Bounded", "Bright")
pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def own():
    """The components of CONTRIBUTING, registered."""
    found = run("\n".join(blocks("CONTRIBUTING.md")))
    for name in OWN:
        register(KINDS[name], name, found[name])
    yield found
    for name in OWN:
        unregister(KINDS[name], name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Directories of a bundle of digits and of a pipeline, with the options of sampling from each."""
    from tests.networks.hub import tiny_text

    folder = tmp_path_factory.mktemp("models")
    with bl.Rng(0).ambient():
        backbone = DiT((1, 8, 8), 2, 16, 2, 2, {"label": {"classes": 10}})
        torch.nn.init.normal_(backbone.out.weight, std=0.3)
    net = bl.Network(backbone)
    modality = Image(shape=(1, 8, 8), classes=10)
    bl.Bundle(bl.Flow(net, null={"label": 10}), bl.Sampler(2), modality=modality).save(folder / "digits")
    tiny_text.flux(folder / "tokenizers").save_pretrained(folder / "flux")
    return {
        "digits": [str(folder / "digits"), "-c", "label=3"],
        "flux": [str(folder / "flux"), "-c", "prompt=cat", "--set", "load.height=8", "--set", "load.width=8"],
    }


def pictures(given, out):
    """The pixels of two samples from the command line."""
    made = CliRunner().invoke(app, ["sample", *given, "-n", "2", "--set", "sampler.steps=2", "--out", str(out)])
    assert made.exit_code == 0, made.output
    files = [out] if out.is_file() else sorted(out.glob("*.png"))
    return np.concatenate([np.asarray(Picture.open(file)).astype(int).ravel() for file in files])


@pytest.mark.parametrize("name", ["digits", "flux"])
def test_own_methods_sample_from_the_command_line(own, folders, name, tmp_path):
    plain = pictures(folders[name], tmp_path / "plain.png" if name == "digits" else tmp_path / "plain")
    for i, option in enumerate(
        (
            ("--set", "sampler.guidance=Guide(Scaled(0.5), Clipped(3.0, 5.0))"),
            ("--steer", "Bounded(0.2)"),
            ("--steer", "Bright(0.9)"),
        )
    ):
        out = tmp_path / (f"{i}.png" if name == "digits" else str(i))
        assert (pictures([*folders[name], *option], out) != plain).mean() > 0.05


def test_own_methods_sample_in_python(own, folders):
    flow = bl.load(folders["digits"][0])
    x0, cond = bl.Rng(0).normal(torch.empty(3, 1, 8, 8)), {"label": torch.tensor([1, 2, 3])}
    rule, reference = own["Clipped"](3.0, 5.0), own["Scaled"](0.5)
    sampler = bl.Sampler(
        2,
        guidance=bl.Guide(reference, rule),
        controllers=(own["Bounded"](0.2), EnergyGuidance(own["Bright"](0.9))),
    )
    found = sampler(flow.flow, x0, cond)
    assert found.isfinite().all() and not torch.equal(found, bl.Sampler(2)(flow.flow, x0, cond))
