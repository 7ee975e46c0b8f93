"""Control networks of diffusers beside pretrained networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.errors import nearest, require
from beeline.core.types import Cond
from beeline.networks.adapters.amounts import Amount
from beeline.networks.controls.control import strength_of
from beeline.networks.hub.family import Family, Pretrained, latents_of
from beeline.networks.hub.inputs import prepared
from beeline.networks.hub.layout import pack

Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """How the control networks of a family are called."""

    cls: str  # of diffusers
    residuals: Callable[[Any, Arguments, Any, Tensor, Tensor, int | None], Mapping[str, Any]]
    """(control, arguments of the network, condition, hint, strength [B,1,1], mode) -> arguments that add residuals."""
    pixels: Callable[[Any], bool] = lambda control: False  # whether the hint of a control is a picture, not latents
    prepare: Callable[[Any, Any], None] = lambda control, net: None  # what the pipeline does to a control


def flux(control: Any, given: Arguments, c: Any, hint: Tensor, scale: Tensor, mode: int | None) -> Mapping[str, Any]:
    pixels = embeds_pixels(control)
    blocks, single = control(
        **{**given, "guidance": c["guidance"] if control.config.guidance_embeds else None},
        controlnet_cond=hint if pixels else pack(hint),
        controlnet_mode=None if mode is None else torch.full((len(hint), 1), mode, device=hint.device),
        conditioning_scale=scale,
    )
    found = {"controlnet_block_samples": blocks, "controlnet_single_block_samples": single}
    return found | ({"controlnet_blocks_repeat": True} if pixels else {})


def sd3(control: Any, given: Arguments, c: Any, hint: Tensor, scale: Tensor, mode: int | None) -> Mapping[str, Any]:
    pooled = given["pooled_projections"]
    changed = {
        "pooled_projections": torch.zeros_like(pooled) if control.config.force_zeros_for_pooled_projection else pooled,
        "encoder_hidden_states": None if control.config.joint_attention_dim is None else given["encoder_hidden_states"],
    }
    found = control(**{**given, **changed}, controlnet_cond=hint, conditioning_scale=scale)[0]
    return {"block_controlnet_hidden_states": found}


def with_positions(control: Any, net: Any) -> None:
    """Give a control without positions those of the network."""
    if control.pos_embed is None:
        control.pos_embed = copy.deepcopy(net.pos_embed)


def embeds_pixels(control: Any) -> bool:
    """Whether a control of FLUX embeds a picture itself, as those of XLabs."""
    return control.input_hint_block is not None


def hint_of(name: str) -> str:
    """The leaf of the condition with the hint of a control."""
    return f"{name}_hint"


KINDS: Mapping[str, Kind] = {
    "flux": Kind("FluxControlNetModel", flux, pixels=embeds_pixels),
    "sd3": Kind("SD3ControlNetModel", sd3, prepare=with_positions),
}
"""Name of a family -> its control networks."""


@dataclass(frozen=True)
class HintInputs:
    """The hints of controls: latents of pictures, the mean of the autoencoder's posterior, or pixels."""

    controls: Mapping[str, Any]
    required = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.controls)

    @property
    def leaves(self) -> tuple[str, ...]:
        return tuple(map(hint_of, self.controls))

    def __call__(
        self, pipeline: Any, family: Family, images: Mapping[str, Any], size: tuple[int, ...]
    ) -> dict[str, Tensor]:
        made, vae = {}, pipeline.vae
        for name, control in self.controls.items():
            hint = prepared(family.processor(pipeline), images[name], family.pixels(pipeline, size))
            if not KINDS[family.name].pixels(control):
                hint = latents_of(vae, family, hint)
            if control.config.get("force_zeros_for_pooled_projection", False):  # those of InstantX know no shift
                hint = hint + vae.config.shift_factor * vae.config.scaling_factor
            made[hint_of(name)] = hint
        return made


