"""A small convolutional autoencoder of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits
from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.types import Cond
from beeline.networks.checks import check_image, check_sizes
from beeline.networks.embed import check_state
from beeline.networks.fp32 import WideGroupNorm, norm_groups, zeroed
from beeline.networks.transformer.layout import asked

NOISE = "noise"  # the condition that holds noise in the shape of the images


class ConvBlock(nn.Module):
    """A residual block of two convolutions, initialised to its short cut."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = (WideGroupNorm(norm_groups(n), n) for n in (width_in, width))
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.short = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = self.short(x) + h
        return out


class Autoencoder(Declaring):
    """A convolutional autoencoder of images, variational or not; a field whose data prediction is x_hat.

    z = encode(x), [B,C,H,W] -> [B, latent, H / f, W / f] with f = 2^(levels - 1);  x_hat = decode(z)
    ``variational``: z = mean(x) + exp(log_std(x)) noise, with the condition "noise" that Reconstruction gives in
    training, and z = mean(x) without it; the forward pass notes
    kl = mean over the numbers of z of KL(N(mean, std^2) | N(0, 1)), in nats, which the objective Noted weighs.
    Assumes sides that are multiples of f.  Time and other conditions are ignored.
    Source: Kingma and Welling 2013 (arXiv 1312.6114); of images for latent flows: Rombach et al. 2022
    (arXiv 2112.10752).

    >>> import torch
    >>> Autoencoder((3, 16, 16), width=8).encode(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(
        self,
        shape: Sequence[int],  # (channels, height, width) of one image
        latent: int = 4,  # channels of a latent; 4 to 16 for pictures
        width: int = 32,  # channels of the finest level
        multipliers: Sequence[int] = (1, 2, 4),  # channels relative to width, one per level; a level halves the sides
        blocks: int = 1,  # blocks per level, in the encoder and in the decoder
        variational: bool = True,  # learn a Gaussian of latents, which the note kl pulls to the standard one
    ):
        super().__init__()
        self.shape = check_image("Autoencoder", shape)
        require(len(multipliers) >= 1, "Autoencoder got no multipliers; set one for each level, as (1, 2, 4)")
        check_sizes("Autoencoder", latent=latent, width=width, blocks=blocks, multiplier=min(multipliers))
        self.settings: dict[str, Any] = {
            "shape": list(self.shape), "latent": latent, "width": width, "multipliers": list(multipliers),
            "blocks": blocks, "variational": variational,
        }  # fmt: skip
        self.factor, self.latent, self.variational = 2 ** (len(multipliers) - 1), latent, variational
        self._check_sides(self.shape[1:])
        widths = [width * m for m in multipliers]
        self.inp = nn.Conv2d(self.shape[0], widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for before, now in zip([widths[0], *widths], widths, strict=False):
            self.down.append(nn.Sequential(*(ConvBlock(before if i == 0 else now, now) for i in range(blocks))))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.code = nn.Conv2d(widths[-1], latent * (2 if variational else 1), 1)
        self.start = nn.Conv2d(latent, widths[-1], 3, padding=1)
        for before, now in zip([widths[-1], *reversed(widths)], reversed(widths), strict=False):
            self.up.append(nn.Sequential(*(ConvBlock(before if i == 0 else now, now) for i in range(blocks))))
        self.norm = WideGroupNorm(norm_groups(widths[0]), widths[0])
        self.out = nn.Conv2d(widths[0], self.shape[0], 3, padding=1)

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"down": self.down, "up": self.up}

    @property
    def traits(self) -> Traits:
        return Traits(any_size=True)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self.settings)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        check_state(self, x, t, (self.shape[0], None, None))
        z, log_std = self.gaussian(x)
        if log_std is not None:
            notes = asked().notes
            if notes is not None:
                m, s = wide(z), wide(log_std)
                notes.append({"code.kl": (0.5 * (m.square() + (2 * s).exp() - 1) - s).mean()})
            if isinstance(cond, Mapping) and NOISE in cond:
                z = z + log_std.exp() * self._noise(cond[NOISE], z)
        return self.decode(z)

    def gaussian(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and logarithm of the deviation of the latents of images [B,C,H,W]; None for it if not variational."""
        self._check_sides(x.shape[2:])
        h = self.inp(x)
        for i, block in enumerate(self.down):
            h = block(h if i == 0 else self.shrink[i - 1](h))
        code = self.code(F.silu(h))
        if not self.variational:
            return code, None
        mean, log_std = code.chunk(2, 1)
        return mean, log_std.clamp(-10.0, 5.0)

    def encode(self, x: Tensor) -> Tensor:
        """Latents [B,latent,H/f,W/f] of images [B,C,H,W]."""
        return self.gaussian(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images [B,C,H,W] of latents [B,latent,H/f,W/f]."""
        h = self.start(z)
        for i, block in enumerate(self.up):
            h = block(h if i == 0 else F.interpolate(h, scale_factor=2.0, mode="nearest"))
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out

    @staticmethod
    def _noise(given: Any, z: Tensor) -> Tensor:
        """Noise in the shape of latents: the first numbers of noise in the shape of the images."""
        flat, wanted = given.flatten(1), z[0].numel()
        require(
            flat.shape[1] >= wanted,
            f"Autoencoder has {wanted} numbers in a latent and {flat.shape[1]} in an image; a latent is smaller: give "
            "fewer channels (latent), or more multipliers",
        )
        return flat[:, :wanted].view_as(z).to(z)

    def _check_sides(self, sides: Sequence[int]) -> None:
        require(
            all(side % self.factor == 0 for side in sides),
            f"Autoencoder got images of {sides[0]}x{sides[1]}, whose sides are no multiples of {self.factor}; resize "
            f"them, as by data.resize={max(self.factor, sides[0] // self.factor * self.factor)}, or give fewer "
            "multipliers",
        )
