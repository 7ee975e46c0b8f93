"""Tasks: what was observed of a datum, as an inverse problem."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Operator
from beeline.core.ranges import dataclass
from beeline.data.arrays import as_array
from beeline.data.labels import existing
from beeline.runs.solving.observed import Observed, is_path, read_picture
from beeline.sampling.steering.operators.axes import BlockMean, GaussianBlur
from beeline.sampling.steering.operators.channels import Grey
from beeline.sampling.steering.operators.masks import Mask
from beeline.sampling.steering.operators.operator import Identity

Problem = tuple[Operator, Tensor]
"""The operator, and the measured values [N,*M]."""


class Task(Protocol):
    """What was observed of data of a shape."""

    @property
    def fills(self) -> bool:
        """Whether a part of the numbers was observed, so that those can be kept."""
        ...

    @property
    def noise(self) -> float | None:
        """The usual deviation of the noise of the measurement, in encoded units; None where it has to be given."""
        ...

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        """The problem of encoded data of the shape *S; ValueError where they were not observed in this way."""
        ...


class TaskBase:
    """Base of tasks with little noise."""

    fills: ClassVar[bool] = False
    noise: ClassVar[float | None] = 0.02


class FillingTask(TaskBase):
    """Base of tasks that keep the observed numbers."""

    fills: ClassVar[bool] = True


@dataclass(frozen=True)
class Inpaint(FillingTask):
    """Fills a part of images: transparent pixels, those of a mask, or missing numbers.

    y = m x1,  m = 1 where a pixel is known

    >>> Inpaint("mask.png").mask
    'mask.png'
    """

    mask: Any = None  # a picture or an array [H,W], not zero (white) where pixels are to be filled

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        values, known = of_shape(channels(seen, shape), shape), seen.known
        if self.mask is not None:
            filled = marked(self.mask)
            require(
                filled.shape == shape[-2:],
                f"the mask has shape {tuple(filled.shape)} for data of shape {shape}; it says of every position "
                f"whether it is to be filled: give a mask of {shape[-2]} x {shape[-1]}",
            )
            known = known & (filled == 0)
        return missing_part(values, known, shape, "transparent pixels, or a mask (--mask mask.png)")


@dataclass(frozen=True)
class Impute(FillingTask):
    """Fills missing numbers, empty cells and unknown symbols.

    y = m x1,  m = 1 where a number is known

    >>> Impute()
    Impute()
    """

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        return missing_part(seen.values, seen.known, shape, "empty cells, NaN, or '?' in sequences")


@dataclass(frozen=True)
class Forecast(FillingTask):
    """Continues sequences that are shorter than those of the model, or whose last numbers are missing.

    y = the first entries of the last axis of x1

    >>> Forecast()
    Forecast()
    """

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        longer = padded(seen, shape)
        return missing_part(longer.values, longer.known, shape, "a sequence that is shorter than those of the model")


@dataclass(frozen=True)
class Upscale(TaskBase):
    """Increases the resolution of images and signals.

    y = means of blocks of x1;  the factor follows from the sizes

    >>> Upscale()
    Upscale()
    """

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        values = channels(seen, shape)
        ratios = {a / b for a, b in zip(shape[1:], values.shape[2:], strict=True) if a > 1}
        factor = next(iter(ratios), 0.0)
        require(
            len(shape) > 1 and len(ratios) == 1 and factor > 1 and factor == int(factor),
            f"upscale got data of shape {tuple(values.shape[1:])} for a model of shape {shape}; each position of the "
            "input is the mean of a block: give data that are smaller by one whole factor in every axis",
        )
        known_everywhere(seen)
        return BlockMean(int(factor)), values


@dataclass(frozen=True)
class Deblur(TaskBase):
    """Sharpens images and signals that a known blur made less sharp.

    y = K x1

    >>> from beeline.sampling.steering.operators.axes import MotionBlur
    >>> Deblur(MotionBlur(5)).blur.extent
    5
    """

    blur: Operator = GaussianBlur(1.0)  # GaussianBlur(width), MotionBlur(extent) or another operator

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        return self.blur, same_shape(channels(seen, shape), seen, shape)


@dataclass(frozen=True)
class Denoise(TaskBase):
    """Removes Gaussian noise of the given deviation.

    y = x1 + noise z

    >>> Denoise()
    Denoise()
    """

    noise: ClassVar[float | None] = None

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        return Identity(), same_shape(channels(seen, shape), seen, shape)


@dataclass(frozen=True)
class Colourise(TaskBase):
    """Gives colours to grey images.

    y = the brightness of x1

    >>> Colourise()
    Colourise()
    """

    def problem(self, seen: Observed, shape: tuple[int, ...]) -> Problem:
        require(
            len(shape) == 3 and shape[0] == 3,
            f"colourise got a model of data of shape {shape}; colours are three channels: use a model of colour images",
        )
        grey = seen.values if seen.values.shape[1] == 1 else Grey().apply(seen.values)
        require(
            grey.shape[2:] == shape[1:],
            f"colourise got an image of {grey.shape[2]} x {grey.shape[3]} for a model of {shape[1]} x {shape[2]}; "
            "resize it to that size",
        )
        known_everywhere(seen)
        return Grey(), grey


def channels(seen: Observed, shape: tuple[int, ...]) -> Tensor:
    """The values with the channels of a datum of ``shape``: grey images are repeated."""
    values = seen.values
    require(
        values.ndim == len(shape) + 1 and values.shape[1] in (1, shape[0]),
        f"the data have shape {tuple(values.shape[1:])}, but the model has {shape}; give data of that kind",
    )
    return values.expand(-1, shape[0], *values.shape[2:])


def same_shape(values: Tensor, seen: Observed, shape: tuple[int, ...]) -> Tensor:
    """The values, refused unless they have the shape of a datum and all are known."""
    known_everywhere(seen)
    return of_shape(values, shape)


def of_shape(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values, refused unless they have the shape of a datum."""
    require(
        tuple(values.shape[1:]) == shape,
        f"the data have shape {tuple(values.shape[1:])}, but the model has {shape}; give data of that shape",
    )
    return values


