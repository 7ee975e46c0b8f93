"""Bundles in the formats of other programs compute what the bundle computes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.data.images import Image
from beeline.hub.exporting import export
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.dit import DiffusersDiT
from tests.networks.hub import tiny_diffusions, tiny_text
from tests.networks.hub.tiny import awake

df = pytest.importorskip("diffusers", reason="diffusers is not installed")
SHAPE, LABEL = (1, 8, 8), {"label": {"classes": 3}}


def bundle_of(backbone, sampler=None, kind=bl.Network):
    modality = Image(SHAPE, classes=3)
    return bl.Bundle(bl.Flow(kind(awake(backbone, amount=0.2))), sampler or bl.Sampler(4), modality)


@pytest.fixture(scope="module")
def dit():
    torch.manual_seed(0)
    return bundle_of(DiffusersDiT(SHAPE, width=16, depth=2, heads=2, conditions=LABEL))


@pytest.fixture
def x0():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_the_component_and_its_scheduler_sample_as_the_bundle(dit, tmp_path, x0):
    said = export(dit, tmp_path / "out", license="mit")
    assert said["transformer"] == "DiTTransformer2DModel"
    net = df.DiTTransformer2DModel.from_pretrained(str(tmp_path / "out"), subfolder="transformer").eval()
    scheduler = df.FlowMatchEulerDiscreteScheduler.from_pretrained(str(tmp_path / "out"), subfolder="scheduler")
    scheduler.set_timesteps(5)
    labels, x = torch.tensor([0, 1, 2, 3]), x0
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, timestep=t.expand(4), class_labels=labels).sample, t, x).prev_sample
    schedule = bl.schedules.Explicit((1 - scheduler.sigmas.double()).tolist())
    found = bl.Sampler(5, schedule, bl.solvers.EULER)(dit.flow, x0, {"label": labels})
    assert (found - x).abs().max() < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "DiTTransformer2DModel.from_pretrained" in card and "3 is the null label" in card


def test_the_card_of_a_component_runs(dit, tmp_path, monkeypatch):
    export(dit, tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(code, space)
    assert space["x"].shape == (4, *SHAPE)


def test_the_network_is_saved_and_trained_as_any_other(dit, tmp_path, x0):
    dit.save(tmp_path / "bundle")
    again = bl.load(tmp_path / "bundle", device="cpu")
    label = {"label": torch.tensor([0, 1, 2, 3])}
    assert torch.equal(
        again.flow.field(x0, torch.full((4,), 0.3), label), dit.flow.field(x0, torch.full((4,), 0.3), label)
    )
    network = copy.deepcopy(dit.flow.field).requires_grad_(True)
    drop = bl.Drop(0.5, null=3)
    batch = bl.Batch(x0, cond={"label": torch.tensor([0, 1, 2, 0])})
    training = bl.Training(steps=2, batch_size=4)
    states = []
    for seed in (1, 2):  # of torch, which the network must not use
        torch.manual_seed(seed)
        made = bl.fit(
            copy.deepcopy(network), bl.objectives.FlowMatching(drop=drop), batch, training, log=lambda e: None
        )
        states.append(made.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"shape": (1, 8, 6)}, "takes square images"),
        ({"shape": (1, 9, 9)}, "multiple of the patch"),
        ({"width": 18, "heads": 4}, "divided equally among the heads"),
        ({"conditions": {"v": {"size": 3}}}, "one label and no other"),
        ({"conditions": {"a": {"classes": 3}, "b": {"classes": 3}}}, "one label and no other"),
    ],
)
def test_settings_that_the_class_does_not_have_are_refused(settings, message):
    with pytest.raises(BeelineError, match=message):
        DiffusersDiT(**{"shape": SHAPE, "width": 16, "heads": 2, "depth": 1, **settings})


@pytest.mark.parametrize(
    "cond, message",
    [
        ({"name": torch.zeros(4).long()}, r"got the conditions \['name'\]"),
        ({"label": torch.zeros(4)}, "pass integers"),
        ({"label": torch.tensor([0, 1, 2, 4])}, "the labels range from 0 to 4"),
    ],
)
def test_labels_are_checked(dit, x0, cond, message):
    with pytest.raises(BeelineError, match=message):
        dit.flow.field(x0, torch.zeros(4), cond)


def test_other_networks_are_refused_with_what_fits(tmp_path, capsys):
    torch.manual_seed(0)
    bundle = bundle_of(bl.networks.DiT(SHAPE, width=16, depth=1, heads=2, conditions=LABEL))
    with pytest.raises(BeelineError, match="the network of this bundle is a DiT; .*network=DiffusersDiT"):
        export(bundle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    bundle.save(tmp_path / "bundle")
    assert run(["export", str(tmp_path / "bundle"), "--out", str(tmp_path / "out"), "--to", "difusers"]) == 2
    assert "did you mean 'diffusers'?" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "bundle"), "--out", str(tmp_path / "out"), "--to", "onnx"]) == 2
    assert "the sampler takes 4 steps of RungeKutta" in capsys.readouterr().err


def test_a_directory_with_files_is_not_overwritten(dit, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BeelineError, match="exists and is not empty"):
        export(dit, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return tiny_text.flux(tmp_path_factory.mktemp("flux"))


def test_a_pipeline_is_written_with_the_present_weights(pipeline, tmp_path):
    """After training on the field of a bundle, both libraries load the new network; the given pipeline is unchanged."""
    bundle = from_pipeline(pipeline, height=8, width=8)
    field = copy.deepcopy(bundle.flow.field)
    awake(field.net, seed=5)
    trained = replace(bundle, flow=replace(bundle.flow, field=field))
    before = pipeline.transformer
    said = export(trained, tmp_path / "out")
    assert said == {
        "directory": str(tmp_path / "out"), "pipeline": "FluxPipeline", "scheduler": "FlowMatchEulerDiscreteScheduler"
    }  # fmt: skip
    assert pipeline.transformer is before
    again = bl.load(tmp_path / "out", device="cpu", height=8, width=8)
    few = bl.Sampler(2, again.sampler.schedule, bl.solvers.EULER)
    a, b, c = (one.sample(1, prompt="a bird", seeds=[1], sampler=few) for one in (trained, again, bundle))
    assert np.array_equal(np.asarray(a[0]), np.asarray(b[0])) and not np.array_equal(np.asarray(a[0]), np.asarray(c[0]))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "DiffusionPipeline.from_pretrained" in card and str(tmp_path) not in card


def test_what_a_pipeline_does_not_hold_is_said(pipeline, tmp_path):
    bundle = from_pipeline(pipeline, height=8, width=8)
    changed = replace(bundle, sampler=replace(bundle.sampler, steps=3, solver=bl.solvers.HEUN))
    assert export(changed, tmp_path / "out")["not written, of the sampler"] == "steps, solver"


def test_a_diffusion_has_its_network_in_the_component_of_the_pipeline(tmp_path):
    case = tiny_diffusions.stable_diffusion()
    bundle = from_pipeline(case.pipe, **case.size)
    field = copy.deepcopy(bundle.flow.field)
    awake(field.net, seed=5)
    said = export(replace(bundle, flow=replace(bundle.flow, field=field)), tmp_path / "out")
    assert said["pipeline"] == "StableDiffusionPipeline" and "not written, of the sampler" not in said
    stored = df.UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet").state_dict()
    assert all(torch.equal(stored[name], value) for name, value in field.net.state_dict().items())


def evaluated(file, inputs):
    """The output of a graph by onnxruntime, or else by the evaluator of onnx."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(str(file)).run(None, inputs)[0]
    return onnxruntime.InferenceSession(str(file)).run(None, inputs)[0]


