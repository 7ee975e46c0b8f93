"""Networks whose convention is not known, with data for them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError, require
from beeline.core.files import read_plain
from beeline.core.modes import moved
from beeline.core.types import Batch, Cond, leaves
from beeline.data.arrays import SINGLE, read_arrays
from beeline.networks.hub.families import FAMILIES
from beeline.networks.hub.family import Family, no_settings
from beeline.networks.hub.imports import diffusers
from beeline.networks.hub.layout import cast, dtype_of
from beeline.paths.affine import AffinePath
from beeline.runs.bundle import Bundle, load
from beeline.runs.reference_data import real_data

CONFIG = "config.json"
PARTS = ("transformer", "unet")  # of a saved pipeline
DATA_NAMES = ("x1", "latents", "data", "x", "images", SINGLE)
TIME_NAMES = ("timestep", "timesteps", "t", "time", "sigma")


@dataclass(frozen=True)
class Unknown:
    """A network as a function of state, time and condition, and data for it."""

    call: Any  # (x [B,*S], time [B], cond) -> [B,*S]
    batch: Batch
    latents: tuple[tuple[float, float], ...] = ()  # scales and shifts that its files name
    paths: tuple[AffinePath, ...] = field(default=())  # paths that its files name

    def moved(self, device: torch.device) -> Any:
        """The network on a device."""
        return moved(self.call, device, {})


def unknown(network: Any, data: Any, cond: Cond = None) -> Unknown:
    """The network and the data of ``probe``; raises ValueError for what cannot be read."""
    if isinstance(network, str | Path):
        folder = component_folder(Path(network))
        if folder is not None:
            batch = tensors(data, cond)  # before the weights are loaded
            net = Component(component(folder))
            return Unknown(net, net.checked(batch), autoencoder_scale(folder))
        network = load(network, device="cpu")
    if isinstance(network, Bundle):
        return of_bundle(network, data, cond)
    require(
        callable(network),
        f"probe got {type(network).__name__}; give a bundle, a module or function of (x, time), or a directory",
    )
    return Unknown(network, tensors(data, cond))


def of_bundle(bundle: Bundle, data: Any, cond: Cond) -> Unknown:
    """The field of a bundle, with its held-out data, data in its own form, or encoded data with conditions."""
    path = bundle.flow.path
    paths = (path,) if isinstance(path, AffinePath) else ()
    encoded = cond is not None or isinstance(data, Tensor | Batch) or bundle.modality is None
    batch = tensors(data, cond) if encoded else real_data(bundle, data, None).encoded(bundle.modality)[1]
    return Unknown(bundle.flow.field, batch, (), paths)


def tensors(data: Any, cond: Cond = None) -> Batch:
    """Data as a batch: a tensor or array [N,*S], a Batch, or a file with arrays."""
    require(
        data is not None,
        "no data were given, on which the readings of a network are compared; give held-out data that it takes as they "
        "are: --data FILE, or data=, a tensor [N,*S] or a file (.npy, or .npz with the data as x1)",
    )
    if isinstance(data, str | Path):
        data, cond = from_file(Path(data), cond)
    if isinstance(data, Batch):
        return data if cond is None else Batch(data.x1, cond=cond)
    require(
        isinstance(data, Tensor | np.ndarray),
        f"data is {type(data).__name__}; give a tensor or array [N,*S], or a file (.npy, or .npz with the data as x1)",
    )
    x1 = torch.as_tensor(data)
    require(
        x1.ndim >= 2 and x1.is_floating_point(),
        f"the data have shape {list(x1.shape)} and dtype {x1.dtype}; a network takes floating point numbers [N,*S]: "
        "scale pixels to [-1, 1], and put samples first",
    )
    for name, leaf in leaves(cond):
        require(
            len(leaf) == len(x1),
            f"the condition {name!r} has {len(leaf)} rows for {len(x1)} data; give one row for each",
        )
    return Batch(x1, cond=cond)


def from_file(path: Path, cond: Cond) -> tuple[Tensor, Cond]:
    """The data of a file, and the other arrays in it as conditions."""
    require(
        path.is_file(),
        f"there is no file {path}; give a .npy file of data [N,*S], or a .npz file with the data as x1 and conditions "
        "by the names that the network takes",
    )
    arrays = read_arrays(path)
    name = next((name for name in DATA_NAMES if name in arrays), None)
    if name is None:
        raise BeelineError(
            f"{path} has the arrays {', '.join(arrays)}, none of which is named x1; name the data so, and the others "
            "by the conditions that the network takes"
        )
    found = {key: torch.as_tensor(array) for key, array in arrays.items()}
    x1 = found.pop(name)
    return x1, (found or None) if cond is None else cond


def component_folder(path: Path) -> Path | None:
    """The folder of a component of diffusers: the directory, or the network of a saved pipeline; None for others."""
    for folder in (path, *(path / part for part in PARTS)):
        if (folder / CONFIG).is_file() and "_class_name" in named(read_plain(folder / CONFIG)):
            return folder
    return None


def named(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def component(folder: Path) -> nn.Module:
    """The component of a folder, with its weights in float32."""
    library = diffusers(f"the component {folder}")
    name = str(named(read_plain(folder / CONFIG))["_class_name"])
    cls = getattr(library, name, None)
    require(
        isinstance(cls, type) and issubclass(cls, nn.Module),
        f"{folder} holds a {name}, which diffusers {library.__version__} does not have; install the version that wrote "
        "it, or give the network as a function in Python: bl.hub.probe(network, data)",
    )
    try:
        made = cls.from_pretrained(str(folder), torch_dtype=torch.float32, use_safetensors=True)  # type: ignore[union-attr]
    except (OSError, ValueError, RuntimeError) as error:
        raise BeelineError(
            f"the weights of {folder} cannot be read ({type(error).__name__}: {str(error)[:200]}); check that the "
            "directory holds them as safetensors"
        ) from error
    network: nn.Module = made.eval().requires_grad_(False)
    return network


def autoencoder_scale(folder: Path) -> tuple[tuple[float, float], ...]:
    """Scale and shift of the latents that the autoencoder beside a component names."""
    file = folder.parent / "vae" / CONFIG
    said = named(read_plain(file)) if file.is_file() else {}
    scale, shift = said.get("scaling_factor"), said.get("shift_factor") or 0.0
    return () if scale is None else ((float(scale), float(shift)),)


class Component(nn.Module):
    """A component of diffusers as a function of state, time and condition; the time is in its own scale.

    A family of the table is called as its entry says.  Others are called by the names of their arguments: the state
    first, the time as "timestep" or its like, and every condition by its name.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        name = type(net).__name__
        self.family = next((f for f in FAMILIES if name in f.transformers and f.settings is no_settings), None)

    def checked(self, batch: Batch) -> Batch:
        """The batch; raises ValueError without the conditions that the network needs."""
        given = batch.cond if isinstance(batch.cond, Mapping) else {}
        needed = needed_by(self.family) if self.family is not None else needed_arguments(self.net)
        missing = [name for name in needed if name not in given]
        require(
            not missing,
            f"{type(self.net).__name__} takes the conditions {', '.join(needed)}, and the data come without "
            f"{', '.join(missing)}; give a .npz file with the data as x1 and an array for each condition",
        )
        return batch

    def forward(self, x: Tensor, tau: Tensor, cond: Cond = None) -> Tensor:
        dtype = dtype_of(self.net, x)
        y, cond = x.to(dtype), cast(cond, dtype)
        if self.family is not None:
            return self.family.call(self.net, y, tau, cond, {})
        first, time, rest = arguments(self.net)
        given = dict(cond) if isinstance(cond, Mapping) else {}
        out = self.net(**{first: y, time: tau, **given}, **({"return_dict": False} if "return_dict" in rest else {}))
        found: Tensor = out[0] if isinstance(out, tuple | list) else out
        return found


def needed_by(family: Family) -> list[str]:
    """The conditions of a family, by the names of its leaves."""
    return list(family.prompt.outputs)


def arguments(net: nn.Module) -> tuple[str, str, dict[str, inspect.Parameter]]:
    """The names of state and time among the arguments of a network, and the other arguments."""
    rest = dict(inspect.signature(net.forward).parameters)
    first = next(iter(rest))
    time = next((name for name in TIME_NAMES if name in rest), None)
    if time is None:
        raise BeelineError(
            f"{type(net).__name__} takes {', '.join(rest)}, none of which is a time; give the network as a function "
            "of (x, time) in Python: bl.hub.probe(network, data)"
        )
    return first, time, {name: p for name, p in rest.items() if name not in (first, time)}


def needed_arguments(net: nn.Module) -> list[str]:
    """The arguments without defaults, beside state and time."""
    rest = arguments(net)[2]
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in rest.items() if p.default is p.empty and p.kind in positional]
