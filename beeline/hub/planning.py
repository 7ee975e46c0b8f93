"""Estimates of memory and time of sampling from a pretrained pipeline, before its weights are loaded."""

from __future__ import annotations

import inspect
import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.memory import counter, free_memory
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.rng import Rng
from beeline.core.types import map_cond
from beeline.hub.loading import check_family, decode_in_parts, dtypes, pipeline_index, split
from beeline.hub.pipelines import call_defaults, from_pipeline
from beeline.hub.placement import (
    NETWORKS,
    OFFLOADS,
    QUANTIZATIONS,
    check_offload,
    check_quantization,
)
from beeline.networks.hub.family import Experts, Family, pixels_of
from beeline.networks.hub.imports import diffusers
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.training.memory import Tracker, size

WORDS = 512  # tokens of a prompt where the pipeline's call has no default
WIDTHS: Mapping[str, tuple[str, ...]] = {
    "text": ("joint_attention_dim", "text_embed_dim", "caption_channels", "text_dim", "cap_feat_dim", "context_in_dim")
    + ("cross_attention_dim",),
    "pooled": ("pooled_projection_dim",),
    "glyphs": ("text_embed_2_dim",),
}
"""Leaf of a condition -> the names under which configurations of transformers give its width."""

VECTORS = {"pooled"}  # leaves with one vector for each prompt

UNPREDICTED = (RuntimeError, KeyError, TypeError, ValueError)
"""Errors of networks that need values, or a condition of another form."""

RATE_SIDES = {"cpu": 1024}  # of the matrix product that measures the speed of a device
RATE_SIDE, RATE_SECONDS = 8192, 0.2  # of an accelerator: a smaller product takes as long as its launch


@dataclass(frozen=True)
class Component:
    """A component of a pipeline with weights."""

    name: str
    kind: str  # class
    parameters: int
    weights: int  # bytes in memory
    largest: int  # bytes of its largest tensor
    activations: int | None  # bytes beside the weights when it is used; None: not predicted


@dataclass(frozen=True)
class SamplingPlan:
    """Estimated memory in bytes and time in seconds of one call of ``sample``.

    Text encoders are counted by their weights.  ``seconds`` is that of the operations of the network at the speed of
    a matrix product on the device: a lower bound.
    Quantized are matrices; other weights keep their dtype.
    """

    components: tuple[Component, ...]
    samples: int
    shape: tuple[int, ...]  # of one latent
    offload: str | None  # mode of ``bl.load`` that is planned
    evaluations: int  # of the guided network
    operations: float | None  # of one of them
    seconds: float | None
    device: str
    free: int | None  # bytes of the device that are free
    device_map: str | None = None  # of ``bl.load`` that is planned
    devices: int = 1  # accelerators over which a device map distributes

    @property
    def peaks(self) -> dict[str, int]:
        """Estimated peak memory of the device for every offload mode, for none, and for a device map."""
        return {name: of(self) for name, of in PEAKS.items()}

    @property
    def peak(self) -> int:
        """Estimated peak memory of the device for the planned mode."""
        return self.peaks[self.offload or self.device_map or NONE]

    def plain(self) -> dict[str, Any]:
        """The estimate as plain data."""
        return asdict(self) | {"peak": self.peak, "peaks": self.peaks}

    def lines(self) -> list[str]:
        """The estimate as lines of text."""
        predicted = self.seconds is not None and self.operations is not None
        duration = (
            f"at least {self.seconds:.3g} s: {self.evaluations} evaluations of {self.operations:.3g} operations"
            if predicted
            else f"not predicted for this family; {self.evaluations} evaluations"
        )
        lines = [f"samples       {self.samples} of shape {self.shape}, on {self.device}"]
        for c in self.components:
            more = "" if not c.activations else f", and {size(c.activations)} when it is used"
            lines.append(f"{c.name:<13} {c.kind}, {c.parameters:,} parameters, {size(c.weights)}{more}")
        if any(c.activations is None for c in self.components):
            lines.append("activations   of the network are not predicted for this family; the peaks are without them")
        lines.append(f"peak memory   {size(self.peak)} estimated{self._fits(self.peak)}")
        lines += [f"  offload={name:<11} {size(peak)}" for name, peak in self.peaks.items() if name in OFFLOADS]
        if self.free is not None:
            lines.append(f"free memory   {size(self.free)}")
        return [*lines, f"time          {duration}"]

    def _fits(self, peak: int) -> str:
        return "" if self.free is None else ", which fits" if peak <= self.free else ", which does not fit"


