"""How well edited pictures keep what is outside of a region, and the structure of the whole.

All functions return one number for every datum [B].  Pixels inside of the region do not enter what is measured outside.
Where nothing is outside the value is NaN: it is not defined, and means leave it out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require

CHUNK, SIDE = 64, 16  # pictures that are compared at once, and places a side
CAP = 100.0  # dB of a picture that is kept exactly, whose ratio is infinite


def outside(x: Tensor, region: Tensor | None) -> Tensor:
    """The weights [B,1,H,W] of the pixels outside of a region; of all pixels without one."""
    require(
        x.ndim == 4,
        f"pictures [B,C,H,W] are compared, and the data have shape {tuple(x.shape)}; for others use the distances of "
        "the outcome",
    )
    if region is None:
        return torch.ones_like(x[:, :1])
    return 1 - region.to(x).expand(x.shape).amax(1, keepdim=True)


def mean_square(x: Tensor, made: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean squared difference outside of a region [B]."""
    weight = outside(x, region)
    return _mean((made - x).square().mean(1, keepdim=True), weight)


def psnr(x: Tensor, made: Tensor, region: Tensor | None = None, *, span: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio outside of a region [B] in dB, at most ``CAP``; ``span`` is the range of pixels.

    10 log10(span^2 / mean squared difference)

    >>> float(psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.2)))
    20.0
    """
    return (10 * (span**2 / mean_square(x, made, region).clamp(min=1e-30)).log10()).clamp(max=CAP)


def ssim(x: Tensor, made: Tensor, region: Tensor | None = None, *, span: float = 2.0, deviation: float = 1.5) -> Tensor:
    """Structural similarity outside of a region [B], in [-1, 1].

    mean over pixels outside of (2 m n + a) (2 c + b) / ((m^2 + n^2 + a) (v + w + b)),  means, variances and covariance
    in Gaussian windows of 11 pixels over the pixels outside,  a = (0.01 span)^2, b = (0.03 span)^2
    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".

    >>> float(ssim(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)))
    1.0
    """
    weight = outside(x, region)
    at = torch.arange(-5, 6, device=x.device, dtype=x.dtype)
    line = torch.softmax(-at.square() / (2 * deviation**2), 0)
    channels = x.shape[1]

    def windows(values: Tensor) -> Tensor:
        kernel = (line[:, None] * line).expand(values.shape[1], 1, 11, 11)
        return F.conv2d(values * weight, kernel, padding=5, groups=values.shape[1])

    total = windows(torch.ones_like(weight)).clamp(min=1e-12)
    m, n = windows(x) / total, windows(made) / total
    v, w, c = (
        windows(p * q) / total - r for p, q, r in ((x, x, m.square()), (made, made, n.square()), (x, made, m * n))
    )
    a, b = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = (2 * m * n + a) * (2 * c + b) / ((m.square() + n.square() + a) * (v.clamp(min=0) + w.clamp(min=0) + b))
    return _mean(values.mean(1, keepdim=True) if channels > 1 else values, weight)


def structure(x: Tensor, made: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Distance of structures [B]: the mean squared difference of the similarities of all pairs of places.

    mean_ij (S_ij(x) - S_ij(made))^2,  S_ij = cosine of the features of the places i and j
    ``features`` gives those of every place [B,N,D], such as the tokens of a vision model; by default they are the
    3 x 3 pixels around 16 x 16 places at most, less their mean over the picture.
    Source: Tumanyan et al. 2022 (arXiv 2201.00424), with the tokens of DINO.

    >>> float(structure(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)))
    0.0
    """
    parts = []
    for pair in zip(x.split(CHUNK), made.split(CHUNK), strict=True):
        first, second = (F.normalize((features or patches)(part).float(), dim=2, eps=1e-6) for part in pair)
        parts.append((first @ first.mT - second @ second.mT).square().mean((1, 2)))
    return torch.cat(parts)


def patches(x: Tensor) -> Tensor:
    """The 3 x 3 pixels around every place, less their mean over the picture [B,N,9C].

    Pictures of more than ``SIDE`` pixels a side are reduced to that first: there are as many similarities as pairs.
    """
    x = F.adaptive_avg_pool2d(x, (min(x.shape[2], SIDE), min(x.shape[3], SIDE)))
    found = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).mT
    return found - found.mean(1, keepdim=True)


def mean_defined(values: Tensor) -> float | None:
    """The mean of the values that are defined (not NaN); None where none is."""
    found = values[~values.isnan()]
    return float(found.mean()) if len(found) else None


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of values [B,1,H,W] over pixels; NaN without weight."""
    total = weight.flatten(1).sum(1)
    mean = (values * weight).flatten(1).sum(1) / total.clamp(min=1e-12)
    return torch.where(total > 0, mean, torch.nan)
