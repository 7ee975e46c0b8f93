"""What is done with an object of a picture: operations on the places of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import LayerOperation, Places
from beeline.core.ranges import Positive, dataclass


@dataclass(frozen=True)
class Move:
    """Moves the object by whole pixels.

    y_ij = x_(i - down, j - right)

    >>> mask = torch.tensor([[[[1.0, 0.0]]]])
    >>> gathered(mask, Move(right=1)(mask)[0])
    tensor([[[[0., 1.]]]])
    """

    down: int = 0  # pixels; negative is up
    right: int = 0  # pixels; negative is left

    def __call__(self, mask: Tensor) -> Sequence[Places]:
        rows, columns = axes(mask)
        return [inside(Places(rows - self.down, columns - self.right), mask)]


@dataclass(frozen=True)
class Clone:
    """Keeps the object and adds a copy of it, moved by whole pixels.

    y = x, and before it x_(i - down, j - right)

    >>> mask = torch.tensor([[[[1.0, 0.0]]]])
    >>> len(Clone(right=1)(mask))
    2
    """

    down: int = 0
    right: int = 0

    def __call__(self, mask: Tensor) -> Sequence[Places]:
        return [Places(*axes(mask)), *Move(self.down, self.right)(mask)]


@dataclass(frozen=True)
class Resize:
    """Makes the object larger or smaller about the middle of its box, by the nearest pixels.

    y_ij = x at c + (i - c) / factor in every axis,  c the middle
    Nearest pixels keep the deviation of noise; a mean of neighbours would not.

    >>> mask = torch.tensor([[[[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]]])
    >>> gathered(mask, Resize(2.0)(mask)[0])
    tensor([[[[0., 1., 1., 1., 1., 0.]]]])
    """

    factor: Positive = 1.5

    def __call__(self, mask: Tensor) -> Sequence[Places]:
        places = []
        for at, (low, high) in zip(axes(mask), boxes(mask), strict=True):
            middle = (low + high) / 2
            places.append((middle + (at - middle) / self.factor + 0.5 - 1e-6).floor().long())
        return [inside(Places(*places), mask)]


@dataclass(frozen=True)
class Flip:
    """Mirrors the object inside its box, left to right or upside down.

    y_ij = x_(i, l + h - j),  l and h the first and the last column of the object

    >>> mask = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    >>> gathered(torch.tensor([[[[1.0, 2.0, 3.0]]]]), Flip()(mask)[0])
    tensor([[[[2., 1., 0.]]]])
    """

    upside_down: bool = False

    def __call__(self, mask: Tensor) -> Sequence[Places]:
        places = list(axes(mask))
        axis = 0 if self.upside_down else 1
        low, high = boxes(mask)[axis]
        places[axis] = low + high - places[axis]
        return [inside(Places(*places), mask)]


@dataclass(frozen=True)
class Remove:
    """Removes the object.

    y has no copy of it

    >>> Remove()(torch.ones(1, 1, 2, 2))
    []
    """

    def __call__(self, mask: Tensor) -> Sequence[Places]:
        return []


def copies(operations: Sequence[LayerOperation], mask: Tensor) -> list[Places]:
    """The places of all copies of an object after several operations, each on the copies of the one before it."""
    found = [Places(*axes(mask))]
    for operation in operations:
        found = [_after(p, q) for p in found for q in operation(gathered(mask, p))]
    return found


def gathered(x: Tensor, places: Places) -> Tensor:
    """A picture [B,C,H,W] made of the pixels of ``x`` at places; 0 where there is none."""
    index = _flat(places, x).clamp(min=0)
    made = x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return made * (_flat(places, x) >= 0).view(len(x), 1, *x.shape[2:])


def scattered(x: Tensor, places: Places) -> Tensor:
    """The pixels of ``x`` [B,C,H,W] added up at the places from which they come."""
    index = _flat(places, x)
    values = x.flatten(2) * (index >= 0)[:, None]
    return torch.zeros_like(values).scatter_add(2, index.clamp(min=0)[:, None].expand_as(values), values).view_as(x)


def rendered(behind: Tensor, front: Tensor, mask: Tensor, places: Sequence[Places]) -> tuple[Tensor, list[Tensor]]:
    """The copies of an object before a background [B,C,H,W], and what is seen of every copy [B,1,H,W]."""
    canvas, free, seen = torch.zeros_like(behind), torch.ones_like(mask), []
    for place in reversed(places):
        shown = free * gathered(mask, place)
        canvas, free = canvas + shown * gathered(front, place), free - shown
        seen.append(shown)
    return canvas + free * behind, seen[::-1]


def axes(mask: Tensor) -> Places:
    """The numbers of the rows [B,H] and columns [B,W] of pictures."""
    require(
        mask.ndim == 4,
        f"an object was to be moved in data of shape {tuple(mask.shape[1:])}; it has rows and columns: use it on "
        "pictures",
    )
    return Places(*(torch.arange(n, device=mask.device).expand(len(mask), n) for n in mask.shape[2:]))


def boxes(mask: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first and the last row, and column, of every object, [B,1] each."""
    found = []
    for at, others in zip(axes(mask), (3, 2), strict=True):
        there = (mask[:, 0] > 0).any(others - 1)
        found.append(
            (
                torch.where(there, at, at.shape[1]).amin(1, keepdim=True),
                torch.where(there, at, -1).amax(1, keepdim=True),
            )
        )
    return found[0], found[1]


def inside(places: Places, mask: Tensor) -> Places:
    """The places, with -1 for those outside of the picture."""
    return Places(*(torch.where((p >= 0) & (p < n), p, -1) for p, n in zip(places, mask.shape[2:], strict=True)))


def _after(first: Places, then: Places) -> Places:
    """The places of one operation after another."""
    return Places(*(torch.where(q >= 0, p.gather(1, q.clamp(min=0)), -1) for p, q in zip(first, then, strict=True)))


def _flat(places: Places, x: Tensor) -> Tensor:
    """The index of the source of every pixel [B,H*W]; -1 is none."""
    rows, columns = places.rows[:, :, None], places.columns[:, None]
    return torch.where((rows >= 0) & (columns >= 0), rows * x.shape[3] + columns, -1).flatten(1)