def _all_at_once(plan: SamplingPlan) -> int:
    return sum(c.weights for c in plan.components) + max(c.activations or 0 for c in plan.components)


def _one_at_a_time(plan: SamplingPlan) -> int:
    return max(c.weights + (c.activations or 0) for c in plan.components)


def _layer_at_a_time(plan: SamplingPlan) -> int:
    return max(c.largest + (c.activations or 0) for c in plan.components)


def _balanced(plan: SamplingPlan) -> int:
    """Of the fullest device: the largest components come first, in turn over the devices and back, as in diffusers."""
    parts = sorted(plan.components, key=lambda c: c.weights, reverse=True)
    turns = [*range(plan.devices), *reversed(range(plan.devices))]
    placed = [[c for i, c in enumerate(parts) if turns[i % len(turns)] == device] for device in range(plan.devices)]
    return max(sum(c.weights for c in here) + max((c.activations or 0 for c in here), default=0) for here in placed)


NONE = "none"
PEAKS: Mapping[str, Callable[[SamplingPlan], int]] = {
    NONE: _all_at_once,
    "model": _one_at_a_time,
    "sequential": _layer_at_a_time,
    "group": _layer_at_a_time,
    "balanced": _balanced,
}
"""Offload mode or device map -> peak memory of a plan."""


