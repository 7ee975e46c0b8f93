"""Conversion of transformers of diffusers to networks of slots with equal outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from beeline.core.errors import BeelineError, nearest, require
from beeline.networks.published.families import FAMILIES, Wanted
from beeline.networks.published.rules import Report, filled, listed
from beeline.networks.transformer.backbone import FlowTransformer


class Conversion(NamedTuple):
    """A network, and the report of its weights."""

    network: FlowTransformer
    report: Report


def converted(
    source: nn.Module | str | Path,
    *,
    sign: float = -1.0,
    length: int | None = None,
    guidance: float = 3.5,
    resolution: tuple[float, float] | None = None,
) -> Conversion:
    """The transformer of diffusers as a network of slots: DiT, SD3 (and SD3.5), FLUX.1 and PixArt.

    network(x, t, cond) = sign * theirs(x, 1000 (1 - t), ...)
    Time runs from noise (0) to data (1), and with the default sign a network that predicts noise - data gives data -
    noise.  Those that predict the noise of a diffusion, as the released DiT and PixArt, take sign=1 and a Convention.
    Labels are ``label``, texts ``text`` [B,length,size], their vectors ``pooled``; vectors of zeros are padding.  An
    output that is twice as wide loses its second half.
    ``source``: a loaded model, or a folder with config.json and weights in safetensors, or one of a pipeline.
    ``length``: vectors of a text.  ``guidance``: of a distilled FLUX.1, which becomes constant.  ``resolution``: height
    and width in pixels of a PixArt that takes them, which become constant.
    Raises BeelineError for a network of another class, and for weights that are not all matched.
    """
    name, config, tensors = _loaded(source) if isinstance(source, nn.Module) else _read(Path(source))
    require(
        name in FAMILIES,
        f"the checkpoint is one of {name}; conversions are known for {', '.join(FAMILIES)}: open the pipeline with "
        f"beeline.load, or {nearest(name, FAMILIES)}",
    )
    plan = FAMILIES[name](config, Wanted(sign, length, guidance, resolution))
    different = [
        copy
        for copy, original in plan.copies.items()
        if copy in tensors and original in tensors and not torch.equal(tensors[copy], tensors[original])
    ]
    require(
        not different,
        f"{name} has other weights in {listed(different)} than in its first block; the released checkpoints have one "
        "embedding of time and label for all blocks, and so has ours: make them equal, or train network=DiffusersDiT",
    )
    with torch.device("meta"):
        network: Any = plan.make()
    copies = [copy for copy in plan.copies if copy in tensors]
    report = filled(network, plan.rules, tensors, name, plan.constants, copies)
    return Conversion(network, report)


def _loaded(source: Any) -> tuple[str, Mapping[str, Any], Mapping[str, Tensor]]:
    """Name, configuration and weights of a model in memory."""
    name = type(source).__name__
    require(
        name in FAMILIES,
        f"a {name} was given; conversions are known for {', '.join(FAMILIES)} of diffusers: give one of them, or the "
        "transformer of a pipeline",
    )
    return name, dict(source.config), source.state_dict()


def _read(folder: Path) -> tuple[str, Mapping[str, Any], Mapping[str, Tensor]]:
    """Name, configuration and weights of a folder."""
    if (folder / "model_index.json").is_file():
        folder = folder / "transformer"
    file = folder / "config.json"
    require(
        file.is_file(),
        f"{folder} has no config.json; a model of diffusers is a folder with that file and its weights in safetensors: "
        "save one with model.save_pretrained(folder)",
    )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        name = str(config["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise BeelineError(
            f"{file} is no configuration of a model ({error!r}); it has to name its class in _class_name: save it with "
            "model.save_pretrained(folder)"
        ) from error
    files = sorted(folder.glob("*.safetensors"))
    require(
        bool(files),
        f"{folder} has no weights in safetensors, only {listed(sorted(p.name for p in folder.iterdir()))}; other "
        "formats are not read: save the model with model.save_pretrained(folder)",
    )
    tensors: dict[str, Tensor] = {}
    for part in files:
        tensors |= load_file(part)
    return name, config, tensors
