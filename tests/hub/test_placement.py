"""Placement and quantization of pretrained pipelines, and networks in one file."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub import loading, placement, planning
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.layout import dtype_of
from tests.networks.hub import tiny_images
from tests.networks.hub.tiny import df

NO_TEXT = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
SIZE = dict(height=8, width=8, **NO_TEXT)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_images.flux().pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def given(monkeypatch):
    """The arguments of ``from_pretrained``; placement and quantization do not reach it."""
    made, usual = {}, df.DiffusionPipeline.from_pretrained

    def from_pretrained(name, device_map=None, quantization_config=None, **more):
        made.update(more, device_map=device_map, quantization_config=quantization_config)
        return usual(name, **more)

    monkeypatch.setattr(df.DiffusionPipeline, "from_pretrained", from_pretrained)
    return made


def latents(bundle):
    """Of a bundle without text encoders."""
    case = tiny_images.flux()
    return replace(bundle.sampler, steps=2)(bundle.flow, case.x0[:1], {k: v[:1] for k, v in case.cond.items()})


def test_a_device_map_and_a_quantization_reach_diffusers(saved, given, monkeypatch):
    monkeypatch.setattr(loading, "resolve_device", lambda device: torch.device("cuda"))
    config = df.PipelineQuantizationConfig(quant_mapping={"transformer": df.QuantoConfig()})
    bundle = bl.load(saved, device_map="balanced", quantization_config=config, **SIZE)
    assert given["device_map"] == "balanced" and given["quantization_config"] is config
    assert bundle.device.type == "cpu", "a distributed pipeline is not moved"
    assert given["dtype"] == {"default": torch.bfloat16}


def test_they_are_left_out_where_they_are_not_given(saved, monkeypatch):
    seen = []
    usual = df.DiffusionPipeline.from_pretrained
    monkeypatch.setattr(
        df.DiffusionPipeline, "from_pretrained", lambda name, **more: seen.append(more) or usual(name, **more)
    )
    bl.load(saved, device="cpu", **SIZE)
    assert set(seen[0]) == {"revision", "dtype", *NO_TEXT}


def test_sequential_offload_gives_the_same_latents_and_pictures(monkeypatch):
    """With the CPU on both sides; the weights are without memory between their uses."""
    usual = accelerate.cpu_offload  # to the device "cpu:0", which is no CPU for it
    monkeypatch.setattr(accelerate, "cpu_offload", lambda net, device, **more: usual(net, torch.device("cpu"), **more))
    case = tiny_images.flux()
    wanted = from_pipeline(case.pipe, height=8, width=8)
    before = latents(wanted), wanted.modality.decode(case.x0[:1])
    placement.OFFLOADS["sequential"](case.pipe, torch.device("cpu"))
    bundle = from_pipeline(case.pipe, height=8, width=8)
    assert all(p.is_meta for p in case.pipe.transformer.parameters()) and bundle.device.type == "cpu"
    assert torch.equal(latents(bundle), before[0])
    assert bundle.modality.decode(case.x0[:1])[0].tobytes() == before[1][0].tobytes()
    assert bundle.modality.encode(before[1]).x1.shape == case.x0[:1].shape


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"offload": "model", "device_map": "balanced"}, "does not offload components.*leave one of them out"),
        ({"device_map": "auto"}, "device_map='auto' was given; valid names: balanced"),
        ({"device_map": "balanced"}, "device_map='balanced' was given with the device cpu"),
        ({"offload": "sequental"}, "did you mean 'sequential'"),
        ({"quantization_config": "torchao-int7"}, "did you mean 'torchao-int8'"),
        ({"quantization_config": "bitsandbytes-4bit"}, "bitsandbytes needs an accelerator.*torchao"),
    ],
)
def test_placements_that_cannot_work_are_refused(saved, given, arguments, message):
    with pytest.raises(BeelineError, match=message):
        bl.load(saved, device="cpu", **SIZE, **arguments)
    assert not given, "before the weights are loaded"


def test_a_missing_library_is_named(saved, given, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(placement.importlib, "import_module", missing)
    with pytest.raises(BeelineError, match="needs the library torchao, which is not installed; pip install torchao"):
        placement.importable("torchao.quantization", "quantization_config='torchao-int8'")


@pytest.mark.parametrize("name", placement.QUANTIZATIONS)
def test_a_named_quantization_is_one_of_the_networks(name):
    pytest.importorskip(placement.QUANTIZATIONS[name].library.partition(".")[0])
    index = {"transformer": ["diffusers", "A"], "vae": ["diffusers", "B"], "boundary_ratio": 0.5}
    config = placement.quantization(name, index)
    assert isinstance(config, df.PipelineQuantizationConfig) and set(config.quant_mapping) == {"transformer"}


def test_torchao_quantizes_the_network_alone(saved):
    pytest.importorskip("torchao", reason="torchao is not installed")
    wanted = latents(bl.load(saved, device="cpu", **SIZE))
    bundle = bl.load(saved, device="cpu", quantization_config="torchao-int8", dtype="bfloat16", **SIZE)
    kinds = {type(p).__name__ for p in bundle.modality.pipeline.transformer.parameters()}
    assert len(kinds) > 1 and {type(p).__name__ for p in bundle.modality.pipeline.vae.parameters()} == {"Parameter"}
    assert (latents(bundle) - wanted).abs().mean() <= 0.1 * wanted.abs().max()
    found = bl.hub.plan(saved, device="cpu", quantization_config="torchao-int8", dtype="bfloat16", **SIZE)
    plain = bl.hub.plan(saved, device="cpu", dtype="bfloat16", **SIZE)
    assert found.peak < plain.peak


class Packed(torch.nn.Module):
    """A network whose first parameter holds packed integers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
        self.dtype = torch.bfloat16