def plan(
    directory_or_hub_id: str | Path,
    n: int = 1,
    *,
    device: Device = AUTO,
    revision: str | None = None,
    dtype: str | Mapping[str, str] | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    max_sequence_length: int | None = None,
    offload: str | None = None,
    device_map: str | None = None,
    quantization_config: str | None = None,
    tiling: bool = False,
    slicing: bool = False,
    sampler: Callable[[Bundle], Sampler] | None = None,
    **components: Any,
) -> SamplingPlan:
    """Estimate memory and time of ``n`` samples of a pipeline, from its configurations and the headers of its weights.

    ``sampler`` returns the sampler to use for the bundle, by default its own.  The other arguments are those of
    ``bl.load``; ``components`` that are given there are not counted.  Networks are built without memory, and the
    tensors and operations of one evaluation and one decoding are counted; no weights are read.

    Raises ValueError if there is no such pipeline, family, device or size, or if weights are not safetensors.
    """
    name, at = split(str(directory_or_hub_id), revision)
    index = pipeline_index(name, at)
    require(
        index is not None,
        f"{directory_or_hub_id} is no pipeline of diffusers, or does not exist, so that there are no configurations to "
        "predict from; give a saved pipeline or owner/name of the hub",
    )
    assert index is not None
    check_family(name, index)
    check_offload(offload, device_map)
    where = resolve_device(device)
    _check_quantized(quantization_config, where)
    kinds = dtypes(dtype, where, index)
    files = _Files(name, at)
    listed = {part: value[1] for part, value in index.items() if isinstance(value, list) and value[1] is not None}
    parts = {part: kind for part, kind in listed.items() if part not in components}
    tensors = {part: shapes for part in parts if (shapes := files.tensors(part))}
    from torch._subclasses.fake_tensor import FakeTensorMode

    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)  # tensors made in this mode have no memory
    with shapes_alone:
        nets = _networks(parts, files, kinds)
    pipeline = _ghost(index, parts, files, nets)
    bundle = from_pipeline(pipeline, height=height, width=width, num_frames=num_frames)
    decode_in_parts(pipeline.vae, tiling, slicing)
    how = sampler(bundle) if sampler else bundle.sampler
    times = how.times()  # their values are read
    with shapes_alone, torch.no_grad():
        denoising, operations = _denoising(replace(bundle, sampler=how), times, n, max_sequence_length)
        used = dict.fromkeys(NETWORKS, denoising) | {"vae": _decoding(bundle, n)}
    made = []
    for part, shapes in tensors.items():
        bits = 8 * kinds.get(part, kinds["default"]).itemsize
        linear = (
            bits if quantization_config is None or part not in NETWORKS else QUANTIZATIONS[quantization_config].bits
        )
        sizes = [shape.numel() * (linear if len(shape) == 2 else bits) // 8 for shape in shapes]
        count = sum(shape.numel() for shape in shapes)
        made.append(Component(part, parts[part], count, sum(sizes), max(sizes), used.get(part, 0)))
    evaluations = replace(how, guidance=Plain()).evaluations or how.steps
    speed = rate(where, next((kinds[name] for name in NETWORKS if name in kinds and name in nets), kinds["default"]))
    seconds = None if operations is None else evaluations * operations / speed
    return SamplingPlan(
        tuple(made), n, bundle.modality.shape, offload, evaluations, operations, seconds, str(where),
        free_memory(where), device_map, max(1, torch.cuda.device_count()),
    )  # fmt: skip


def _check_quantized(quantization_config: Any, device: torch.device) -> None:
    """Raise ValueError for a quantization whose bits are not known, or that the device does not have."""
    require(
        quantization_config is None or isinstance(quantization_config, str),
        f"a {type(quantization_config).__name__} was given to a plan, whose weights have unknown sizes; name one of "
        f"{', '.join(QUANTIZATIONS)}",
    )
    check_quantization(quantization_config, device)


class _Files:
    """The configurations and headers of a saved pipeline, in a directory or on the hub."""

    def __init__(self, name: str, revision: str | None):
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
        from huggingface_hub import HfFileSystem

        local = Path(name).exists()
        self.name = str(Path(name).resolve()) if local else name + (f"@{revision}" if revision else "")
        self.system: Any = LocalFileSystem() if local else HfFileSystem()

    def config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.system.cat_file(f"{self.name}/{part}/{file}"))
        return found

    def tensors(self, part: str) -> list[torch.Size] | None:
        """The shape of every tensor of a component; None for one without weights."""
        folder = f"{self.name}/{part}"
        if not self.system.exists(folder):
            return None
        names = sorted(str(path).rpartition("/")[2] for path in self.system.ls(folder, detail=False))
        indices = [file for file in names if file.endswith(".safetensors.index.json")]
        single = [f for f in ("diffusion_pytorch_model.safetensors", "model.safetensors") if f in names]
        if not indices and not single:
            require(
                not any(file.endswith(".bin") for file in names),
                f"the weights of {part} are no safetensors, so that their sizes cannot be read without loading them; "
                "convert them with save_pretrained",
            )
            return None
        shards = sorted(set(self.config(part, indices[0])["weight_map"].values())) if indices else single[:1]
        return [shape for shard in shards for shape in self._shapes(f"{folder}/{shard}")]

    def _shapes(self, path: str) -> list[torch.Size]:
        """The shape of every tensor of a safetensors file, from its header."""
        with self.system.open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return [torch.Size(entry["shape"]) for entry in header.values()]


def _networks(parts: Mapping[str, str], files: _Files, kinds: Mapping[str, torch.dtype]) -> dict[str, nn.Module]:
    """The networks of the velocity and the autoencoder of a pipeline, from their configurations."""
    library = diffusers("a plan of a pipeline")
    made = {}
    for part in (*NETWORKS, "vae"):
        if part in parts:
            net = getattr(library, parts[part]).from_config(files.config(part)).eval()
            made[part] = _in_precision(net, kinds.get(part, kinds["default"]))
    return made


