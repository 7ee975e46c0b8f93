"""Shapes of transformers of equal size: parameters and multiply-adds by formula, deeper and wider networks.

python -m benchmarks.shapes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from beeline.core.errors import require


class Shape(NamedTuple):
    """The sizes of a DiT with adaLN-zero and a dense feed, for square images."""

    width: int
    depth: int
    heads: int
    ratio: float
    side: int = 8  # pixels
    channels: int = 1
    patch: int = 2

    @property
    def hidden(self) -> int:
        return int(self.width * self.ratio)


Size = Callable[[Shape], int]


def parameters(shape: Shape) -> int:
    """The number of parameters of ``DiT`` without conditions, exactly."""
    d, patches = shape.width, shape.channels * shape.patch**2
    block = 4 * d * d + 4 * d + 2 * (d // shape.heads) + 6 * d * d + 6 * d + 2 * d * shape.hidden + shape.hidden + d
    ends = 64 * d + d + d * d + d + patches * d + d + 2 * d * d + 2 * d + patches * d + patches
    return ends + shape.depth * block


def multiply_adds(shape: Shape) -> int:
    """The multiply-adds of linear layers and attention for one image, exactly."""
    d, patches, n = shape.width, shape.channels * shape.patch**2, (-(-shape.side // shape.patch)) ** 2
    block = n * (4 * d * d + 2 * d * shape.hidden) + 2 * n * n * d + 6 * d * d
    return shape.depth * block + 2 * n * patches * d + 64 * d + d * d + 2 * d * d


def shapes(budget: int, size: Size, depths: tuple[int, ...], head: int = 8) -> Iterator[Shape]:
    """For every depth the shape of ``budget`` (within 3 percent) whose feed is nearest to four times its width.

    ``head`` is the number of channels of a head; the hidden channels take what the width leaves.
    Raises BeelineError for a depth without such a shape.
    """
    for depth in depths:
        found = []
        for width in range(head, 64 * head + 1, head):
            least, one = (size(Shape(width, depth, width // head, hidden / width)) for hidden in (0.5, 1.5))
            hidden = (budget - least) // (one - least)
            if hidden >= 1:  # a ratio for half a channel more, whose rounding gives this number
                found.append(Shape(width, depth, width // head, (hidden + 0.5) / width))
        near = [s for s in found if abs(size(s) - budget) <= 0.03 * budget]
        require(
            near,
            f"shapes got a budget of {budget} for depth {depth} and heads of {head} channels; no width fits it within "
            "3 percent: give more, fewer blocks or smaller heads",
        )
        yield min(near, key=lambda s: abs(s.ratio - 4))


def main() -> None:
    base = Shape(32, 3, 4, 4.0)
    for size in (parameters, multiply_adds):
        for shape in shapes(size(base), size, (12, 6, 3, 1)):
            print(f"{size.__name__:14} {size(shape):8} {shape}")


if __name__ == "__main__":
    main()
