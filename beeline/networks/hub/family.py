"""The description of a family of pretrained flow networks: how they are called, and what their output is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.declared import TokenGrid, Traits
from beeline.core.errors import require
from beeline.core.modes import graph_of
from beeline.core.types import Cond, map_cond
from beeline.networks.hub.calls.skips import returns_inputs
from beeline.networks.hub.layout import Known, cast, dtype_of
from beeline.networks.skipping import Change, sharing_copy

Settings: TypeAlias = Mapping[str, Any]
"""What a call needs beside state, time and condition, such as the scale of rotary positions; from the pipeline."""


class Call(Protocol):
    """(network, x [B,*S], tau [B], condition, settings) -> the network's output [B,*S].

    ``tau`` is the time in the network's own scale.  Tokens, position ids and shapes follow from the shape of ``x``.
    """

    def __call__(self, net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor: ...


class MapCall(Protocol):
    """As Call, with the time ``tau_s`` [B] at the end of a jump, in the network's own scale."""

    def __call__(self, net: Any, x: Tensor, tau: Tensor, tau_s: Tensor, c: Any, settings: Settings) -> Tensor: ...


class NetworkTime(Protocol):
    """(t [B], x [B,*S]) -> the noise level or time [B] in [0, 1] that the network takes, before its scale."""

    def __call__(self, t: Tensor, x: Tensor) -> Tensor: ...


class PromptEncoder(Protocol):
    """(pipeline, texts, images by name) -> the condition of the texts, by the names of ``outputs``."""

    @property
    def outputs(self) -> Mapping[str, int]: ...

    def __call__(self, pipeline: Any, texts: list[str], images: Mapping[str, Any] = ...) -> dict[str, Any]: ...

    def with_length(self, pipeline: Any, length: int) -> PromptEncoder: ...


class ImageInputs(Protocol):
    """(pipeline, family, images by name, shape of a sample) -> leaves of the condition, with a row for each image."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""

    @property
    def leaves(self) -> tuple[str, ...]:
        """Of the condition."""

    @property
    def required(self) -> tuple[str, ...]:
        """Leaves that the network cannot do without."""

    def __call__(
        self, pipeline: Any, family: Family, images: Mapping[str, Any], size: tuple[int, ...]
    ) -> dict[str, Tensor]: ...


class Statistics(Protocol):
    """The affine map between the latents of an autoencoder and those of the flow."""

    def to_flow(self, vae: Any, z: Tensor) -> Tensor: ...

    def to_vae(self, vae: Any, x: Tensor) -> Tensor: ...


def noise_level(t: Tensor, x: Tensor) -> Tensor:
    """sigma = 1 - t."""
    return 1 - t


def time(t: Tensor, x: Tensor) -> Tensor:
    """t itself, for networks that take the time of the data."""
    return t


def whole_noise_level(t: Tensor, x: Tensor) -> Tensor:
    """floor(1000 sigma) / 1000, which the multistep schedulers of diffusers pass to the network."""
    return torch.floor(1000 * (1 - t.double()) + 1e-4).to(t.dtype) / 1000


EXTRAPOLATE: Mapping[str, Any] = {"is": "rules.Extrapolate"}


def no_settings(pipeline: Any) -> Settings:
    return {}


def never(net: Any) -> bool:
    return False


def none(pipeline: Any) -> None:
    return None


def default_side(pipeline: Any) -> int:
    return int(pipeline.default_sample_size) * int(pipeline.vae_scale_factor)


def state_channels(pipeline: Any) -> int:
    """Channels of the network's input, in its tokens."""
    return int(pipeline.transformer.config.in_channels)


