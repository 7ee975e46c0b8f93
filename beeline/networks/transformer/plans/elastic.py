"""Networks that are a part of a larger one: a view that shares its weights, or one with weights of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Stages, Traits, Wrapping, unwrapped
from beeline.core.errors import require
from beeline.fields.flow import Network
from beeline.networks.attention import SelfAttention
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.feeds import Dense, Gated
from beeline.networks.transformer.layout import asked, subnetwork
from beeline.networks.transformer.plans.subset import Subset, share_of


class SubNetwork(Wrapping):
    """A field with a flow transformer of which a part is evaluated.

    v = v(x, t, cond; the first heads and hidden channels, some of the visits)
    ``feeds``: the share of the hidden channels, one for all visits or one for each; None for that of ``width``.
    With ``own`` the network keeps the weights of that part alone, in place of those of the whole network that it is
    given; its output is equal.
    Source: Yu et al. 2018, "Slimmable Neural Networks" (arXiv 1812.08928); Cai et al. 2019, "Once for All" (arXiv
    1908.09791).

    >>> from beeline.networks.dit import DiT
    >>> net = SubNetwork(DiT((1, 8, 8), width=16, depth=2, heads=2), width=0.5)
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        width: float = 1.0,
        visits: Sequence[int] | None = None,
        own: bool = False,
        feeds: Sequence[float] | None = None,
    ):
        super().__init__()
        self.settings = {
            "width": width,
            "visits": None if visits is None else list(visits),
            "own": own,
            "feeds": None if feeds is None else list(feeds),
        }
        whole = Subset(width, None if visits is None else tuple(visits), None if feeds is None else tuple(feeds))
        inner = transformer_in(field, "SubNetwork")
        whole.check(len(inner.visits))
        self.field = field
        self.subset = Subset(1.0, whole.visits) if own else whole
        if own:
            cut(inner, whole)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments; a network with weights of its own is built from the whole one again."""
        return {"field": self.field, **self.settings}

    @property
    def traits(self) -> Traits:
        """Those of the field; a Network converts dtypes itself."""
        return replace(super().traits, casts=isinstance(self.field, Network) or super().traits.casts)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, *more: Any, **named: Any) -> Tensor:
        with subnetwork(self.subset.within(asked().part)):
            v: Tensor = self.field(x, t, cond, *more, **named)
        return v

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        with subnetwork(self.subset.within(asked().part)):
            inner = self.field
            return inner.stages(x, t, cond) if isinstance(inner, Declaring) else None


def extracted(
    field: nn.Module,
    width: float = 1.0,
    visits: Sequence[int] | None = None,
    feeds: Sequence[float] | None = None,
) -> SubNetwork:
    """A part of a network with weights of its own, whose output is that of ``SubNetwork``; ``field`` is not changed.

    Raises ValueError where a block has no form with fewer heads or hidden channels.
    """
    return SubNetwork(copy.deepcopy(field), width, visits, True, feeds)


def transformer_in(field: Any, whose: str) -> FlowTransformer:
    """The flow transformer inside a field; raises ValueError without one."""
    found = transformers_in(field)
    require(
        bool(found),
        f"{whose} got a {type(unwrapped(field)).__name__} without a flow transformer inside; give a network such "
        "as networks.DiT, MMDiT or UViT",
    )
    return found[0]


def transformers_in(field: Any) -> list[FlowTransformer]:
    """All flow transformers inside a field."""
    inner = unwrapped(field)
    return [m for m in inner.modules() if isinstance(m, FlowTransformer)] if isinstance(inner, nn.Module) else []


def cut(net: FlowTransformer, subset: Subset) -> None:
    """Keep the weights of a part of a network."""
    used: dict[int, Subset] = {}
    for k, (name, block) in enumerate(net.visits):
        if subset.visits is None or k in subset.visits:
            part = subset.at(k)
            require(
                used.setdefault(id(block), part) == part,
                f"the block of the visit {name} is used with two shares of its hidden channels, {part.feeds} and "
                f"{used[id(block)].feeds}; give one for all visits of a block",
            )
    for stack in net.stacks.values():
        for i, block in enumerate(stack):
            if id(block) not in used:
                stack[i] = nn.Identity()  # its visits are left out
            else:
                _narrowed(block, used[id(block)])


def _narrowed(block: nn.Module, part: Subset) -> None:
    shares = {SelfAttention: part.width, Dense: part.feed, Gated: part.feed}
    if min(shares.values()) == 1:
        return
    found = [m for m in block.modules() if isinstance(m, (SelfAttention, Dense, Gated))]
    inside = {id(p) for m in found for name, p in m.named_parameters() if not name.startswith("core.")}
    narrow = {"mix": part.width < 1, "mlp": part.feed < 1}
    others = [name for name, p in block.named_parameters() if id(p) not in inside and narrow.get(name.split(".")[0])]
    require(
        not others,
        f"a block has the weights {others[:3]}, which do not belong to heads or hidden channels; only attention-like "
        "mixers and the feeds FeedForward, SwiGLU and CauchyFeed have narrow forms: leave others whole with width=1 "
        "(for mixers) or feeds=(1.0,), or use these members",
    )
    for m in found:
        kind = next(kind for kind in NARROW if isinstance(m, kind))
        if shares[kind] < 1:
            NARROW[kind](m, shares[kind])


def _fewer_heads(m: Any, width: float) -> None:
    heads = share_of(m.heads, width)
    size = m.qkv.out_features // (3 * m.heads)
    _keep(m.qkv, lambda w: w.unflatten(0, (3, m.heads, size))[:, :heads].flatten(0, 2))
    if isinstance(m.out, nn.Linear):  # a stream whose output nobody reads has none
        _keep(m.out, None, lambda w: w[:, : heads * size])
    m.heads = heads


def _fewer_hidden(m: Any, width: float) -> None:
    n = share_of(m[0].out_features, width)
    _keep(m[0], lambda w: w[:n])
    _keep(m[3], None, lambda w: w[:, :n])


def _fewer_gated(m: Any, width: float) -> None:
    n = share_of(m.down.in_features, width)
    _keep(m.up, lambda w: w.unflatten(0, (2, -1))[:, :n].flatten(0, 1))
    _keep(m.down, None, lambda w: w[:, :n])


NARROW: dict[type, Callable[[Any, float], None]] = {
    SelfAttention: _fewer_heads,
    Dense: _fewer_hidden,
    Gated: _fewer_gated,
}
"""A module -> the function that keeps its first heads or hidden channels."""


def _keep(
    layer: nn.Linear, outputs: Callable[[Tensor], Tensor] | None, inputs: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Keep some of the outputs of a layer (weights and bias) or of its inputs."""
    with torch.no_grad():
        for name, choose in (("weight", outputs or inputs), ("bias", outputs)):
            old = layer.get_parameter(name)
            if choose is not None:
                layer.register_parameter(name, nn.Parameter(choose(old).clone(), old.requires_grad))
    layer.out_features, layer.in_features = layer.weight.shape
