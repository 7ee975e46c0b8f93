"""Operations that make pairs of pictures before and after an edit."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass


class PairOperation(Protocol):
    """The edited form of data ``x`` [B,*S]; ``reference`` [B,*S] are other data that an edit may use."""

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Inverted:
    """Light becomes dark.

    y = -x, for data in [-1, 1]

    >>> Inverted()(torch.ones(1, 1), torch.zeros(1, 1))
    tensor([[-1.]])
    """

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        return -x


@dataclass(frozen=True)
class Shifted:
    """Moved by whole pixels, around the border.

    y_ij = x_(i - down, j - right), with indices modulo the size
    Assumes pictures [B,C,H,W].

    >>> x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> Shifted(right=1)(x, x)
    tensor([[[[3., 1., 2.]]]])
    """

    down: int = 0
    right: int = 0

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        return _pictures(self, x).roll((self.down, self.right), (2, 3))


@dataclass(frozen=True)
class Turned:
    """Turned by quarter turns to the left.

    y = x turned by 90 degrees ``quarters`` times
    Assumes square pictures [B,C,H,H].

    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> Turned()(x, x)
    tensor([[[[2., 4.],
              [1., 3.]]]])
    """

    quarters: int = 1

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        require(
            x.ndim == 4 and x.shape[2] == x.shape[3],
            f"Turned got data of shape {tuple(x.shape[1:])}; a turned picture has the size of the picture only if it "
            "is square: use Shifted or Inverted",
        )
        return x.rot90(self.quarters, (2, 3))


@dataclass(frozen=True)
class Mirrored:
    """Mirrored, left to right.

    y_ij = x_(i, W - 1 - j)
    Assumes pictures [B,C,H,W].

    >>> x = torch.tensor([[[[1.0, 2.0]]]])
    >>> Mirrored()(x, x)
    tensor([[[[2., 1.]]]])
    """

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        return _pictures(self, x).flip(3)


@dataclass(frozen=True)
class Pasted:
    """A part is that of the reference.

    y = m reference + (1 - m) x
    The reference is another datum of the batch: an edit by a picture that shows what is meant.
    Source: He et al. 2024, "FreeEdit" (arXiv 2409.18071), whose triplets are made by inpainting twice.

    >>> Pasted((0.0, 1.0))(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[0., 1.]])
    """

    mask: Any  # weights in [0, 1] of the size of a datum, or of its last axes: a tensor or nested tuples

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _tuples(self.mask))

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        m = torch.as_tensor(self.mask, dtype=x.dtype).to(x.device)
        require(
            m.ndim <= x.ndim and all(a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False)),
            f"Pasted got a mask of shape {tuple(m.shape)} for data of shape {tuple(x.shape[1:])}; give one of the size "
            "of a datum",
        )
        return x + m * (reference - x)


def _pictures(operation: object, x: Tensor) -> Tensor:
    require(
        x.ndim == 4,
        f"{type(operation).__name__} got data of shape {tuple(x.shape[1:])}; give pictures [C,H,W], or use Inverted",
    )
    return x


def _tuples(values: Any) -> Any:
    """Nested lists as nested tuples, so that equal settings are equal."""
    return tuple(map(_tuples, values)) if isinstance(values, list | tuple) else values
