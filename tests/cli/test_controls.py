"""``beeline adapt BUNDLE CONTROL``, or BRANCH, and sampling with hints."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from beeline.cli.main import run
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.described.hint_pictures import HintPictures
from beeline.data.image_files import Digits
from beeline.data.latents.autoencoders import PatchChannels
from beeline.data.latents.hints import OfPictures, with_hints
from beeline.data.latents.modality import LatentImage
from beeline.fields.flow import Flow, Network
from beeline.networks.branches.dispatch import Dispatch
from beeline.networks.controls.hints import Edges
from beeline.networks.controls.with_control import controls_of
from beeline.networks.dit import DiT
from beeline.runs.adapters.controls import with_control
from beeline.runs.bundle import Bundle, load

QUICK = ["--set", "training.steps=2", "--set", "training.batch_size=8", "--no-report"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    modality = Digits().modality().fit(Digits().load()[0])
    with Rng(0).ambient():
        net = Network(DiT(modality.shape, width=16, depth=2, heads=2, conditions=modality.conditions))
        torch.nn.init.normal_(net.backbone.out.weight, std=0.1)
    lineage = {"made_by": "train", "data": config.describe(Digits())}
    return Bundle(Flow(net, null={"label": 10}), modality=modality, lineage=lineage).save(
        tmp_path_factory.mktemp("controls") / "digits"
    )


def test_a_control_is_trained_saved_and_sampled_with_a_file(digits, tmp_path, capsys):
    out, hint = tmp_path / "run", tmp_path / "edges.png"
    assert run(["adapt", str(digits), "ControlBranch", *QUICK, "--out", str(out)]) == 0
    made = load(out)
    assert set(controls_of(made.flow.field)) == {"edges"} and made.flow.null == {"label": 10}
    assert made.modality.conditions["control"] == {"channels": 1, "height": 8, "width": 8}
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Picture.fromarray(pixels).save(hint)
    sample = ["sample", str(out), "-n", "4", "--condition"]
    assert run([*sample, f"label=3,control={hint}", "--out", str(tmp_path / "a.npz")]) == 0
    drawn = np.load(tmp_path / "a.npz")["images"]
    same = torch.as_tensor(2 * (pixels + 0.5) / 256 - 1).float()[None].expand(4, 1, 8, 8)
    for value in (pixels, same):
        assert np.array_equal(np.asarray(made.sample(4, cond={"label": 3, "control": value})), drawn)
    file = ["--control", str(out / "control.safetensors")]
    apart = ["sample", str(digits), "-n", "4", *file, "--condition", f"label=3,control={hint}"]
    assert run([*apart, "--out", str(tmp_path / "c.npz")]) == 0
    assert np.array_equal(np.load(tmp_path / "c.npz")["images"], drawn), "the control of a file, on its base"
    assert run(["sample", str(out), *file, "--out", str(tmp_path / "d.npz")]) == 2
    assert "named 'edges' beside ['edges']" in capsys.readouterr().err
    base = load(digits).sample(4, label=3)
    assert np.array_equal(np.asarray(made.sample(4, label=3)), np.asarray(base)), "without a hint it is the base"
    capsys.readouterr()
    Picture.fromarray(pixels[:7]).save(hint)
    for words, message in (
        (f"label=3,control={hint}", r"shape (1, 7, 8), and the data have (1, 8, 8)"),
        ("control=nothing.png", "no picture nothing.png"),
        (f"control={{edge: {hint}}}", "no control 'edge'; did you mean 'edges'"),
    ):
        assert run([*sample, words, "--out", str(tmp_path / "b.npz")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(BeelineError, match="3 values were given as the condition 'control' of 4 samples"):
        made.sample(4, cond={"control": same[:3]})
    with pytest.raises(BeelineError, match="from -1.99 to .*between -1 and 1"):
        made.sample(1, cond={"control": 2 * same[:1]})
    second = tmp_path / "second"
    words = ["adapt", str(out), "T2IAdapter(width=8)", "--set", "method.hint=Blur()", *QUICK, "--out", str(second)]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]
    both = load(second)
    assert set(both.modality.conditions) == {"label", "control.edges", "control.blur"}
    only = both.sample(4, cond={"label": 3, "control": {"edges": pixels}})
    assert np.array_equal(np.asarray(only), drawn), "the second control is off without its hint"
    assert run(["adapt", str(out), "T2IAdapter", *QUICK, "--out", str(tmp_path / "third")]) == 2
    assert "named 'edges' beside ['edges']" in capsys.readouterr().err


def test_hints_of_latents_are_those_of_their_pictures(digits, tmp_path):
    base = load(digits)
    modality = LatentImage(PatchChannels(2), base.modality).fit(Digits().load()[0])
    with Rng(0).ambient():
        net = Network(DiT(modality.shape, width=16, depth=2, heads=2, conditions=modality.conditions))
    where = Bundle(Flow(net, null={"label": 10}), modality=modality, lineage=base.lineage).save(tmp_path / "latents")
    assert run(["adapt", str(where), "ControlBranch", *QUICK, "--out", str(tmp_path / "run")]) == 0
    made = load(tmp_path / "run")
    assert made.modality.conditions["control"] == {"channels": 4, "height": 4, "width": 4}
    assert set(controls_of(made.flow.field)) == {"edges"}
    raw = Digits().load()[0].rows(slice(3))
    x, latents = base.modality.encode(raw).x1, modality.encode(raw).x1
    given = made.modality.condition({"control": Edges()(x)}, 3)["control"]
    assert torch.allclose(OfPictures(Edges(), modality)(latents), given, atol=1e-5)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert len(with_control(load(where), tmp_path / "run").sample(2, cond={"label": 3, "control": pixels})) == 2
    with pytest.raises(BeelineError, match=r"latents \(4, 3\) of pictures \(8, 8\)"):
        with_hints(replace(modality, shape=(4, 4, 3)), {"edges": 1})


def test_a_branch_is_trained_saved_and_never_merged(digits, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["adapt", str(digits), "Dispatch(rank=4)", "--set", "method.branch.rate=0.75", *QUICK, "--out", str(out)]
    assert run(words) == 0
    made, base = load(out), load(digits)
    net = made.flow.field.backbone
    assert net.settings["branch"] == Dispatch(0.75, rank=4) and made.flow.null == {"label": 10}
    off = replace(made, flow=replace(made.flow, field=Network(net.at(0.0))))
    assert np.array_equal(np.asarray(off.sample(4, label=3)), np.asarray(base.sample(4, label=3)))
    again = load(made.save(tmp_path / "again"))
    drawn = [np.asarray(bundle.sample(4, label=3)) for bundle in (made, again)]
    assert np.array_equal(*drawn)
    capsys.readouterr()
    assert run(["adapt", str(digits), "Bottlenek", *QUICK, "--out", str(tmp_path / "b")]) == 2
    assert "did you mean 'Bottleneck'" in capsys.readouterr().err
    assert run(["lora", "merge", str(out), "--out", str(tmp_path / "m")]) == 2
    assert "Dispatch was to be merged" in capsys.readouterr().err


def test_pictures_of_hints_are_read_in_every_form():
    two = HintPictures(2, 3, {"a": 1, "b": 3})
    grey = np.array([[0, 127, 255], [1, 2, 3]], np.uint8)
    made = two.encode([{"a": grey, "b": grey}, {"b": torch.ones(3, 2, 3)}, None])
    assert made["a"].shape == (3, 1, 2, 3) and made["b"].shape == (3, 3, 2, 3)
    assert torch.equal(made["a"][0, 0, 0], torch.tensor([-1 + 1 / 256, -1 / 256, 1 - 1 / 256]))
    assert (
        torch.equal(made["b"][0, 2], made["a"][0, 0])
        and not made["a"][1:].any()
        and torch.equal(made["b"][2], made["b"][2] * 0)
    )
    with pytest.raises(BeelineError, match="one hint was given for the controls a, b"):
        two.encode([grey])
    assert Edges()(made["b"]).shape == (3, 1, 2, 3)