@dataclass(frozen=True)
class Family:
    """One family of pretrained networks.

    v = sign * call(net, x, scale * clock(t, x), cond)
    """

    name: str
    transformers: tuple[str, ...]  # classes of diffusers
    pipelines: tuple[str, ...]  # classes of diffusers, the default one first
    call: Call
    statistics: Statistics
    set_times: Callable[[Any, int, int], None]  # (scheduler, steps, tokens): sets the scheduler as the pipeline does
    prompt: PromptEncoder
    schedule_config: Callable[[Any], Settings] = no_settings  # (pipeline) -> entries that replace the scheduler's own
    clock: NetworkTime = noise_level
    scale: float = 1000.0  # of the time that the network takes
    sign: float = -1.0  # -1 for networks that predict noise - data, +1 for data - noise
    patch: int = 2  # side of the patch of a token, in the state
    packed: int = 1  # side of patches that the pipeline moves into channels and ``call`` undoes
    compressed: int = 1  # side of patches that are channels of the state itself
    spatial: Callable[[Any], int] = attrgetter("vae_scale_factor")  # (pipeline) -> pixels per latent
    side: Callable[[Any], int] = default_side  # (pipeline) -> its default height and width in pixels
    pictures: Callable[[Any], Any] = attrgetter("image_processor")  # (pipeline) -> its processor of images
    temporal: str = ""  # attribute of the pipeline: frames per latent frame; "" for images
    rule: Mapping[str, Any] | None = field(
        default_factory=lambda: EXTRAPOLATE
    )  # of guidance, as a description; None: no unconditional prediction
    scale_argument: str = "guidance_scale"  # of the pipeline, the scale of ``rule``
    own_scale: Callable[[Any], float | None] = none  # (pipeline) -> the scale of its guider, if it has one
    scale_offset: float = 0.0  # 1 for pipelines that compute c + s (c - u), whose scale is s = ours - 1
    embedded: float | None = None  # factor of the embedded guidance scale in the condition; None: it takes none
    embedded_argument: str = "guidance_scale"  # of the pipeline, the embedded scale
    settings: Callable[[Any], Settings] = no_settings
    inputs: ImageInputs | None = None  # images that are part of a condition
    channels: Callable[[Any], int] = state_channels  # (pipeline) -> channels of the state in tokens
    frame_axis: bool = False  # whether the autoencoder of images has an axis of frames
    network: Callable[[Any], Any] = attrgetter("transformer")  # (pipeline) -> its network
    diffusion: bool = False  # whether the network is that of a variance-preserving diffusion with discrete times
    map_call: MapCall | None = None  # of checkpoints that are flow maps
    is_map: Callable[[Any], bool] = never  # (network) -> whether it is a flow map
    tokens_of: Callable[[Any, Sequence[int]], TokenGrid] | None = None  # (network, shape of a state) -> its tokens
    last: str = "proj_out"  # name of the last layer, after which the output is only moved and reshaped
    second: Callable[[Any], tuple[Any, float] | None] = none  # (pipeline) -> the network of low noise, and the boundary

    def __deepcopy__(self, memo: dict[int, Any]) -> Family:
        return self  # frozen, and with mappings that cannot be copied

    def latent_shape(self, pipeline: Any, height: int, width: int, num_frames: int = 1) -> tuple[int, ...]:
        """The shape [C,H,W] or [C,F,H,W] of a state for a size in pixels; raises ValueError for an impossible size."""
        side = self.spatial(pipeline) * self.packed * self.compressed
        step = side * (1 if self.packed * self.compressed > 1 else self.patch)
        for name, value in (("height", height), ("width", width)):
            low = max(step, value // step * step)
            require(
                value >= step and value % step == 0,
                f"{name}={value} pixels were requested of {self.name}, whose tokens have a side of {step} pixels; set "
                f"a multiple of it, such as {low} or {low + step}",
            )
        channels = self.channels(pipeline) // self.packed**2
        plane = (height // side * self.packed, width // side * self.packed)
        if not self.temporal:
            return (channels, *plane)
        ratio = getattr(pipeline, self.temporal)
        low = max(0, num_frames - 1) // ratio * ratio + 1
        require(
            num_frames >= 1 and (num_frames - 1) % ratio == 0,
            f"num_frames={num_frames} were requested of {self.name}, whose latent frames hold {ratio} frames after the "
            f"first; set a multiple of {ratio} plus 1, such as {low} or {low + ratio}",
        )
        return (channels, (num_frames - 1) // ratio + 1, *plane)

    def pixels(self, pipeline: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width in pixels of a state of shape [C,H,W] or [C,F,H,W]."""
        side = self.spatial(pipeline) * self.compressed
        return shape[-2] * side, shape[-1] * side

    def check(self, cond: Any) -> None:
        """Raise ValueError for a condition without what the network needs."""
        require(
            cond is not None,
            f"a network of the family {self.name} was called without a condition; it needs a prompt: sample "
            'with prompt="...", or pass the embeddings as cond',
        )
        if self.inputs is None:
            return
        missing = [leaf for leaf in self.inputs.required if leaf not in cond]
        require(
            not missing,
            f"a network of the family {self.name} was called without {' and '.join(missing)}, which it makes samples "
            f"from; give {' and '.join(self.inputs.names)} in the condition, or the latents under the former names",
        )

    def processor(self, pipeline: Any) -> Any:
        """The pipeline's processor of images or videos."""
        return pipeline.video_processor if self.temporal else self.pictures(pipeline)

    def tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens of a state of shape [C,H,W] or [C,F,H,W]."""
        *frames, h, w = shape[1:]
        return (h // self.patch) * (w // self.patch) * (frames[0] if frames else 1)


def field_of(pipeline: Any, family: Family, clock: NetworkTime | None = None) -> nn.Module:
    """The velocity field or flow map of a pipeline; ``clock`` replaces that of the family."""
    settings = family.settings(pipeline)

    def made(net: Any) -> nn.Module:
        return (PretrainedMap if family.is_map(net) else Pretrained)(net.eval(), family, settings, clock)

    second = family.second(pipeline)
    return (
        made(family.network(pipeline))
        if second is None
        else Experts(made(family.network(pipeline)), made(second[0]), second[1])
    )


class Pretrained(nn.Module):
    """A pretrained network of another library as a velocity field.

    v(x, t, cond) = sign * call(net, x, scale * clock(t), cond)
    Takes and returns [B,*S] in the dtype of the state; the network is called in its own dtype, with a time in
    float32, and without autocast, as by its pipeline.
    """

    net: Any  # a module

    def __init__(
        self, net: nn.Module, family: Family, settings: Settings | None = None, clock: NetworkTime | None = None
    ):
        super().__init__()
        # the hooks of an offloaded network hold its weights: they are not on a device of this module
        self._apart = any(p.is_meta for p in net.parameters())
        self._hold(net)
        self.family = family
        self.settings, self.clock = dict(settings or {}), clock or family.clock

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        y, cond = self._inputs(x, cond)
        out = self.family.call(self.net, y, self._tau(t, x), cond, self.settings)
        return self.family.sign * out.to(x)  # an offloaded network answers on another device

    @property
    def traits(self) -> Traits:
        """What it knows about itself."""
        grid = self.family.tokens_of
        return Traits(casts=True, tokens=None if grid is None else functools.partial(grid, self.net))

    @property
    def last_layer(self) -> nn.Module | None:
        """The layer of ``last``; None for a checkpoint without it."""
        return dict(self.net.named_modules()).get(self.family.last)

    def on(self, net: nn.Module) -> Pretrained:
        """The same field of another network."""
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made._hold(net)
        return made

    def _hold(self, net: nn.Module) -> None:
        holder: dict[str, Any] = self.__dict__ if self._apart else self._modules
        holder["net"] = net
        self._known: list[Known] = []  # at most one; in a list, because its modules are not those of the field

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of the repeated blocks, in the order of their evaluation."""
        stacks = {name: child for name, child in self.net.named_children() if isinstance(child, nn.ModuleList)}
        return tuple(
            f"{name}.{i}"
            for name, stack in stacks.items()
            for i, b in enumerate(stack)
            if any(True for _ in b.children())
        )

    def without_blocks(self, names: Sequence[str]) -> Pretrained:
        """The field of a copy of its network with the same weights, in which the named blocks return their inputs."""
        return self.with_forward(names, lambda name, block: returns_inputs(block))

    def with_forward(self, names: Sequence[str], change: Change) -> Pretrained:
        """The field of a copy of its network with the same weights, in which the named blocks are changed."""
        net = sharing_copy(self.net)
        for name in names:
            block = net.get_submodule(name)
            block.forward = change(name, block)
        return self.on(net)

    def _inputs(self, x: Tensor, cond: Cond) -> tuple[Tensor, Any]:
        self.family.check(cond)
        dtype = self._dtype(x)
        return x.to(dtype), cast(cond, dtype)

    def _dtype(self, x: Tensor) -> torch.dtype:
        if not (self._known and self._known[0].holds(self.net)):
            found = Known.of(self.net)
            self._known = [found] if found else []
        return self._known[0].inputs if self._known else dtype_of(self.net, x)

    def _tau(self, t: Tensor, x: Tensor) -> Tensor:
        return self.family.scale * self.clock(t, x)


class PretrainedMap(Pretrained):
    """A pretrained network with two times as a flow map.

    u(x, t, cond, s) = sign * map_call(net, x, scale * clock(t), scale * clock(s), cond)
    """

    is_flow_map = True

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        y, cond = self._inputs(x, cond)
        assert self.family.map_call is not None
        end = self._tau(t if s is None else s, x)
        out = self.family.map_call(self.net, y, self._tau(t, x), end, cond, self.settings)
        return self.family.sign * out.to(x)  # an offloaded network answers on another device


class Experts(nn.Module):
    """Two fields, one for each side of a noise level: ``high`` where sigma >= boundary, ``low`` elsewhere.

    Rows of one batch may have times on both sides.  Source: Wan 2.2 A14B, 2025.
    """

    traits = Traits(casts=True)

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float):
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        early = 1 - t >= self.boundary - 1e-7
        if bool(early.all()) or not bool(early.any()):
            field = self.high if bool(early[0]) else self.low
            out: Tensor = field(x, t, cond)
            return out
        result = torch.empty_like(x)
        for rows, field in ((early, self.high), (~early, self.low)):
            here = map_cond(lambda leaf, rows=rows: leaf[rows], cond)
            result[rows] = field(x[rows], t[rows], here)
        return result


def where(net: Any, x: Tensor) -> Tensor:
    """``x`` on the device of a network; unchanged for one whose weights are offloaded, which moves its inputs."""
    return x if net.device == torch.device("meta") else x.to(net.device)


def latents_of(vae: Any, family: Family, pixels: Tensor) -> Tensor:
    """Pixels [N,C,H,W] or [N,C,F,H,W] as latents of the flow: the mean of the autoencoder's posterior, normalised."""
    pixels = pixels[:, :, None] if pixels.ndim == 4 and (family.temporal or family.frame_axis) else pixels
    with torch.no_grad():
        z = vae.encode(where(vae, pixels).to(vae.dtype))
        mean = (z.latent_dist.mode() if "latent_dist" in z else z.latent).float()
    return family.statistics.to_flow(vae, mean[:, :, 0] if family.frame_axis else mean)


def pixels_of(vae: Any, family: Family, x: Tensor) -> Tensor:
    """Latents of the flow as pixels [N,C,H,W] or [N,C,F,H,W] of the autoencoder; differentiable."""
    z = family.statistics.to_vae(vae, where(vae, x).float()).to(vae.dtype)
    with graph_of(z):
        pixels: Tensor = vae.decode(z[:, :, None] if family.frame_axis else z, return_dict=False)[0]
    return pixels[:, :, 0] if family.frame_axis else pixels
