"""Parts of a transformer that vanish together: heads of attention and hidden channels of feeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.attention import SelfAttention
from beeline.networks.transformer.feeds import Dense, Gated
from beeline.networks.transformer.mixers import AttentionMixer, Joint, Mixed
from beeline.networks.transformer.plans.elastic import transformer_in


@dataclass(frozen=True)
class Units:
    """The units of one module: equal parts of the inputs of its last layer."""

    module: Any
    last: nn.Linear
    count: int
    group: str = ""  # the module whose streams mix these heads together; "" for units of their own
    closed: tuple[Any, ...] = ()  # attentions of streams without a last layer, whose heads are those of this one

    @property
    def size(self) -> int:
        """Inputs of the last layer that belong to one unit."""
        return self.last.in_features // self.count

    def by_unit(self, values: Tensor) -> Tensor:
        """The sums [count] of values [in]."""
        return values.unflatten(0, (self.count, -1)).sum(1)


def units_of(network: nn.Module, whose: str) -> dict[str, Units]:
    """The units of all attentions and feeds, by the name of their last layer.

    Raises ValueError for weights in few bits, and for mixers with weights of their own or heads that are not alike.
    """
    found: dict[str, Units] = {}
    streams: set[int] = set()
    net = transformer_in(network, whose)
    mixer = net.settings["mixer"]
    require(
        not isinstance(mixer, AttentionMixer) or mixer.alike,
        f"{whose} got a network with mixer={type(mixer).__name__}, whose heads are not alike, so that none can take "
        "the place of another; use a network with mixer=Attention, or another way of making it smaller",
    )
    for name, m in net.named_modules():
        require(
            not (isinstance(m, Joint | Mixed) and any(part.startswith("core.") for part, _ in m.named_parameters())),
            f"{whose} got a network whose mixer {name!r} has weights beside those of queries, keys and values, which "
            "belong to the order of its heads; use a network with an attention that has none, such as mixer=Attention",
        )
        if isinstance(m, Joint):
            parts: dict[str, Any] = {stream: m.get_submodule(stream) for stream in m.streams}
            streams |= {id(part) for part in parts.values()}
            read = [stream for stream, part in parts.items() if not isinstance(part.out, nn.Identity)]
            closed = tuple(part for stream, part in parts.items() if stream not in read)
            for stream in read:
                part = parts[stream]
                own = closed if stream == read[0] else ()
                found[f"{name}.{stream}.out"] = Units(part, part.out, part.heads, name, own)
        elif isinstance(m, SelfAttention) and id(m) not in streams:
            found[f"{name}.out"] = Units(m, m.out, m.heads)
        elif isinstance(m, Dense | Gated):
            end = "3" if isinstance(m, Dense) else "down"
            last: Any = m.get_submodule(end)
            found[f"{name}.{end}"] = Units(m, last, last.in_features)
    for name, unit in found.items():
        require(
            "weight" in unit.last._parameters,
            f"{whose} got a network whose layer {name!r} stores its weight in few bits, of which no part can be taken "
            "away; take parts away first, and compress the result",
        )
    return found


def together(units: Mapping[str, Units], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of units, of which heads that several streams mix together have one: the sum of those of the streams."""
    sums: dict[str, Tensor] = {}
    for name, unit in units.items():
        key = unit.group or name
        sums[key] = sums[key] + scores[name] if key in sums else scores[name]
    return {name: sums[unit.group or name] for name, unit in units.items()}


@contextmanager
def gated(units: Mapping[str, Units], gates: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply the deviation of every unit from its mean by a gate [B,count] or [1,count]; 0 takes the unit away.

    x_j <- E[x_j] + gate (x_j - E[x_j]) for the inputs j of the last layer
    """

    def pass_gate(name: str, x: Tensor) -> Tensor:
        gate, mean = gates[name], means[name].to(x)
        wide = gate.repeat_interleave(units[name].size, 1).to(x.dtype)
        if len(wide) > 1:  # windows of a row lie beside each other
            wide = wide.repeat_interleave(len(x) // len(wide), 0)
        return mean + (x - mean) * wide.view(len(wide), *[1] * (x.ndim - 2), -1)

    def hook(name: str) -> Any:
        return lambda _, given: (pass_gate(name, given[0]),)

    handles = [unit.last.register_forward_pre_hook(hook(name)) for name, unit in units.items()]
    try:
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