ONE = bl.Sampler(1, solver=bl.solvers.EULER)
STUDENTS = {
    "DiT": lambda: bundle_of(bl.networks.DiT(SHAPE, width=16, depth=1, heads=2, conditions=LABEL), ONE),
    "UNet": lambda: bundle_of(bl.networks.UNet(SHAPE, width=8, conditions=LABEL), ONE),
    "flow map": lambda: bundle_of(
        bl.networks.DiT(SHAPE, width=16, depth=1, heads=2, conditions=LABEL, span=True),
        bl.Sampler(1, solver=bl.solvers.FlowMapStep()),
        bl.MapNetwork,
    ),
    "MLP": lambda: bl.Bundle(bl.Flow(bl.Network(awake(bl.networks.MLP(3, width=8)))), ONE, lineage={"shape": [3]}),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_graphs_of_one_step_students_give_their_samples(name, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    bundle = STUDENTS[name]()
    said = export(bundle, tmp_path / "out", "onnx")
    x0 = bundle.start([1, 2, 3, 4, 5])
    cond = None if bundle.modality is None else {"label": torch.tensor([0, 1, 2, 3, 1])}
    inputs = {"x0": x0.numpy()} | ({} if cond is None else {"label": cond["label"].numpy()})
    assert said["inputs"] == ", ".join(inputs)
    found = evaluated(tmp_path / "out" / said["graph"], inputs)
    assert np.abs(found - bundle.draw(x0, cond).numpy()).max() < 1e-5
    assert 'InferenceSession("out/model.onnx")' in (tmp_path / "out" / "README.md").read_text()


def test_the_exported_bundle_is_unchanged(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    bundle = STUDENTS["MLP"]()
    bundle.flow.field.double().train()
    export(bundle, tmp_path / "out", "onnx")
    assert {p.dtype for p in bundle.flow.field.parameters()} == {torch.float64} and bundle.flow.field.training


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BeelineError, match=r"pip install 'beeline\[onnx\]'"):
        export(STUDENTS["MLP"](), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
