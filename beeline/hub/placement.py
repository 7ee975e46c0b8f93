"""Where the components of a pipeline of diffusers are, and how many bits their weights have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from beeline.core.errors import BeelineError, nearest, require
from beeline.networks.hub.imports import diffusers

NETWORKS = ("transformer", "transformer_2", "unet")  # components that are evaluated in every step
DEVICE_MAPS = ("balanced",)
OFFLOADS: Mapping[str, Callable[[Any, torch.device], None]] = {
    "model": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "sequential": lambda pipeline, device: pipeline.enable_sequential_cpu_offload(device=device),
    "group": lambda pipeline, device: pipeline.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
}
"""Name -> the function of diffusers that places the components of a pipeline on a device when they are used."""


def check_offload(offload: str | None, device_map: str | None = None) -> None:
    """Raise ValueError for an unknown offload mode or device map, or for both at once."""
    require(offload is None or offload in OFFLOADS, f"offload={offload!r} was given; {nearest(str(offload), OFFLOADS)}")
    require(
        device_map is None or device_map in DEVICE_MAPS,
        f"device_map={device_map!r} was given; {nearest(str(device_map), DEVICE_MAPS)}",
    )
    require(
        offload is None or device_map is None,
        f"offload={offload!r} was given with device_map={device_map!r}; diffusers does not offload components that are "
        "distributed over devices: leave one of them out",
    )


def check_device(offload: str | None, device_map: str | None, device: torch.device) -> None:
    """Raise ValueError for a placement on accelerators where the device is the CPU."""
    for name, given, effect in (
        ("offload", offload, "moves components from the CPU to an accelerator"),
        ("device_map", device_map, "distributes components over accelerators"),
    ):
        require(
            given is None or device.type != "cpu",
            f"{name}={given!r} was given with the device {device}; it {effect}: leave it out",
        )


@dataclass(frozen=True)
class Quantization:
    """A way to quantize the weights of linear layers."""

    library: str
    bits: int  # of a weight
    config: Callable[[Any, Any], Any]  # (diffusers, the library) -> the configuration of one component
    cpu: bool = True  # whether it runs on a CPU


def torchao(kind: str) -> Callable[[Any, Any], Any]:
    return lambda library, ao: library.TorchAoConfig(getattr(ao, kind)())


QUANTIZATIONS: Mapping[str, Quantization] = {
    "torchao-int8": Quantization("torchao.quantization", 8, torchao("Int8WeightOnlyConfig")),
    "torchao-float8": Quantization("torchao.quantization", 8, torchao("Float8WeightOnlyConfig")),
    "bitsandbytes-8bit": Quantization(
        "bitsandbytes", 8, lambda library, _: library.BitsAndBytesConfig(load_in_8bit=True), cpu=False
    ),
    "bitsandbytes-4bit": Quantization(
        "bitsandbytes",
        4,
        lambda library, _: library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
        cpu=False,
    ),
}
"""Name -> a quantization of the networks that are evaluated in every step."""


def check_quantization(given: Any, device: torch.device | None = None) -> None:
    """Raise ValueError for an unknown quantization, or for one that the device does not have."""
    if not isinstance(given, str):
        return
    require(given in QUANTIZATIONS, f"quantization_config={given!r} was given; {nearest(given, QUANTIZATIONS)}")
    require(
        device is None or device.type != "cpu" or QUANTIZATIONS[given].cpu,
        f"quantization_config={given!r} was given with the device cpu; bitsandbytes needs an accelerator: leave it "
        "out, or use one of torchao",
    )


def quantization(given: Any, index: Mapping[str, Any]) -> Any:
    """The ``PipelineQuantizationConfig`` of a name, for the networks of a pipeline; a configuration as it is.

    Raises ValueError if the library of the quantization is not installed.
    """
    if not isinstance(given, str):
        return given
    library, how = diffusers("a quantization"), QUANTIZATIONS[given]
    package = importable(how.library, f"quantization_config={given!r}")
    config = how.config(library, package)
    return library.PipelineQuantizationConfig(
        quant_mapping={name: config for name in NETWORKS if isinstance(index.get(name), list)}
    )


def importable(module: str, purpose: str) -> Any:
    """A module of another library; raises ValueError with the install command if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise BeelineError(f"{purpose} needs the library {name}, which is not installed; pip install {name}") from None


def gguf(library: Any, dtype: torch.dtype) -> dict[str, Any]:
    importable("gguf", "a file of GGUF")
    return {"quantization_config": library.GGUFQuantizationConfig(compute_dtype=dtype)}


FILE_QUANTIZATIONS: Mapping[str, Callable[[Any, torch.dtype], dict[str, Any]]] = {".gguf": gguf}
"""Suffix of a file -> (diffusers, dtype) -> arguments of ``from_single_file`` for its quantized weights."""
