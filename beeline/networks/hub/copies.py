"""Pretrained fields with a cache or compiled blocks, on copies of their networks that share all weights."""

from __future__ import annotations

import copy
import functools
import math
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Traits, Wrapping, for_branch
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.types import Cond, map_cond
from beeline.networks.hub.caches import CACHES, Cache, blocks_of
from beeline.networks.hub.family import Experts, Family, Pretrained
from beeline.networks.skipping import sharing_copy


@dataclass
class Counts:
    """Evaluations of the network, one for every sample and prediction."""

    full: int = 0  # computed in full
    reused: int = 0  # with something from earlier evaluations


class Compiled(Wrapping):
    """A pretrained field whose repeated blocks are compiled, each kind of block once for every shape.

    v(x, t, cond) = field(x, t, cond)
    ``options`` are those of torch.compile; shapes are static by default.
    """

    def __init__(self, field: Pretrained, options: Mapping[str, Any]):
        super().__init__()
        check_plain(field)
        self.field, self.options = field, {"dynamic": False, **options}
        self._ready: list[Pretrained] = []  # in a list, so that its weights are not counted again

    @property
    def family(self) -> Family:
        return self.field.family

    def copied(self) -> Pretrained:
        """A copy with compiled blocks and the same weights."""
        made = copied(self.field)
        for block in blocks_of(made.net):
            block.forward = torch.compile(block.forward, **self.options)
        return made

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *end: Tensor) -> Tensor:
        if not self._ready:
            self._ready.append(self.copied())
        out: Tensor = self._ready[0](x, t, cond, *end)
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.field, memo), self.options)


class Cached(Wrapping):
    """A pretrained field with a cache, which is empty at the start of every run and apart for every prediction.

    v(x, t, cond) = field(x, t, cond), approximately, inside a run; exactly for a single evaluation
    """

    def __init__(self, field: Pretrained | Compiled, cache: Cache):
        super().__init__()
        check_plain(field)
        name, kind = field.family.name, type(cache).__name__
        require(
            name in cache.families,
            f"the cache {kind} was given for a model of the family {name}; it is tested for "
            f"{', '.join(cache.families)}, and others may fail or give wrong samples: choose {others(name)}",
        )
        self.field, self.cache = field, cache
        self.listeners: list[Counts] = []
        self._free: list[Copy] = []  # copies that no run uses

    @property
    def family(self) -> Family:
        return self.field.family

    def for_branch(self) -> nn.Module:
        """The field for one condition of one run, with an empty cache that ends with it."""
        taken = self._free.pop() if self._free else Copy(self.field, self.cache, self.listeners)
        return Branch(taken, self._free)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *end: Tensor) -> Tensor:
        out: Tensor = self.field(x, t, cond, *end)
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Cached:
        return Cached(copy.deepcopy(self.field, memo), self.cache)


class CachedExperts(Experts):
    """Two fields, one for each side of a noise level, with caches."""

    def for_branch(self) -> nn.Module:
        """The fields for one condition of one run."""
        return Experts(for_branch(self.high), for_branch(self.low), self.boundary)


class Copy:
    """A network with the hooks of a cache, which one branch uses at a time."""

    def __init__(self, field: Pretrained | Compiled, cache: Cache, listeners: list[Counts]):
        self.field, self.cache, self.listeners = copied(field), cache, listeners
        self.computed, self.time, self.first = 0, torch.zeros(1), True
        self.inputs: tuple[Any, ...] = ()  # shape, precision and device of the states of the branch
        net: Any = self.field.net
        inner: list[nn.Module] = []
        if isinstance(field, Compiled):
            inner = cache.inner(net)
            for module in inner:  # compiled below the hook, which is not part of a graph
                module.forward = torch.compile(module.forward, **field.options)
        witness = cache.witness(net)
        witness.forward = self._counted(witness.forward)
        net.enable_cache(cache.config(self._timestep))
        for module in inner:
            leave_graph(module)

    def _timestep(self) -> float:
        return math.inf if self.first else 1000 * (1 - float(host_times(self.time).flatten()[0]))

    def reset(self) -> None:
        net: Any = self.field.net
        net._reset_stateful_cache()  # diffusers has no other name for it
        self.inputs, self.first = (), True

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, *end: Tensor) -> Tensor:
        inputs = (x.shape, x.dtype, x.device)
        if inputs != self.inputs:  # such as of solvers that are parallel in time
            self.reset()
            self.inputs = inputs
        self.time = t
        if not self.cache.per_sample:
            out = self._evaluate("batch", x, t, cond, *end)
            self.first = False
            return out
        rows = [slice(i, i + 1) for i in range(len(x))]
        parts = [
            self._evaluate(
                str(i), x[row], t[row], map_cond(lambda leaf, row=row: leaf[row], cond), *(s[row] for s in end)
            )
            for i, row in enumerate(rows)
        ]
        return torch.cat(parts)

    def _evaluate(self, name: str, x: Tensor, t: Tensor, cond: Cond, *end: Tensor) -> Tensor:
        before, net = self.computed, self.field.net
        with net.cache_context(name):  # type: ignore[operator]
            out: Tensor = self.field(x, t, cond, *end)
        for counts in self.listeners:
            if self.computed > before:
                counts.full += len(x)
            else:
                counts.reused += len(x)
        return out

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.computed += 1
            return forward(*args, **kwargs)

        return call


class Branch(nn.Module):
    """A field that reuses parts of its earlier evaluations; its copy of the network is given back with it."""

    traits = Traits(casts=True)

    def __init__(self, taken: Copy, free: list[Copy]):
        super().__init__()
        self.taken, self.field = taken, taken.field
        weakref.finalize(self, give_back, taken, free)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *end: Tensor) -> Tensor:
        return self.taken(x, t, cond, *end)


def leave_graph(module: nn.Module) -> None:
    """Let a compiled block call ``module.forward`` outside of its graph.

    The function that the block sees is that of the class: one of the instance, such as a hook, would be compiled again
    for every block.
    """
    module.hooked = module.forward  # type: ignore[assignment]
    del module.forward
    module.__class__ = outside(type(module))  # type: ignore[arg-type]


@functools.cache
def outside(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose ``forward`` is not compiled and calls ``hooked`` of the module."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.hooked(*args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward})


def give_back(taken: Copy, free: list[Copy]) -> None:
    """Empty the cache of a copy, and offer the copy to later runs."""
    taken.reset()
    free.append(taken)


def copied(field: Pretrained | Compiled) -> Pretrained:
    """The field on a copy of its network with the same parameters and buffers; hooks of one do not act on the other."""
    if isinstance(field, Compiled):
        return field.copied()
    return field.on(sharing_copy(field.net))


def check_plain(field: Any) -> None:
    """Raise ValueError for a network with hooks of its own, which a copy would share with it."""
    net = field.field.net if isinstance(field, Compiled) else field.net
    hooked = next((type(m).__name__ for m in net.modules() if not isinstance(m.forward, types.MethodType)), None)
    require(
        hooked is None,
        f"the {hooked} of the network has hooks already, as offloading and other caches leave them; they would act on "
        "every copy of the network: load it without offload",
    )


def others(family: str) -> str:
    """The caches for a family as text."""
    known = [kind.__name__ for kind in CACHES if family in kind.families]
    return f"one of {', '.join(known)}" if known else "fewer steps, because no cache is tested for this family"
