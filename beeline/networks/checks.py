"""Validation of the sizes of networks."""

from __future__ import annotations

from collections.abc import Sequence

from beeline.core.errors import require


def check_image(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of one image; raises ValueError for other shapes."""
    require(
        len(shape) == 3 and all(int(n) == n and n >= 1 for n in shape),
        f"{name} got shape={tuple(shape)}; it is a network for images: pass (channels, height, width)",
    )
    c, h, w = (int(n) for n in shape)
    return c, h, w


def check_sizes(name: str, **sizes: int) -> None:
    """Raise ValueError for a size that is not an integer from 1."""
    for key, value in sizes.items():
        require(
            isinstance(value, int) and value >= 1,
            f"{name} got {key}={value!r}; a size is a whole number from 1: see the defaults of {name}",
        )


def check_dropout(name: str, dropout: float) -> None:
    """Raise ValueError for a dropout probability outside [0, 1)."""
    require(
        0 <= dropout < 1,
        f"{name} got dropout={dropout!r}; it must be a probability below 1: set a number from 0 to 0.5",
    )