class Controlled(Pretrained):
    """A pretrained network to whose tokens the residuals of control networks are added.

    v = sign * call(net, x, scale * clock(t), cond) with sum_k strength_k(t) control_k(x, t, cond, hint_k) after blocks
    Without hints, and with strengths of zero, it is the network, bit for bit.
    """

    def __init__(
        self,
        inner: Pretrained,
        controls: Mapping[str, nn.Module],
        strengths: Mapping[str, float | Amount],
        modes: Mapping[str, int],
    ):
        super().__init__(inner.net, inner.family, inner.settings, inner.clock)
        self.controls, self.strengths, self.modes = nn.ModuleDict(controls), dict(strengths), dict(modes)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        y, c = self._inputs(x, cond)
        acting = []
        for name, control in self.controls.items():
            scale = strength_of(self.strengths.get(name, 1.0), name, t)
            if scale is not None and hint_of(name) in c:
                acting.append((control, c[hint_of(name)], scale.to(y.dtype), self.modes.get(name)))
        net = Residuals(self.net, KINDS[self.family.name], acting, c) if acting else self.net
        out = self.family.call(net, y, self._tau(t, x), c, self.settings)
        return self.family.sign * out.to(x)


@dataclass(frozen=True)
class Residuals:
    """A network that is called with what controls add to its tokens."""

    net: Any
    kind: Kind
    acting: list[tuple[Any, Tensor, Tensor, int | None]]  # control, hint, strength and mode
    cond: Any

    @property
    def config(self) -> Any:
        return self.net.config

    def __call__(self, *args: Any, **given: Any) -> Any:
        given |= dict(zip(("hidden_states",), args, strict=False))
        every = [
            self.kind.residuals(control, given, self.cond, hint, scale, mode)
            for control, hint, scale, mode in self.acting
        ]
        return self.net(**given, **{key: _added([each[key] for each in every]) for key in every[0]})


def _added(parts: list[Any]) -> Any:
    """The sum of residuals by block; flags and missing ones are those of the first control."""
    if len(parts) == 1 or not isinstance(parts[0], list):
        return parts[0]
    depths = {len(part) for part in parts}
    require(
        len(depths) == 1,
        f"controls with {sorted(depths)} blocks act together; their residuals are added block by block: give "
        "controls of one depth",
    )
    return [sum(blocks[1:], blocks[0]) for blocks in zip(*parts, strict=True)]


def controlled(
    inner: Any, controls: Mapping[str, Any], strengths: Mapping[str, float | Amount], modes: Mapping[str, int]
) -> Controlled:
    """A pretrained field with control networks.

    Raises ValueError for another family, controls of another one, and modes that a control has not.
    """
    known = ", ".join(sorted(KINDS))
    require(
        type(inner) is Pretrained and inner.family.name in KINDS,
        f"control networks were given to a field {type(inner).__name__} of the family "
        f"{inner.family.name if isinstance(inner, Pretrained) else '(none)'}; those of diffusers are for {known}, "
        "without a cache or other controls: give all controls at once, and add a cache after them",
    )
    for name in (*strengths, *modes):
        require(name in controls, f"there is no control {name!r}; {nearest(name, controls)}")
    kind = KINDS[inner.family.name]
    for name, control in controls.items():
        require(
            type(control).__name__ == kind.cls,
            f"the control {name!r} is a {type(control).__name__}, and the family {inner.family.name} has {kind.cls}; "
            "load one for this family with its from_pretrained",
        )
        count = control.config.get("num_mode") or 0
        require(
            modes[name] in range(count) if name in modes else count == 0,
            f"the control {name!r} was given modes={dict(modes)}, and was trained on "
            f"{f'{count} kinds of hints' if count else 'one kind of hints'}; give the number of one of several, from "
            "0, and none for a single one",
        )
    for control in controls.values():
        kind.prepare(control, inner.net)
    return Controlled(inner, controls, strengths, modes)
