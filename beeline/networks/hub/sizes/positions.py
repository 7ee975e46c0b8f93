"""Networks of diffusers with other rotary position embeddings, by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.hub.copies import check_plain, copied
from beeline.networks.hub.family import Pretrained
from beeline.networks.hub.sizes.rotary import Rotary, usual_frequencies

SPATIAL = (1, 2)  # axes of rows and columns; axis 0 is that of frames, pictures or text
WAN_THETA = 10000.0  # the default of diffusers, which its module does not store


class ByIds(nn.Module):
    """Cosines and sines of token positions ``ids`` [N,axes], in place of the module of FLUX and those like it."""

    def __init__(self, theta: float, axes_dim: list[int], rotary: Rotary):
        super().__init__()
        self.theta, self.axes_dim, self.rotary = theta, list(axes_dim), rotary

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        like = torch.empty(0, dtype=torch.float32 if ids.is_mps else torch.float64, device=ids.device)
        at = ids.float()
        angles = [at[:, k, None] * frequencies_of(self, k, like) for k in range(len(self.axes_dim))]
        both = torch.cat(angles, -1).repeat_interleave(2, 1)
        return both.cos().float() * self.rotary.scale, both.sin().float() * self.rotary.scale


def frequencies_of(positions: ByIds, axis: int, like: Tensor) -> Tensor:
    return axis_frequencies(positions.rotary, axis, positions.axes_dim[axis], positions.theta, like)


def axis_frequencies(rotary: Rotary, axis: int, width: int, theta: float, like: Tensor) -> Tensor:
    """The frequencies of an axis: those of ``rotary`` for rows and columns, else the usual ones."""
    return rotary.frequencies(width, theta, like) if axis in SPATIAL else usual_frequencies(width, theta, like)


def by_ids(net: Any, rotary: Rotary) -> None:
    net.pos_embed = ByIds(net.pos_embed.theta, net.pos_embed.axes_dim, rotary)


def qwen(net: Any, rotary: Rotary) -> None:
    rope, like = net.pos_embed, torch.empty(0)
    turns = [axis_frequencies(rotary, k, width, rope.theta, like) for k, width in enumerate(rope.axes_dim)]
    count = len(rope.pos_freqs)
    rope.pos_freqs = turned(torch.arange(count), torch.cat(turns), rotary.scale)
    rope.neg_freqs = turned(torch.arange(-count, 0), torch.cat(turns), rotary.scale)


def lumina2(net: Any, rotary: Rotary) -> None:
    rope, like = net.rope_embedder, torch.empty(0, dtype=torch.float64)
    rope.freqs_cis = [
        turned(torch.arange(len(table)), axis_frequencies(rotary, k, width, rope.theta, like), rotary.scale)
        for k, (width, table) in enumerate(zip(rope.axes_dim, rope.freqs_cis, strict=True))
    ]


def wan(net: Any, rotary: Rotary) -> None:
    rope, like = net.rope, torch.empty(0, dtype=torch.float64)
    widths = (rope.t_dim, rope.h_dim, rope.w_dim)
    turns = torch.cat([axis_frequencies(rotary, k, width, WAN_THETA, like) for k, width in enumerate(widths)])
    angles = torch.outer(torch.arange(rope.max_seq_len), turns).repeat_interleave(2, 1)
    rope.freqs_cos = (angles.cos().float() * rotary.scale).to(rope.freqs_cos)
    rope.freqs_sin = (angles.sin().float() * rotary.scale).to(rope.freqs_sin)


def turned(at: Tensor, turns: Tensor, scale: float) -> Tensor:
    """The complex numbers scale e^(i at turns), [positions, frequencies]."""
    angles = torch.outer(at, turns)
    return torch.polar(torch.full_like(angles, scale), angles)


CHANGES: Mapping[str, Callable[[Any, Rotary], None]] = {
    **dict.fromkeys(("flux", "flux-kontext", "flux-fill", "flux-control", "flux2", "flux2-klein", "chroma"), by_ids),
    **dict.fromkeys(("ovis-image", "longcat-image"), by_ids),
    "qwen-image": qwen,
    "lumina2": lumina2,
    **dict.fromkeys(("wan", "wan-image-to-video"), wan),
}
"""Family -> the function that changes the position embeddings of a copy of its network."""


def with_rotary(field: Pretrained, rotary: Rotary) -> Pretrained:
    """The field on a copy of its network with other rotary position embeddings and the same weights."""
    check_plain(field)
    name = field.family.name
    require(
        name in CHANGES,
        f"other rotary position embeddings were given for a model of the family {name}; they are tested for "
        f"{', '.join(CHANGES)}: sample at the trained size, or use ProjectedFlow or another sampler",
    )
    made = copied(field)
    CHANGES[name](made.net, rotary)
    return made