def _ghost(index: Mapping[str, Any], parts: Mapping[str, str], files: _Files, nets: Mapping[str, nn.Module]) -> Any:
    """The pipeline with the given networks and its scheduler, without text encoders."""
    library = diffusers("a plan of a pipeline")
    config = files.config("scheduler", "scheduler_config.json")
    made: dict[str, Any] = {**nets, "scheduler": getattr(library, parts["scheduler"]).from_config(config)}
    kind = getattr(library, str(index["_class_name"]))
    known = inspect.signature(kind.__init__).parameters
    made |= {name: value for name, value in index.items() if name in known and not isinstance(value, list)}
    missing = [name for name, p in known.items() if name not in (*made, "self") and p.default is p.empty]
    return kind(**made, **dict.fromkeys(missing))


def _in_precision(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with its weights in ``dtype``; ``to`` cannot exchange weights without memory."""
    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None and p.is_floating_point():
                module._parameters[name] = nn.Parameter(p.to(dtype), requires_grad=False)
    return net


def condition(family: Family, pipeline: Any, n: int, words: int | None = None) -> dict[str, Any] | None:
    """A condition with the shapes of encoded prompts; None if the configuration does not give them."""
    config = family.network(pipeline).config
    words = words or call_defaults(pipeline).get("max_sequence_length", WORDS)
    if family.inputs is not None and family.inputs.required:
        return None
    found: dict[str, Tensor] = {"mask": torch.ones(n, words, dtype=torch.long)}
    for leaf in family.prompt.outputs:
        if leaf.endswith("mask"):
            found[leaf] = torch.ones(n, words, dtype=torch.long)
            continue
        width = next((config[key] for key in WIDTHS.get(leaf, ()) if isinstance(config.get(key), int)), None)
        if width is None:
            return None
        found[leaf] = torch.zeros(n, width) if leaf in VECTORS else torch.zeros(n, words, width)
    if family.embedded is not None:
        found["guidance"] = torch.ones(n)
    return found


def _denoising(bundle: Bundle, times: Tensor, n: int, words: int | None) -> tuple[int | None, float | None]:
    """Bytes and operations of one guided evaluation; None if the family's call depends on values."""
    modality: Any = bundle.modality
    cond = condition(modality.family, modality.pipeline, n, words)
    if cond is None:
        return None, None
    if modality.family.rule is not None:
        cond["negative"] = map_cond(torch.clone, cond)
    field = bundle.flow.field
    flow = replace(bundle.flow, field=field.high if isinstance(field, Experts) else field)
    x, t = torch.zeros(n, *modality.shape), torch.full((n,), 0.5)
    f = guidance_for_flow(bundle.sampler.guidance, flow, times)(flow.field, cond)
    try:
        with counter() as operations, Tracker() as tracker:
            f(x, t)
    except UNPREDICTED:
        return None, None
    return tracker.peak, float(operations.get_total_flops())


def _decoding(bundle: Bundle, n: int) -> int | None:
    """Bytes of the decoding of ``n`` latents; None if it depends on values."""
    modality: Any = bundle.modality
    if modality.pipeline.vae is None:
        return 0
    try:
        with Tracker() as tracker:
            pixels_of(modality.pipeline.vae, modality.family, torch.zeros(n, *modality.shape))
    except UNPREDICTED:
        return None
    return tracker.peak


def rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product on a device, measured for a fraction of a second."""
    side = RATE_SIDES.get(device.type, RATE_SIDE)
    a = Rng(0).normal(torch.empty(side, side, device=device, dtype=dtype))  # products of equal numbers are faster
    (a @ a).sum().item()
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < RATE_SECONDS:
        (a @ a)[0, 0].item()
        count += 1
    return 2.0 * side**3 * count / spent
