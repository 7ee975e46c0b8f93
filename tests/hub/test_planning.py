"""Predicted memory and operations of pretrained pipelines: equal to those of the loaded ones, without their weights."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import beeline as bl
from beeline.cli.main import app
from beeline.core.errors import BeelineError
from beeline.hub import planning
from beeline.hub.loading import decode_in_parts
from beeline.hub.pipelines import from_pipeline
from beeline.sampling.guidance.guide import guidance_for_flow
from beeline.training.memory import Tracker
from tests.networks.hub import tiny_diffusions, tiny_images, tiny_text, tiny_videos
from tests.networks.hub.tiny import kl

WITHOUT = {"text_encoder_3": None, "tokenizer_3": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved pipeline with text encoders."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_text.sd3(folder / "tokenizers").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(planning, "rate", lambda device, dtype: 1e9)


def test_components_have_the_weights_of_the_loaded_pipeline(saved):
    found = bl.hub.plan(saved, device="cpu", height=8, width=8, **WITHOUT)
    pipeline = bl.load(saved, device="cpu", height=8, width=8, **WITHOUT).modality.pipeline
    for component in found.components:
        tensors = getattr(pipeline, component.name).state_dict().values()
        assert component.parameters == sum(t.numel() for t in tensors)
        assert component.weights == 4 * component.parameters
        assert component.largest == 4 * max(t.numel() for t in tensors)
    assert {"transformer", "vae", "text_encoder", "text_encoder_2"} == {c.name for c in found.components}


def test_precision_is_that_of_each_component(saved):
    kinds = {"transformer": "bfloat16", "default": "float32"}
    found = bl.hub.plan(saved, device="cpu", height=8, width=8, dtype=kinds, **WITHOUT)
    widths = {c.name: c.weights // c.parameters for c in found.components}
    assert widths == {"transformer": 2, "vae": 4, "text_encoder": 4, "text_encoder_2": 4}
    pipeline = bl.load(saved, device="cpu", height=8, width=8, dtype=kinds, **WITHOUT).modality.pipeline
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(BeelineError, match="'tansformer', which is no component.*'transformer'"):
        bl.load(saved, device="cpu", dtype={"tansformer": "bfloat16"})


@pytest.mark.parametrize(
    "make", [tiny_images.flux, tiny_images.chroma, tiny_videos.wan, tiny_diffusions.stable_diffusion]
)
def test_activations_and_operations_are_those_of_the_networks(make, tmp_path):
    case = make()
    case.pipe.save_pretrained(tmp_path)
    found = bl.hub.plan(tmp_path, 2, device="cpu", **case.size)
    used = {c.name: c.activations for c in found.components}
    bundle = from_pipeline(case.pipe, **case.size)
    family = bundle.modality.family
    cond = planning.condition(family, case.pipe, 2)
    guided = {**cond, "negative": cond}
    f = guidance_for_flow(bundle.sampler.guidance, bundle.flow)(bundle.flow.field, guided)
    with torch.no_grad(), planning.counter() as operations, Tracker() as tracker:
        f(torch.zeros(2, *bundle.modality.shape), torch.full((2,), 0.5))
    assert used["unet" if "unet" in used else "transformer"] == pytest.approx(tracker.peak, rel=0.02)
    assert found.operations == operations.get_total_flops() > 0
    assert found.seconds == pytest.approx(found.evaluations * found.operations / 1e9)
    with torch.no_grad(), Tracker() as tracker:
        planning.pixels_of(case.pipe.vae, family, torch.zeros(2, *bundle.modality.shape))
    assert used["vae"] == pytest.approx(tracker.peak, rel=0.15)


def test_peaks_follow_from_the_components(saved):
    found = bl.hub.plan(saved, device="cpu", height=8, width=8, **WITHOUT)
    weights = {c.name: c.weights for c in found.components}
    used = {c.name: c.activations for c in found.components}
    most = max(used.values())
    assert found.peak == found.peaks["none"] == sum(weights.values()) + most
    assert found.peaks["model"] == max(weights[name] + used[name] for name in weights)
    assert most < found.peaks["group"] < found.peaks["model"] < found.peaks["none"]
    offloaded = bl.hub.plan(saved, device="cpu", height=8, width=8, offload="model", **WITHOUT)
    assert offloaded.peak == found.peaks["model"]


def test_weights_are_not_read(saved, tmp_path):
    """Files that end after their headers give the same plan."""
    shutil.copytree(saved, tmp_path / "cut")
    for file in (tmp_path / "cut").rglob("*.safetensors"):
        content = file.read_bytes()
        file.write_bytes(content[: 8 + struct.unpack("<Q", content[:8])[0]])
    plans = [bl.hub.plan(path, device="cpu", height=8, width=8, **WITHOUT) for path in (saved, tmp_path / "cut")]
    assert replace(plans[0], free=0) == replace(plans[1], free=0)


def test_tiling_lowers_the_memory_of_decoding():
    """A picture of 64 latents is decoded in tiles of 32 pixels."""
    vae = kl(block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, sample_size=32,
             up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    z = torch.zeros(1, 4, 64, 64)
    peaks = []
    for tiling in (False, True):
        decode_in_parts(vae, tiling, slicing=False)
        with torch.no_grad(), Tracker() as tracker:
            vae.decode(z)
        peaks.append(tracker.peak)
    assert peaks[1] < peaks[0]


def test_decoding_in_parts_is_switched_on_by_load(saved):
    bundle = bl.load(saved, device="cpu", height=8, width=8, tiling=True, slicing=True, **WITHOUT)
    vae = bundle.modality.pipeline.vae
    assert vae.use_tiling and vae.use_slicing

    class Whole:
        def enable_tiling(self):
            raise NotImplementedError

    with pytest.raises(BeelineError, match="Whole, which cannot decode in parts"):
        decode_in_parts(Whole(), True, False)


def test_a_pipeline_of_the_hub_is_planned_from_its_files(saved, monkeypatch):
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    asked = []

    def system():
        (saved.parent / "owner").mkdir(exist_ok=True)
        link = saved.parent / "owner" / "model@main"
        if not link.exists():
            link.symlink_to(saved)
        return DirFileSystem(str(saved.parent), LocalFileSystem())

    def download(name, file, revision=None):
        asked.append((name, file, revision))
        return str(saved / file)

    monkeypatch.setattr("huggingface_hub.HfFileSystem", system)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = bl.hub.plan("owner/model", device="cpu", revision="main", height=8, width=8, **WITHOUT)
    assert asked == [("owner/model", "model_index.json", "main")]
    assert found.components == bl.hub.plan(saved, device="cpu", height=8, width=8, **WITHOUT).components


def test_families_whose_calls_depend_on_values_say_so(tmp_path):
    case = tiny_images.lumina2()
    case.pipe.save_pretrained(tmp_path)
    found = bl.hub.plan(tmp_path, device="cpu", **case.size)
    assert found.seconds is None and found.operations is None
    assert "not predicted for this family" in "\n".join(found.lines())


def test_what_cannot_be_planned_is_refused(saved, tmp_path):
    with pytest.raises(BeelineError, match="is no pipeline of diffusers"):
        bl.hub.plan(tmp_path)
    with pytest.raises(BeelineError, match="offload='modle' was given; did you mean 'model'"):
        bl.hub.plan(saved, offload="modle")
    shutil.copytree(saved, tmp_path / "old")
    file = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(BeelineError, match="weights of vae are no safetensors"):
        bl.hub.plan(tmp_path / "old", device="cpu")


def run(*words):
    return CliRunner().invoke(app, ["sample", *map(str, words)])


def test_the_command_prints_the_plan(saved):
    size = ["--set", "load.height=8", "--set", "load.width=8", "--device", "cpu"]
    shown = run(saved, "-n", 3, "--plan", "--set", "sampler.steps=5", *size)
    assert shown.exit_code == 0, shown.output
    assert "samples       3 of shape (4, 8, 8), on cpu" in shown.output
    assert "peak memory" in shown.output and "5 evaluations" in shown.output
    plain = json.loads(run(saved, "--plan", "--json", *size, "--set", "load.dtype=bfloat16").output)
    widths = {c["weights"] / c["parameters"] for c in plain["components"]}
    assert widths == {2.0} and plain["peak"] == plain["peaks"]["none"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--set", "load.hight=8", "--plan"], "hight"),
        (["--set", "load.height=tall", "--plan"], "height"),
        ([], "--out samples.png"),
    ],
)
def test_mistakes_of_the_command_are_explained(saved, words, message):
    result = run(saved, *words)
    assert isinstance(result.exception, BeelineError | SystemExit)
    assert message in f"{result.output}{result.exception}"


def test_settings_of_pipelines_are_refused_for_bundles(tmp_path):
    with pytest.raises(BeelineError, match="offload, height was given.*no pipeline of diffusers"):
        bl.load(tmp_path, offload="model", height=8)
