"""A network some of whose layers store their weights in number formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import nearest, require
from beeline.core.types import Cond
from beeline.networks.adapters.inside import Reparametrized
from beeline.networks.adapters.recast import replaced
from beeline.networks.compressing.activations.ranges import at_times
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format
from beeline.networks.compressing.packed import packed


class Compressed(Reparametrized):
    """A network with the weights of layers in number formats.

    y = decode(codes) x + b for every layer that is named
    Source: Dettmers et al. 2022, "LLM.int8()" (arXiv 2208.07339), weights in integers.

    >>> from beeline.networks.compressing.formats import Integers
    >>> from beeline.networks.mlp import MLP
    >>> net = Compressed(MLP(2, width=64), [Integers(8)], [["out"]])
    >>> stored_bytes(net) < stored_bytes(MLP(2, width=64))
    True
    """

    def __init__(
        self,
        field: nn.Module,
        formats: Sequence[Format],
        layers: Sequence[Sequence[str]],
        kept: bool = False,  # keep decoded weights in memory: the speed and the memory of the network inside
        moments: Mapping[str, Moments] | None = None,  # of the inputs of layers, for formats that look at them
    ):
        super().__init__()
        require(
            len(formats) == len(layers),
            f"Compressed got {len(formats)} formats for {len(layers)} lists of layers; give the names of the layers of "
            "every format",
        )
        self.field, self.formats, self.layers = field, tuple(formats), [list(names) for names in layers]
        self.kept = kept
        modules = dict(field.named_modules())
        for form, names in zip(formats, layers, strict=True):
            for name in names:
                require(
                    name in modules, f"there is no layer {name!r} in {type(field).__name__}; {nearest(name, modules)}"
                )
                replaced(field, name, packed(modules[name], form, (moments or {}).get(name), kept))

    @property
    def timed(self) -> bool:
        """Whether the rounding of inputs depends on the time."""
        return any(form.timed for form in self.formats)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        if not self.timed:
            return super().forward(x, t, cond, s)
        with at_times(x, t):
            return super().forward(x, t, cond, s)

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        return None if self.timed else super().stages(x, t, cond)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "formats": self.formats, "layers": self.layers, "kept": self.kept}


def stored_bytes(network: nn.Module) -> int:
    """The bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
