"""The forms in which tools write adapters: prefixes of layers, and names of their tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.networks.adapters.factors import Factors
from beeline.runs.adapters.sites import Site, site_of


@dataclass(frozen=True)
class Dialect:
    """One form of file: ``prefix`` + path of the layer + an end that says which tensor it is."""

    name: str
    prefix: str
    up: str
    down: str
    alpha: str = ""  # the end of the scale; empty where the form has none
    length: str = ".lora_magnitude_vector"
    flat: bool = False  # paths have "_" in place of "."

    def key(self, path: str, end: str) -> str:
        """The name of a tensor of a layer."""
        return self.prefix + (path.replace(".", "_") if self.flat else path) + end

    def tensors(self, path: str, change: Factors, shape: torch.Size, length: Tensor | None = None) -> dict[str, Tensor]:
        """The tensors of one layer with a weight of ``shape``; the scale is 1, and is written where the form has it."""
        down, up = change.down, change.up
        if len(shape) > 2:  # convolutions
            down, up = down.view(len(down), *shape[1:]), up.view(*up.shape, *(1,) * (len(shape) - 2))
        made = {self.key(path, self.down): down, self.key(path, self.up): up}
        if self.alpha:
            made[self.key(path, self.alpha)] = torch.tensor(float(change.rank))
        if length is not None:
            made[self.key(path, self.length)] = length[:, None] if self.alpha else length
        return made


PEFT = Dialect("peft", "base_model.model.", ".lora_B.weight", ".lora_A.weight")
DIFFUSERS = Dialect("diffusers", "transformer.", ".lora_B.weight", ".lora_A.weight")
KOHYA = Dialect("kohya", "lora_unet_", ".lora_up.weight", ".lora_down.weight", ".alpha", ".dora_scale", flat=True)
ORIGINAL = Dialect("original", "diffusion_model.", ".lora_B.weight", ".lora_A.weight")
DIALECTS = {d.name: d for d in (PEFT, DIFFUSERS, KOHYA, ORIGINAL)}

PREFIXES = {  # before paths, the longest that fits counts
    "base_model.model.": "peft",
    "transformer.": "diffusers",
    "unet.": "diffusers",
    "diffusion_model.": "original",
    "model.diffusion_model.": "original",
    "lora_unet_": "kohya",
    "lora_transformer_": "kohya",
    "lycoris_": "LyCORIS",
}
TEXT = ("text_encoder", "te.", "lora_te", "lora_te1_", "lora_te2_", "text_model")  # of encoders of texts, not of flows
ENDS = {  # of names of tensors, with the role of the tensor
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".alpha": "alpha",
    ".dora_scale": "length",
    ".lora_magnitude_vector": "length",
    ".lora_magnitude_vector.weight": "length",
    ".lora_magnitude_vector.default.weight": "length",
    **{f".hada_{name}": name for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f".lokr_w{i}{end}": f"k{i}{end}" for i in (1, 2) for end in ("", "_a", "_b")},
    ".diff": "difference",
    ".processor.qkv_lora1.down.weight": "down",
    ".processor.qkv_lora1.up.weight": "up",
    ".processor.qkv_lora2.down.weight": "down",
    ".processor.qkv_lora2.up.weight": "up",
    ".processor.proj_lora1.down.weight": "down",
    ".processor.proj_lora1.up.weight": "up",
    ".processor.proj_lora2.down.weight": "down",
    ".processor.proj_lora2.up.weight": "up",
}
XLABS = {  # the layers of a processor of attention
    "qkv_lora1": ".img_attn.qkv",
    "qkv_lora2": ".txt_attn.qkv",
    "proj_lora1": ".img_attn.proj",
    "proj_lora2": ".txt_attn.proj",
}


@dataclass(frozen=True)
class Contents:
    """A file of an adapter, read: the changes by path, and what is not a change of a layer of the flow."""

    dialect: str
    sites: Mapping[str, Site]
    others: tuple[str, ...] = ()  # names of tensors that were not read
    header: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()


def contents(tensors: Mapping[str, Tensor], header: Mapping[str, str], config: Mapping[str, Any] | None) -> Contents:
    """The changes in the tensors of a file, whatever tool wrote them.

    ``header`` are the texts of the file itself, ``config`` that of peft beside it.  Raises ValueError where there is
    none.
    """
    settings = {**_settings(header), **(config or {})}
    grouped: dict[str, dict[str, Tensor]] = {}
    names, others = set(), []
    for key, tensor in tensors.items():
        end = max((e for e in ENDS if key.endswith(e)), key=len, default=None)
        if end is None or key.startswith(TEXT):
            others.append(key)
            continue
        path = key.removesuffix(end)
        prefix = max((p for p in PREFIXES if path.startswith(p)), key=len, default="")
        names.add(PREFIXES.get(prefix, ""))
        path = path.removeprefix(prefix)
        for processor, layer in XLABS.items():
            if f".{processor}." in end:
                path += layer
                names.add("XLabs")
        grouped.setdefault(path, {})[ENDS[end]] = tensor
    require(
        bool(grouped),
        f"the file holds {len(tensors)} tensors, such as {sorted(tensors)[:3]}, and no change of a layer in the form "
        f"of {', '.join(DIALECTS)}, LyCORIS or XLabs; give a file of an adapter (LoRA, DoRA, LoHa, LoKr, differences)",
    )
    sites = {path: site_of(path, parts, *_scale(path, parts, settings)) for path, parts in grouped.items()}
    lycoris = {s.method for s in sites.values()} & {"LoHa", "LoKr", "difference"}
    name = "LyCORIS" if lycoris else ", ".join(sorted(names - {""})) or "no prefix"
    dtypes = tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    return Contents(name, sites, tuple(sorted(others)), dict(header), dtypes)


def _settings(header: Mapping[str, str]) -> dict[str, Any]:
    """The settings of peft in the header of a file of diffusers, without the prefix of the component."""
    try:
        found = json.loads(header.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key.removeprefix("transformer.").removeprefix("unet."): value for key, value in found.items()}


def _scale(path: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The alpha that the settings of peft give to a layer, and whether its scale is alpha / sqrt(rank)."""
    if "alpha" in parts:
        return None, False
    patterns = settings.get("alpha_pattern") or {}
    ends = [end for end in patterns if path.endswith(end)]
    alpha = patterns[max(ends, key=len)] if ends else settings.get("lora_alpha")
    return (None if alpha is None else float(alpha)), bool(settings.get("use_rslora", False))
