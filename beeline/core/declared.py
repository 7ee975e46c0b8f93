"""What a field declares about itself: whether it is a flow map, its blocks, its nulls, its columns."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from beeline.core.errors import require


class TokenGrid(NamedTuple):
    """The tokens of an image in the sequences of a transformer, row by row."""

    rows: int
    columns: int
    first: bool = True  # whether they stand before other tokens, such as those of a text


@dataclass(frozen=True)
class Traits:
    """What a network knows about itself beside its output; networks give it as their member ``traits``.

    ``nulls`` holds, for every condition that the network was built for, the value of its null: the last index of a
    label embedding, a number that fills a vector or a sequence, or None for a vector without one.
    Networks around others pass the traits of the network inside on, as Wrapping does.

    >>> Traits().nulls is None
    True
    """

    nulls: Mapping[str, float | None] | None = None  # None: it does not say
    columns: Sequence[Sequence[int]] | None = None  # of a table: the widths of the blocks of every column
    offsets: Tensor | None = None  # of a table: [D], the bias of its output
    cells: bool = False  # of a table: whether it takes known cells as a condition
    logits: bool = False  # of a table: whether forward(..., logits=True) gives (output, logits [B,D]) as well
    any_size: bool = False  # of images: whether it takes heights and widths other than those it was built for
    tokens: Callable[[Sequence[int]], TokenGrid] | None = None  # of transformers: those of an image [C,H,W]
    casts: bool = False  # whether it converts state and condition to the dtype of its weights, and needs no autocast


class Stages(NamedTuple):
    """A forward pass in parts: output = out(h after all blocks, *told[-1]), with h <- block_k(h, *told[k])."""

    h: Tensor  # features before the first repeated block
    told: Sequence[tuple[Any, ...]]  # modulations of every block, [B,...] or [1,...], and last those of ``out``
    out: Callable[..., Tensor]


def modulation_of(told: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
    """The modulation of a block for some rows of a batch; what has no rows is the same for all of them."""
    return tuple(_of_rows(part, rows) for part in told)


@runtime_checkable
class HasRows(Protocol):
    """A value with entries for every row of a batch."""

    def of_rows(self, rows: Tensor) -> Any:
        """The value of some rows."""
        ...


def _of_rows(part: Any, rows: Tensor) -> Any:
    if isinstance(part, HasRows):
        return part.of_rows(rows)
    return part[rows] if isinstance(part, Tensor) and len(part) > 1 else part


class Declaring(nn.Module):
    """Base of networks, with the default of every member that a network may declare."""

    is_flow_map: ClassVar[bool] = False

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        """The repeated blocks, by name."""
        return {}

    @property
    def traits(self) -> Traits:
        """What it knows about itself."""
        return Traits()

    @property
    def last_layer(self) -> nn.Module | None:
        """The layer whose output, reshaped row by row, is that of the network; None where there is none."""
        return None

    def modulation(self, t: Any, cond: Any = None) -> Sequence[tuple[Tensor, ...]] | None:
        """The modulation of every repeated block at the times ``t``; None if the blocks take no times."""
        return None

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        """The parts of a forward pass; None where it cannot be divided."""
        return None

    def settle(self, total: Callable[[Tensor], Tensor]) -> None:
        """Called by the engine after every step, with the function that sums a tensor over processes.

        ``core.progress.progress()`` is then the share of the steps that are done, with this one.
        It is called for every module that declares, at any depth of a network.
        """


def settle(network: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Call ``settle`` of every module of a network."""
    for module in network.modules():
        if isinstance(module, Declaring):
            module.settle(total)


class Counting(Declaring):
    """A module that is told after a part of a training step what was counted in it, such as the loads of experts."""

    def add(self, counts: Sequence[int]) -> None:
        """Take counts; a part whose activations are computed anew counts twice, in all entries."""
        raise NotImplementedError


