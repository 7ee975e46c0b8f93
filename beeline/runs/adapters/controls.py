"""Files of controls: the numbers of one control, without the network that it was trained for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.config.settings import shown
from beeline.core.errors import nearest, require
from beeline.core.files import read_with_header, settings_in, write_tensors
from beeline.core.rng import Rng
from beeline.data.latents.hints import with_hints
from beeline.distillation.controls.training import with_named_null
from beeline.networks.adapters.amounts import Apart
from beeline.networks.adapters.delta import Change, changed_layers
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.controls.with_control import (
    WithControl,
    controlled,
    controls_of,
    hint_channels,
    transformer_of,
)
from beeline.runs.bundle import Bundle

HEADER = "beeline_control"  # in the header of a file of a control
FILE = "control.safetensors"
SETTINGS = {"control", "channels", "name", "strength"}  # of ``WithControl``, beside its network


def export(network: nn.Module, path: str | Path, name: str | None = None) -> Path:
    """Write a control of a network as a safetensors file, as ``control.safetensors`` where ``path`` has no suffix.

    ``name`` is that of the control; the outermost one if it is not given.  The file holds the settings and the numbers
    of the control alone.
    Raises ValueError for a network without controls, and for an unknown name.
    """
    known = controls_of(network)
    require(
        bool(known),
        f"{type(backbone_of(network)).__name__} was to be exported as a control, and has none; give a network that "
        "'beeline adapt BUNDLE ControlBranch' made",
    )
    name = name or list(known)[-1]
    require(name in known, f"there is no control {name!r} in this network; {nearest(name, known)}")
    target = Path(path) if Path(path).suffix else Path(path) / FILE
    write_tensors(target, _numbers(known[name]), {HEADER: json.dumps(config.describe(known[name].settings))})
    return target


def load(network: Any, path: str | Path) -> nn.Module:
    """A copy of a network with the control of a file around it, beside those that it has.

    Raises ValueError where the file is missing, damaged or no control, where it is for a base of other sizes, and where
    the network has a control of this name.
    """
    path, settings, numbers = _read(Path(path))
    with Rng(0).ambient():  # its numbers are replaced
        made = controlled(network, **settings)
    made.eval().requires_grad_(False)
    wanted = _numbers(controls_of(made)[settings["name"]])
    other = sorted(k for k in wanted.keys() | numbers.keys() if _shape(wanted, k) != _shape(numbers, k))
    require(
        not other,
        f"{path} is for another base: "
        + "; ".join(f"{k} is {_shape(numbers, k)} there and {_shape(wanted, k)} here" for k in other[:3])
        + "; give the base that it was trained for",
    )
    with torch.no_grad():
        for key, value in numbers.items():
            wanted[key].copy_(value)
    return made


def with_control(bundle: Bundle, path: str | Path) -> Bundle:
    """A bundle with the control of a file, whose samples follow ``cond={"control": picture}``."""
    flow = with_named_null(bundle.flow)
    flow = replace(flow, field=load(flow.field, path))
    modality = bundle.modality and with_hints(bundle.modality, hint_channels(flow.field))
    return replace(bundle, flow=flow, null=flow.null, modality=modality)


def _numbers(net: WithControl) -> dict[str, Tensor]:
    """The numbers of a control by name, and those of its changes of layers by the layer of the network inside."""
    found = {f"control.{key}": value for key, value in net.control.state_dict().items()}
    own = Apart(net.settings["name"])
    for layer, changed in changed_layers(transformer_of(net)).items():
        for change in changed.changes:
            if isinstance(change, Change) and change.amount == own:
                found |= {f"layers.{layer}.{key}": value for key, value in change.state_dict().items()}
    return found


def _read(path: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """The file, the settings of its control, and its numbers."""
    path = path / FILE if path.is_dir() else path
    require(path.is_file(), f"there is no file {path}; give the {FILE} that 'beeline adapt' leaves beside its bundle")
    header, numbers = read_with_header(path)
    require(
        HEADER in header,
        f"{path} holds {len(numbers)} tensors, such as {', '.join(sorted(numbers)[:2])}, and no control of Beeline; "
        f"give the {FILE} that 'beeline adapt' leaves beside its bundle, and adapters to 'beeline lora'",
    )
    said = settings_in(header, HEADER, path)
    require(
        said.keys() == SETTINGS and "controls." in str(said["control"]),
        f"{path} names the settings {shown(said)} of a control, and they are {', '.join(sorted(SETTINGS))}; it was "
        "written by another version: export the control again",
    )
    return path, {name: config.build(value) for name, value in said.items()}, numbers


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None
