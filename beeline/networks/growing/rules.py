"""What the axes of every parameter of a flow transformer stand for when its width and feeds grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.modes import wide
from beeline.core.rng import Rng
from beeline.networks.attention import SelfAttention
from beeline.networks.embed import ConditionEmbedding, TimeEmbedding
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import PeriBlock, ScalarGates
from beeline.networks.transformer.experts import Mixture
from beeline.networks.transformer.feeds import Cauchy, Dense, Gated
from beeline.networks.transformer.groups import Best, Number
from beeline.networks.transformer.modulations import Between, LastRow, LowRank, Row, SharedBeside, ShiftsBeside
from beeline.networks.transformer.plans.plan import Embedded
from beeline.networks.transformer.positions import Table
from beeline.networks.transformer.routers import Awake, Biased, Cosines, FirstAndBest, Linear


class Axis(NamedTuple):
    """How an axis grows: each entry is repeated (``copied``), or new entries come after the old ones of each part.

    ``read`` axes are summed over: repeated entries share the old value, and new entries are zero.
    """

    copied: bool = False
    read: bool = False
    parts: int = 1


Axes: TypeAlias = tuple[Axis, ...]

SAME, WRITTEN, UNREAD = Axis(), Axis(), Axis(read=True)  # WRITTEN: new entries as in a new layer
COPY, SPLIT = Axis(copied=True), Axis(copied=True, read=True)


def linear(name: str, out: Axis, inside: Axis) -> dict[str, Axes]:
    """The axes of weight and bias of a linear layer."""
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def tower(name: str, second: str) -> dict[str, Axes]:
    """Two linear layers from numbers that do not grow."""
    return linear(name, WRITTEN, SAME) | linear(second, COPY, UNREAD)


RULES: Mapping[type[nn.Module], Mapping[str, Axes]] = {
    SelfAttention: linear("qkv", Axis(parts=3), SPLIT) | linear("out", COPY, UNREAD) | {"gain": (SAME, SAME, SAME)},
    Dense: linear("0", WRITTEN, SPLIT) | linear("3", COPY, UNREAD),
    Cauchy: {"first": (), "second": (), "raw": ()},
    Gated: linear("up", Axis(parts=2), SPLIT) | linear("down", COPY, UNREAD),
    Mixture: {
        "up": (SAME, SPLIT, WRITTEN), "first": (SAME, WRITTEN), "down": (SAME, UNREAD, COPY), "second": (SAME, COPY)
    },
    Linear: {"gate.weight": (SAME, SPLIT)},
    FirstAndBest: {"gate.weight": (SAME, SPLIT)},
    Best: {"gate.weight": (SAME, SPLIT)},
    Number: linear("gate", SAME, SPLIT),
    Biased: {"gate.weight": (SAME, SPLIT), "bias": (SAME,)},
    Awake: linear("gate", SAME, SPLIT),
    Cosines: {"prototypes": (SAME, COPY)},
    ScalarGates: linear("linear", COPY, SPLIT) | {"gate": (SAME,)},
    Row: {"table": (SAME, COPY)},
    LastRow: {"table": (SAME, COPY)},
    Embedded: {"embedding": (SAME, COPY)},
    SharedBeside: linear("shared", COPY, SPLIT),
    LowRank: {"down.weight": (WRITTEN, SPLIT)} | linear("up", COPY, UNREAD),
    ShiftsBeside: linear("shared", COPY, SPLIT),
    Between: {"ends": (SAME, SAME, SAME, COPY), "slope": (SAME, SAME, SAME), "start": (SAME, SAME, SAME)},
    PeriBlock: {"outer": (SAME, COPY)},
    Table: {"table": (SAME, COPY)},
    TimeEmbedding: tower("time.0", "time.2") | tower("span.0", "span.2"),
    FlowTransformer: linear("inp", COPY, SAME) | linear("tell", COPY, SPLIT) | linear("out", SAME, SPLIT),
}  # fmt: skip
"""The axes of the parameters of a module, by the name inside of it; those of its parts have rules of their own."""

OUTPUTS: Mapping[type[nn.Module], Sequence[str]] = {
    SelfAttention: ("out.weight", "out.bias"),
    Dense: ("3.weight", "3.bias"),
    Gated: ("down.weight", "down.bias"),
    Mixture: ("down", "second"),
}
"""The parameters that a branch of a block ends with."""


def axes_of(net: FlowTransformer) -> dict[str, Axes]:
    """The axes of the entries of the state of a network; entries without a rule are missing."""
    found: dict[str, Axes] = {}
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        for kind, rules in RULES.items():
            if isinstance(module, kind):
                found |= {prefix + own: axes for own, axes in rules.items()}
        if isinstance(module, ConditionEmbedding):
            for i, part in enumerate(module.parts):
                own = f"{prefix}parts.{i}"
                found |= {f"{own}.weight": (SAME, COPY)} if isinstance(part, nn.Embedding) else {}
                found |= linear(own, COPY, SAME) if isinstance(part, nn.Linear) else {}
                found |= tower(f"{own}.0", f"{own}.2") if isinstance(part, nn.Sequential) else {}
        if isinstance(module, nn.Linear) and is_told(name):
            found |= linear(name, COPY, SPLIT)
    return {name: axes for name, axes in found.items() if name in net.state_dict()}


def is_told(name: str) -> bool:
    """Whether a linear layer is one of modulation or a long skip: root, skip.0, block.0.tell, joint.0.tell.text."""
    parts = name.split(".")
    return parts[0] in ("root", "skip") or "tell" in parts[2:3]


def grown(old: Tensor, new: Tensor, axes: Axes, factor: int, rng: Rng) -> Tensor:
    """The values of ``old`` in the shape of ``new``, whose values are those of a new layer."""
    value = wide(old)
    for d, axis in enumerate(axes):
        if axis.copied and factor > 1:
            value = value.repeat_interleave(factor, d)
            value = value * shares(value, d, factor, rng.fork(d)) if axis.read else value
    blank = torch.zeros_like(new) if any(axis.read and not axis.copied for axis in axes) else new.clone()
    places = []
    for d, axis in enumerate(axes):
        starts = torch.arange(axis.parts, device=new.device) * (new.shape[d] // axis.parts)
        inside = torch.arange(value.shape[d] // axis.parts, device=new.device)
        places.append((starts[:, None] + inside).flatten())
    return blank.index_put(torch.meshgrid(*places, indexing="ij"), value.to(blank)) if axes else value.to(blank)


def shares(like: Tensor, axis: int, factor: int, rng: Rng) -> Tensor:
    """Factors in the shape of ``like`` that sum to 1 over the copies of an entry, and differ between them."""
    raw = 0.5 + rng.fill(torch.empty_like(like.movedim(axis, -1))).unflatten(-1, (-1, factor))
    return (raw / raw.sum(-1, keepdim=True)).flatten(-2).movedim(-1, axis)
