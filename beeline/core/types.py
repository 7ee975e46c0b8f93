"""The values that pass between the slots, and the one way to refuse bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, Union

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require

Cond: TypeAlias = Union[Tensor, Mapping[str, "Cond"], None]
"""A condition: a tree of tensors, every leaf starting with the batch dimension B."""

Dynamics: TypeAlias = Callable[..., Tensor]
"""(x [B,*S], t [B] or [B,F]) -> dx/dt [B,*S].

A bound flow map also takes the keyword s, the end of the jump, and gives the average velocity
from t to s; without it, it gives its diagonal u(x, t, t), which is a velocity.
"""


@dataclass(frozen=True)
class Batch:
    """What a step of learning sees.  A coupling fills x0."""

    x1: Tensor  # [B,*S] data
    x0: Tensor | None = None  # [B,*S] source
    cond: Cond = None  # tree, leaves [B,...]
    weight: Tensor | None = None  # [B], non-negative


class Point(NamedTuple):
    """A state on a path and its slope."""

    x: Tensor  # [B,*S]
    v: Tensor  # [B,*S], dx/dt


class Loss(NamedTuple):
    """What an objective gives back: a scalar to minimise, and what to log."""

    value: Tensor  # scalar, with a graph
    terms: dict[str, Tensor]  # scalars, detached
    per_sample: Tensor  # [B], detached
    t: Tensor  # [B] (or [B,F]), the sampled times


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """``t`` ([], [B] or [B,F]) with trailing ones, so that it multiplies ``x`` [B,*S]."""
    if t.shape != x.shape[: t.ndim]:  # not require(): this runs in every step, and the message costs more than it
        raise BeelineError(
            f"time has shape {tuple(t.shape)}, which is not a leading part of x's shape {tuple(x.shape)}; "
            "pass one time per sample (or per sample and frame)"
        )
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def leaves(cond: Cond, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a condition tree with their dotted names."""
    if isinstance(cond, Tensor):
        yield name, cond
    elif cond is not None:
        for key, value in cond.items():
            yield from leaves(value, f"{name}.{key}" if name else key)


def map_cond(fn: Callable[..., Tensor], cond: Cond, *others: Cond) -> Cond:
    """Apply ``fn`` leaf by leaf to trees of one structure; None stays None."""
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return fn(cond, *others)
    for other in others:
        require(
            isinstance(other, Mapping) and set(other) == set(cond),
            f"condition trees differ: {sorted(cond)} beside "
            f"{sorted(other) if isinstance(other, Mapping) else type(other).__name__}; give both the same names",
        )
    return {key: map_cond(fn, value, *(o[key] for o in others)) for key, value in cond.items()}  # type: ignore[index, call-overload]


def take(batch: Batch, index: Tensor) -> Batch:
    """The rows ``index`` of every part of a batch."""
    return Batch(
        batch.x1[index],
        None if batch.x0 is None else batch.x0[index],
        map_cond(lambda leaf: leaf[index], batch.cond),
        None if batch.weight is None else batch.weight[index],
    )


def stack(batches: Iterable[Batch]) -> Batch:
    """Batches of the same structure, one after another."""
    parts = list(batches)
    first = parts[0]
    return Batch(
        torch.cat([p.x1 for p in parts]),
        None if first.x0 is None else torch.cat([p.x0 for p in parts if p.x0 is not None]),
        map_cond(lambda *leaf: torch.cat(leaf), first.cond, *(p.cond for p in parts[1:])),
        None if first.weight is None else torch.cat([p.weight for p in parts if p.weight is not None]),
    )


def to(batch: Batch, *args: object, **kwargs: object) -> Batch:
    """A batch moved to a device (conditions keep their dtype unless one is given)."""
    move = lambda leaf: leaf.to(*args, **kwargs)  # noqa: E731
    return Batch(
        move(batch.x1),
        None if batch.x0 is None else move(batch.x0),
        map_cond(move, batch.cond),
        None if batch.weight is None else move(batch.weight),
    )
