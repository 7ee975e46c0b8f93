"""The content of ``flow.json``, validated as a whole: types, ranges, file names and sizes of weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from beeline.config.settings import component, construct, constructing, plain, prefixed
from beeline.core.errors import BeelineError, require
from beeline.core.files import match, read_json, sha256
from beeline.core.old_names import FORMAT, check_format, translate
from beeline.core.protocols.data import Modality
from beeline.core.protocols.flows import Path as FlowPath
from beeline.core.protocols.flows import Source
from beeline.core.rng import Rng
from beeline.sampling.sampler import Sampler
from beeline.spaces.pyramid import Pyramid


@dataclass(frozen=True)
class Weights:
    """The file of weights beside a ``flow.json``."""

    file: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        require(
            Path(self.file).name == self.file and self.file.endswith(".safetensors"),
            f"file is {self.file!r}, but weights lie beside flow.json as safetensors, and nothing else is read; "
            "give the name alone, as in model.safetensors",
        )
        require(self.bytes >= 0, f"bytes is {self.bytes}; a file has a size of 0 or more: copy the bundle again")
        require(
            len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef"),
            f"sha256 is {self.sha256[:80]!r}, which is no hash of 64 hexadecimal digits; copy the bundle again",
        )


@dataclass(frozen=True)
class Manifest:
    """The entries of a ``flow.json``; their types and ranges are the schema of the file."""

    format: int
    field: Mapping[str, Any]
    path: FlowPath | Pyramid
    source: Source
    independent: bool
    sampler: Sampler
    modality: Modality | None
    weights: Mapping[str, Any]
    null: Any = None
    lineage: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] | None = None  # what the method of a student fixed about its sampling
    content: str = ""  # SHA-256 of the other entries

    def __post_init__(self) -> None:
        require(
            self.null is None or not isinstance(self.null, bool | str),
            f"null is {self.null!r}, but it stands for a condition; give a number, or numbers by name",
        )


def content(data: Mapping[str, Any]) -> str:
    """The hash of a ``flow.json``, which takes no notice of order and of the hash itself."""
    rest = {key: value for key, value in data.items() if key != "content"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(directory: Path) -> tuple[Manifest, Weights, Callable[[], nn.Module]]:
    """What the ``flow.json`` of a directory says, and how its network is built; nothing is allocated yet.

    ValueError where an entry is missing, unknown or unfit, and where the network does not fit the weights.
    """
    file = directory / "flow.json"
    data = read_json(file)
    version = check_format(data.get("format") if isinstance(data, dict) else None, file)
    with prefixed(str(file)):
        plain(data, "")
        require(
            version == 1 or data.get("content") == content(data),
            "its content is not what was written (the hash differs): it was edited or damaged; restore it from a copy, "
            "or load the bundle, change it in Python and save it again",
        )
        data = data if version == FORMAT else translate(data)
        needed = {f.name: f for f in fields(Manifest)}
        missing = [n for n, f in needed.items() if f.default is MISSING and n not in data]
        require(
            not missing,
            f"{', '.join(missing)} is missing, without which the flow is not defined; restore the file from a copy",
        )
        described = construct(Manifest, "flow.json", data, "")
        weights = construct(Weights, "weights", described.weights, "weights")
        tensors = shapes(directory, weights)

        def network() -> nn.Module:
            net = component(data["field"], ("networks",), "field")
            require(isinstance(net, nn.Module), f"field: got {data['field']!r}, which is no network; give one")
            return net  # type: ignore[no-any-return]

        require("is" in described.field, "field: it names no network; give 'is', for example networks.Network")
        agree(described)
        outline = outlined(network, tensors)
    match({k: tuple(v.shape) for k, v in outline.state_dict().items()}, tensors, str(directory / weights.file))
    return described, weights, network


def shapes(directory: Path, weights: Weights) -> dict[str, tuple[int, ...]]:
    """The sizes of the tensors in a file of weights, from its header, once it is the file that was described."""
    file = directory / weights.file
    try:
        with safe_open(file, "pt") as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BeelineError(
            f"there is no file {file}; a bundle keeps its weights there: copy the whole directory"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BeelineError(
            f"{file} is damaged ({str(error).splitlines()[0]}); it was probably cut while being copied: copy it again"
        ) from None
    require(
        file.stat().st_size == weights.bytes and sha256(file) == weights.sha256,
        f"{file} is not the file that flow.json describes (its hash differs); "
        "the two were mixed or damaged: copy the whole directory again",
    )
    return found


def agree(described: Manifest) -> None:
    """Refuse a modality whose data are of another size than the network takes."""
    if described.modality is None:
        return
    with constructing("the modality", "modality"), np.errstate(all="ignore"):
        shape, known = tuple(described.modality.shape), dict(described.modality.conditions)
        described.modality.decode(torch.zeros(1, *shape))  # what its entries must agree on shows in use
    backbone = described.field.get("backbone")
    if not isinstance(backbone, Mapping):
        return
    said = backbone.get("shape")
    require(
        said is None or (isinstance(said, list) and tuple(said) == shape),
        f"modality: its data have shape {shape}, but the network takes {said}; restore the file from a copy",
    )
    conditions = backbone.get("conditions")
    for name, kind in conditions.items() if isinstance(conditions, Mapping) else ():
        require(
            name not in known or known[name] == kind,
            f"modality: its condition {name!r} has {known.get(name)}, but the network takes {kind}; restore the file "
            "from a copy",
        )


def outlined(network: Callable[[], nn.Module], tensors: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The network on the meta device, or on the CPU if its constructor reads numbers."""
    try:
        with torch.device("meta"), rationed(tensors, "field"):
            return network()
    except BeelineError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if not isinstance(cause, RuntimeError):
            raise
    with Rng(0).ambient(), rationed(tensors, "field"):
        return network()


@contextlib.contextmanager
def rationed(tensors: Mapping[str, tuple[int, ...]], where: str) -> Iterator[None]:
    """Stop the construction of a network that is larger than its weights can be."""
    most, numbers = 4 * len(tensors) + 1000, 4 * sum(math.prod(s) for s in tensors.values()) + 10**7
    seen = [0, 0]

    def count(module: nn.Module, name: str, tensor: Any) -> None:
        seen[0] += 1
        seen[1] += tensor.numel() if isinstance(tensor, torch.Tensor) else 0
        if seen[0] > most or seen[1] > numbers:
            raise BeelineError(
                f"{where}: a network of these settings has more weights than the file holds ({len(tensors)} tensors); "
                "restore flow.json from a copy"
            )

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
