"""Operators across the channels of an image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import FullOperator
from beeline.core.ranges import NonNegative, dataclass
from beeline.sampling.steering.operators.operator import OperatorBase


@dataclass(frozen=True)
class Grey(OperatorBase):
    """The brightness of colour images, for colourisation.

    A x = sum_c w_c x_c
    Source: the weights of the luma of ITU-R BT.601, which pictures in grey have by convention.

    >>> Grey().apply(torch.ones(1, 3, 1, 1))
    tensor([[[[1.]]]])
    """

    weights: tuple[NonNegative, ...] = (0.299, 0.587, 0.114)  # of the channels
    orthogonal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))

    def prepared(self, like: Tensor) -> FullOperator:
        channels = like.shape[1] if like.ndim > 2 else 0
        require(
            channels == len(self.weights),
            f"Grey got data of shape {tuple(like.shape[1:])} for {len(self.weights)} weights of channels; the "
            "brightness is a sum over the channels of images [C,H,W]: use it for colour images, or give one weight "
            "per channel",
        )
        return self

    def apply(self, x: Tensor) -> Tensor:
        self.prepared(x)
        return (x * self._weights(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._weights(y)

    def _weights(self, x: Tensor) -> Tensor:
        shape = (len(self.weights), *(1 for _ in x.shape[2:]))
        return torch.stack([x.new_full((), weight) for weight in self.weights]).reshape(shape)