_COUNTED: ContextVar[list[tuple[Counting, Sequence[int]]] | None] = ContextVar("counts of modules", default=None)


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Context manager: modules are given at its end what ``count`` was told inside, in this thread.

    The engine uses it around the forward and backward passes of a microbatch; a forward pass itself changes nothing.
    """
    seen: list[tuple[Counting, Sequence[int]]] = []
    token = _COUNTED.set(seen)
    try:
        yield
    finally:
        _COUNTED.reset(token)
    for module, counts in seen:
        module.add(counts)


def count(module: Counting, counts: Sequence[int]) -> None:
    """Keep counts of a module in training for the end of ``counting``; nothing elsewhere."""
    seen = _COUNTED.get()
    if seen is not None and module.training:
        seen.append((module, counts))


class Wrapping(Declaring):
    """Base of a network around one other network: what it does not change is that of the network inside.

    Blocks keep their names, so that recomputation, taps and sharding by block work through it.  A network around a
    flow map is a flow map; a subclass whose formula does not hold for one refuses it.
    """

    inside: ClassVar[str] = "field"  # the name of the attribute that holds the network

    @property
    def wrapped(self) -> Any:
        """The network inside."""
        return getattr(self, self.inside)

    @property
    def is_flow_map(self) -> bool:  # type: ignore[override]
        return is_map(self.wrapped)

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return stacks_of(self.wrapped)

    @property
    def traits(self) -> Traits:
        return traits_of(self.wrapped)

    @property
    def last_layer(self) -> nn.Module | None:
        return last_layer_of(self.wrapped)


class Holding(Declaring):
    """A network that holds others and has no weights beside theirs; ``parts`` names them.

    Objectives call the parts one by one, so that an engine that divides weights divides those of each part.  Its traits
    are those of its first part.
    """

    parts: ClassVar[tuple[str, ...]]

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        """The repeated blocks of the parts, by "part.stack"."""
        held = {name: stacks_of(part) for name, part in self.held().items()}
        return {f"{name}.{k}": stack for name, stacks in held.items() for k, stack in stacks.items()}

    @property
    def traits(self) -> Traits:
        return traits_of(self.held()[self.parts[0]])

    def held(self) -> dict[str, Any]:
        """The parts by name."""
        return {name: getattr(self, name) for name in self.parts}


@runtime_checkable
class DeclaresTraits(Protocol):
    """A field that declares its traits."""

    @property
    def traits(self) -> Traits: ...


@runtime_checkable
class DeclaresStacks(Protocol):
    """A network that declares its repeated blocks."""

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]: ...


@runtime_checkable
class DeclaresLastLayer(Protocol):
    """A network that declares its last layer."""

    @property
    def last_layer(self) -> nn.Module | None: ...


@runtime_checkable
class Remembering(Protocol):
    """A field with a memory of its earlier evaluations, such as a cache."""

    def for_branch(self) -> Any:
        """The field for one condition of one run, with an empty memory that ends with it."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A module that can be saved: ``describe()`` gives the settings from which an equal one is built."""

    def describe(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Declared:
    """A function with the declarations of a field; created by ``as_map`` and ``in_place_of``."""

    function: Callable[..., Tensor]
    is_flow_map: bool = False
    traits: Traits = field(default_factory=Traits)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(*args, **kwargs)


def as_map(function: Callable[..., Tensor]) -> Declared:
    """A function u(x, t, cond=None, s=None), or a bound one u(x, t, s=None), declared to be a flow map.

    >>> is_map(as_map(lambda x, t, cond=None, s=None: x)), is_map(lambda x, t, cond=None, s=None: x)
    (True, False)
    """
    return Declared(function, True)


def in_place_of(field: Any, function: Callable[..., Tensor]) -> Declared:
    """A velocity (x, t, cond) computed from a field, with the traits of that field."""
    return Declared(function, False, traits_of(field))


def is_map(field: Any) -> bool:
    """Whether a field, or its bound dynamics, declares itself a flow map: ``is_flow_map = True`` on its class."""
    return getattr(unwrapped(field), "is_flow_map", False) is True


def traits_of(field: Any) -> Traits:
    """The traits that a field declares; the defaults where it declares none."""
    inner = unwrapped(field)
    traits = inner.traits if isinstance(inner, DeclaresTraits) else None
    return traits if isinstance(traits, Traits) else Traits()


def for_branch(field: Any) -> Any:
    """The field for one condition of one run; itself where it has no memory of earlier evaluations."""
    inner = unwrapped(field)
    return inner.for_branch() if isinstance(inner, Remembering) else field


def stacks_of(network: Any) -> Mapping[str, nn.ModuleList]:
    """The repeated blocks that a network declares, by name; none where it declares none."""
    inner = unwrapped(network)
    stacks = inner.stacks if isinstance(inner, DeclaresStacks) else None
    return stacks if isinstance(stacks, Mapping) else {}


def last_layer_of(network: Any) -> nn.Module | None:
    """The last layer that a network declares; None where it declares none."""
    inner = unwrapped(network)
    return inner.last_layer if isinstance(inner, DeclaresLastLayer) else None


def fields_of(part: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, not copied; fields that are not set yet are left out.

    >>> fields_of(Traits())["cells"]
    False
    """
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if hasattr(part, f.name)}


def missing(part: object, protocol: type) -> list[str]:
    """The members of a protocol that a part lacks; its properties are not evaluated."""
    members = {*vars(protocol).get("__annotations__", {}), *dir(protocol)}
    named = (name for name in members if not name.startswith("_") or name in {"__call__"})
    return sorted(name for name in named if inspect.getattr_static(part, name, missing) is missing)


def check_members(part: object, protocol: type, hint: str) -> None:
    """Refuse a part that lacks members of a protocol: ValueError with their signatures and ``hint``.

    >>> check_members(0.5, Callable, "give a function")
    Traceback (most recent call last):
        ...
    beeline.core.errors.BeelineError: float has no __call__(*args, **kwds), which a Callable needs; give a function
    """
    lacking = [_signature(protocol, name) for name in missing(part, protocol)]
    require(
        not lacking,
        f"{type(part).__name__} has no {', '.join(lacking)}, which a {protocol.__name__} needs; {hint}",
    )


def _signature(protocol: type, name: str) -> str:
    """A member of a protocol as a reader would write it: a method with its arguments, or the name alone."""
    member = inspect.getattr_static(protocol, name, None)
    if not inspect.isfunction(member):
        return name
    found = inspect.signature(member)
    arguments = list(found.parameters.values())[1:]
    plain = found.replace(
        parameters=[p.replace(annotation=p.empty) for p in arguments], return_annotation=inspect.Signature.empty
    )
    return f"{name}{plain}"


def unwrapped(field: Any) -> Any:
    """The network inside torch.compile, DDP and DataParallel."""
    while True:
        if isinstance(field, nn.parallel.DistributedDataParallel | nn.DataParallel):
            field = field.module
        elif isinstance(field, nn.Module) and isinstance(field._modules.get("_orig_mod"), nn.Module):
            field = field._modules["_orig_mod"]  # torch.compile
        else:
            return field


def parts_of(network: Any) -> list[nn.Module]:
    """The modules with weights that are called by themselves: a network, or what it holds."""
    if isinstance(network, Holding):
        return [m for part in network.held().values() for m in parts_of(part)]
    if isinstance(network, nn.ModuleList):
        return [m for part in network for m in parts_of(part)]
    return [network] if isinstance(network, nn.Module) and next(network.parameters(), None) is not None else []


def nulls_of_labels(conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The nulls of a network: the index after the last class, zeros for sequences, and for vectors what they say.

    >>> nulls_of_labels({"label": {"classes": 10}, "text": {"length": 5, "size": 8}, "age": {"size": 1}})
    {'label': 10, 'text': 0.0, 'age': None}
    """
    return {
        name: 0.0 if "length" in spec else spec.get("classes", spec.get("null")) for name, spec in conditions.items()
    }


def group_of(name: str) -> str:
    """What the parts of one condition have in common: their name up to the first full stop.

    >>> group_of("text.pooled")
    'text'
    """
    return name.partition(".")[0]
