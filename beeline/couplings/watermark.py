"""A watermark in the noise that a flow starts from."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng

SMALLEST = 4  # rows and columns
LARGE = 1e4  # of a noncentral chi-square, which is nearly normal beyond


@dataclass(frozen=True)
class TreeRing:
    """Rings of given Fourier coefficients in one channel of the noise, which inverting the flow finds again.

    F(x0)[k] = sqrt(HW) c_r for frequencies k with the rounded distance r = 1 .. radius from zero;  c_r ~ N(0, 1) by the
    key, so that power and distribution of a coefficient over keys are those of noise.  c_r is real: x0 stays real.

    ``p_value`` is the probability that noise without the mark comes as near to the key: the sum over the coefficients
    of (F - sqrt(HW) c)^2 over the variance of a coefficient, that of those outside of the rings, has a noncentral
    chi-square distribution.
    Assumes pictures [B,C,H,W].  A mark changes the distribution of samples, the more the larger the radius.
    Source: Wen et al. 2023, "Tree-Ring Watermarks" (arXiv 2305.20030).

    >>> marked = TreeRing(7)(torch.zeros(1, 1, 8, 8))
    >>> bool(TreeRing(7).p_value(marked) < 1e-3)
    True
    """

    key: int  # secret
    radius: int | None = None  # of the largest ring; default a sixth of the shorter side, at least 2
    channel: int = 0

    @staticmethod
    def of_secret(secret: bytes, radius: int | None = None, channel: int = 0) -> TreeRing:
        """The watermark of a secret of any length."""
        return TreeRing(int.from_bytes(hashlib.sha256(secret).digest()[:7], "big"), radius, channel)

    def __call__(self, x0: Tensor) -> Tensor:
        """Noise [B,C,H,W] with the mark; the same tensor type, other channels as they are."""
        self.check(tuple(x0.shape[1:]))
        inside, wanted = self._rings(x0.shape[-2:])
        spectrum = torch.fft.fft2(x0[:, self.channel].double())
        inside, wanted = inside.to(x0.device), wanted.to(x0.device)
        marked = torch.fft.ifft2(torch.where(inside, wanted.to(spectrum.dtype), spectrum)).real
        made = x0.clone()
        made[:, self.channel] = marked.to(x0.dtype)
        return made

    def distance(self, x0: Tensor) -> Tensor:
        """Mean distance [B] of the coefficients from those of the key, over the standard deviation of noise."""
        inside, wanted, spectrum, scale = self._compared(x0)
        return (spectrum - wanted)[:, inside].abs().mean(1) / scale

    def p_value(self, x0: Tensor) -> Tensor:
        """The probability [B] that noise without the mark is as near to the key, float64 on the CPU."""
        from scipy.stats import ncx2  # slow to import

        inside, wanted, spectrum, scale = self._compared(x0)
        near = (spectrum - wanted)[:, inside].abs().square().sum(1) / scale.square()
        far = float(wanted[inside].square().sum()) / scale.square()
        # every coefficient and its conjugate are two real numbers with half of the variance each
        freedom = int(inside.sum())
        spread = (2 * (freedom + 2 * far)).sqrt()
        normal = torch.special.ndtr((near - freedom - far) / spread)  # for large values, whose series is long
        small = (far < LARGE) & (near < LARGE)
        normal[small] = torch.as_tensor(ncx2.cdf(near[small].numpy(), freedom, far[small].numpy()))
        return normal

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse data of a shape [C,H,W] that is too small for the rings."""
        require(
            len(shape) == 3 and min(shape[1:]) >= SMALLEST,
            f"data of the shape {shape} were given for a watermark; it needs pictures [C,H,W] of at least "
            f"{SMALLEST} x {SMALLEST}",
        )
        require(
            0 <= self.channel < shape[0] and 0 < self._radius(shape[1:]) < min(shape[1:]) / 2,
            f"TreeRing got radius={self.radius} and channel={self.channel} for data of the shape {shape}; set a radius "
            f"from 1 to {(min(shape[1:]) - 1) // 2} and a channel from 0 to {shape[0] - 1}",
        )

    def _radius(self, size: tuple[int, ...]) -> int:
        return max(2, round(min(size) / 6)) if self.radius is None else self.radius

    def _rings(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The coefficients [H,W] that belong to the mark, and their values."""
        rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in size)
        ring = (rows[:, None].square() + columns.square()).sqrt().round().long()
        inside = (ring >= 1) & (ring <= self._radius(size))
        values = Rng(self.key).fork("rings").normal(torch.empty(int(ring.max()) + 1, dtype=torch.float64))
        return inside, values[ring] * math.sqrt(math.prod(size))

    def _compared(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mark, its values, the coefficients [B,H,W], and their standard deviation [B] outside of the mark."""
        self.check(tuple(x0.shape[1:]))
        inside, wanted = self._rings(x0.shape[-2:])
        spectrum = torch.fft.fft2(x0[:, self.channel].detach().cpu().double())
        outside = ~inside
        outside[0, 0] = False
        return inside, wanted, spectrum, spectrum[:, outside].abs().square().mean(1).sqrt()
