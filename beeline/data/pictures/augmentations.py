"""Augmentations of training images."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.ranges import Count, Share, dataclass
from beeline.core.rng import Rng


class AugmentationBase:
    """Defaults of the Augmentation protocol: the size of an image stays."""

    @property
    def margin(self) -> int:
        return 0


@dataclass(frozen=True)
class Flip(AugmentationBase):
    """Horizontal mirror images.

    x -> x[..., ::-1] with a probability, independently for every image
    Assumes that a mirror image is as likely as the image: no text, no left or right.

    >>> Flip(1.0)(torch.tensor([[[[1, 2]]]], dtype=torch.uint8), Rng(0)).tolist()
    [[[[2, 1]]]]
    """

    probability: Share = 0.5

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        mirrored = rng.uniform(len(x), torch.empty(0, device=x.device)) < self.probability
        return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


@dataclass(frozen=True)
class RandomCrop(AugmentationBase):
    """A window at a random position of a larger image.

    x -> x[:, i : i + H, j : j + W],  i, j ~ uniform on 0 .. 2 margin
    Images are stored ``margin`` pixels larger on every side; held-out images are the centre.

    >>> RandomCrop(2)(torch.zeros(1, 3, 12, 12, dtype=torch.uint8), Rng(0)).shape
    torch.Size([1, 3, 8, 8])
    """

    margin: Count = 4  # pixels on every side; an eighth of the side is much

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        n, m = len(x), self.margin
        height, width = x.shape[2] - 2 * m, x.shape[3] - 2 * m
        top, left = (rng.fork(axis).integers(2 * m + 1, n).to(x.device) for axis in ("top", "left"))
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        each = torch.arange(n, device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()