def test_the_dtype_of_a_network_is_its_own_and_not_that_of_packed_weights():
    assert dtype_of(Packed(), torch.zeros(1)) == torch.bfloat16


def test_plans_know_device_maps_and_quantization(saved, monkeypatch):
    monkeypatch.setattr(planning, "rate", lambda device, dtype: 1e9)
    found = bl.hub.plan(saved, device="cpu", **SIZE)
    assert found.peaks["sequential"] == found.peaks["group"]
    assert found.peaks["balanced"] == found.peaks["none"], "one device"
    big, *rest = sorted(found.components, key=lambda c: c.weights, reverse=True)
    two = replace(found, devices=2, device_map="balanced")
    assert two.peak == max(big.weights + big.activations, sum(c.weights + c.activations for c in rest))
    quarter = bl.hub.plan(saved, device="cpu", quantization_config="torchao-int8", **SIZE)
    shapes = [p.shape for p in bl.load(saved, device="cpu", **SIZE).modality.pipeline.transformer.parameters()]
    weights = {c.name: c.weights for c in quarter.components}
    assert weights["transformer"] == sum(s.numel() * (1 if len(s) == 2 else 4) for s in shapes)
    assert weights["vae"] == {c.name: c.weights for c in found.components}["vae"]
    with pytest.raises(BeelineError, match="a dict was given to a plan.*name one of torchao-int8"):
        bl.hub.plan(saved, device="cpu", quantization_config={})


def test_a_network_in_one_file_takes_the_rest_of_a_pipeline(saved, tmp_path):
    file = tmp_path / "one.safetensors"
    shutil.copy(saved / "transformer" / "diffusion_pytorch_model.safetensors", file)
    bundle = bl.hub.from_single_file(file, saved, device="cpu", **SIZE)
    assert torch.equal(latents(bundle), latents(bl.load(saved, device="cpu", **SIZE)))


def test_gguf_weights_stay_quantized(saved, tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    bundle = bl.load(saved, device="cpu", **SIZE)
    file = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(str(file), "flux")
    for name, p in bundle.modality.pipeline.transformer.state_dict().items():
        packed = p.ndim == 2 and p.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if packed else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(p.numpy(), kind), raw_dtype=kind)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        part()
    found = bl.hub.from_single_file(file, saved, device="cpu", **SIZE)
    net, wanted = found.flow.field.net, latents(bundle)
    assert torch.uint8 in {p.dtype for p in net.parameters()} and dtype_of(net, wanted) == torch.float32
    assert (latents(found) - wanted).abs().max() <= 0.05 * wanted.abs().max()


def test_files_that_hold_no_network_of_the_pipeline_are_refused(saved, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(BeelineError, match="there is no file"):
        bl.hub.from_single_file(tmp_path / "none.safetensors", saved)
    file = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(BeelineError, match="component='vae' was given; valid names: transformer"):
        bl.hub.from_single_file(file, saved, component="vae")
    with pytest.raises(BeelineError, match="cannot be loaded as FluxTransformer2DModel.*holds the transformer of"):
        bl.hub.from_single_file(file, saved, device="cpu")
    with pytest.raises(BeelineError, match="is no pipeline of diffusers"):
        bl.hub.from_single_file(file, tmp_path)
