"""Noise of frames that leads what moves along a path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import Positive, dataclass
from beeline.core.rng import Rng

ORDER = 4  # of the filter


@dataclass(frozen=True)
class Trajectory:
    """Noise of frames with one patch in the boxes of all of them, so that what is drawn there moves with the boxes.

    x0 = F^-1[H F(e) + sqrt(1 - H^2) F(n)];  n ~ N(0, I), e ~ N(0, I) with the patch of the first box in all boxes
    H = 1 / (1 + d^8),  d^2 = (f_h^2 + f_w^2) / spatial^2 + f_t^2 / temporal^2 for frequencies |f| <= 1
    The power of white noise is kept exactly, as H^2 + (1 - H^2) = 1.  Boxes between those given are on straight lines;
    without boxes it is Gaussian noise, bit for bit.
    Assumes a flow of videos [B,C,F,H,W].  It is no standard Gaussian, and a flow with it has no score: put it into a
    trained one by ``dataclasses.replace(flow, source=Trajectory(...), independent=False)``.
    Source: Qiu et al. 2024, "FreeTraj" (arXiv 2406.16863), whose weights H and 1 - H lose variance.

    >>> Trajectory(((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1))).sample(torch.empty(1, 1, 3, 8, 8), Rng(0)).shape
    torch.Size([1, 1, 3, 8, 8])
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()  # top, left, bottom, right, in shares of the sides
    spatial: Positive = 0.25  # frequency up to which the patch is kept, as a share of the largest one
    temporal: Positive = 0.1  # the same along the frames

    def __post_init__(self) -> None:
        for box in self.boxes:
            require(
                len(box) == 4 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1,
                f"Trajectory got the box {box}; a box is (top, left, bottom, right) in shares "
                "of the sides, from 0 to 1, top above bottom and left before right",
            )
        sizes = {(round(b - t, 4), round(r - x, 4)) for t, x, b, r in self.boxes}
        require(
            len(sizes) <= 1,
            f"Trajectory got boxes of the sizes {sorted(sizes)}; one patch of noise moves through all of them: give "
            "boxes of one size",
        )

    @property
    def gaussian(self) -> bool:
        """Whether it is the standard Gaussian."""
        return not self.boxes

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        e = rng.normal(like)
        if not self.boxes:
            return e
        require(
            like.ndim == 5,
            f"Trajectory got data of the shape {tuple(like.shape[1:])}; its boxes are those of the frames of a video "
            "[C,F,H,W]: use a flow of videos, or no boxes",
        )
        places = self.places(like.shape[2:])
        rows, columns = places[0]
        patch = e[:, :, 0, rows, columns].clone()
        for frame, (rows, columns) in enumerate(places):
            e[:, :, frame, rows, columns] = patch
        n = rng.fork("details").normal(like)
        h = self.kept(like.shape[2:]).to(like.device)
        wide = torch.promote_types(like.dtype, torch.float32)
        spectrum = h * _spectrum(e.to(wide)) + (1 - h.square()).sqrt() * _spectrum(n.to(wide))
        return torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real.to(like.dtype)

    def places(self, size: Sequence[int]) -> list[tuple[slice, slice]]:
        """The rows and columns of the box of every frame, for F, H, W."""
        frames, *sides = size
        corners = torch.tensor([box[:2] for box in self.boxes], dtype=torch.float64)
        top, left, bottom, right = self.boxes[0]
        box = [round((b - a) * side) for a, b, side in ((top, bottom, sides[0]), (left, right, sides[1]))]
        require(
            min(box) >= 1,
            f"Trajectory got boxes of {bottom - top:g} x {right - left:g} of frames of {sides[0]} x {sides[1]}, which "
            "are smaller than one pixel; give larger ones",
        )
        at = torch.linspace(0, len(corners) - 1, frames, dtype=torch.float64)
        first = at.floor().long().clamp(max=max(0, len(corners) - 2))
        after = (first + 1).clamp(max=len(corners) - 1)
        found = torch.lerp(corners[first], corners[after], (at - first)[:, None])
        starts = [[min(round(x * side), side - n) for x, side, n in zip(row, sides, box, strict=True)]
                  for row in found.tolist()]  # fmt: skip
        return [(slice(r, r + box[0]), slice(c, c + box[1])) for r, c in starts]

    def kept(self, size: Sequence[int]) -> Tensor:
        """The filter H [F,H,W]."""
        f = [2 * torch.fft.fftfreq(n) for n in size]
        d = (f[0] / self.temporal).square()[:, None, None]
        d = d + (f[1] / self.spatial).square()[:, None] + (f[2] / self.spatial).square()
        return 1 / (1 + d**ORDER)

    def log_prob(self, x: Tensor) -> Tensor:
        raise BeelineError(
            "log_prob was called on a Trajectory source, whose frames depend on each other; use the flow with a "
            "Gaussian source for likelihoods"
        )


def _spectrum(x: Tensor) -> Tensor:
    return torch.fft.fftn(x, dim=(-3, -2, -1))