def known_everywhere(seen: Observed) -> None:
    """Refuse data with missing numbers."""
    require(
        bool(seen.known.all()),
        "the data have transparent pixels or missing numbers, which this task does not fill; use 'inpaint' or "
        "'impute', or fill them first",
    )


def padded(seen: Observed, shape: tuple[int, ...]) -> Observed:
    """Observed data with unknown entries after the end of the axis of time, the last one of a signal."""
    values, known = seen.values, seen.known
    require(
        values.ndim == len(shape) + 1 and tuple(values.shape[1:-1]) == shape[:-1] and 0 < values.shape[-1] <= shape[-1],
        f"the data have shape {tuple(values.shape[1:])}, but the model has {shape}; give sequences of at most "
        f"{shape[-1]} entries",
    )
    rest = (0, shape[-1] - values.shape[-1])
    pad = torch.nn.functional.pad
    return Observed(pad(values, rest, value=float("nan")), pad(known, rest, value=False))


def missing_part(values: Tensor, known: Tensor, shape: tuple[int, ...], what: str) -> Problem:
    """The problem of data with a mask; refused where nothing or everything is missing."""
    known = known.expand_as(of_shape(values, shape))
    whole = known.flatten(1).all(1)
    require(
        not bool(whole.all()),
        f"nothing is missing in the {len(values)} data, so that there is nothing to fill; give {what}",
    )
    require(
        bool(known.flatten(1).any(1).all()),
        "everything is missing in some of the data; sample without a measurement: 'beeline sample'",
    )
    return Mask(known), values


def marked(mask: Any) -> Tensor:
    """The marked positions of a mask, a picture (white) or an array (not zero), as booleans [H,W]."""
    if is_path(mask):
        pixels, opaque = read_picture(existing(str(mask)))
        white = pixels[0].max(-1) >= 128
        return torch.from_numpy(white if opaque is None else white & opaque)
    array = as_array(mask)
    return torch.from_numpy(np.asarray(mask if array is None else array) != 0)
