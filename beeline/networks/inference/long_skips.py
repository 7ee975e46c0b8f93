"""Long skips of trained networks, changed in sampling."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping, unwrapped
from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.networks.inference.joins import joins_of
from beeline.networks.transformer.plans.elastic import transformers_in


class ChangedSkips(Wrapping):
    """Base of a field with changed features where its long skips are joined; no weights are changed."""

    def __init__(self, field: nn.Module):
        super().__init__()
        require(
            len(joins_of(field)) > 0,
            f"{type(self).__name__} got a {type(unwrapped(field)).__name__} without long skips, which are what it "
            "changes; use networks.UViT or UNet",
        )
        self.field = field

    @abstractmethod
    def changed(self, place: int, late: Tensor, early: Tensor) -> tuple[Tensor, Tensor]:
        """The features [B,C,*grid] of the late part and of the early one at a join, counted from the first one."""

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, *more: Any) -> Tensor:
        found = transformers_in(self.field)
        grid = found[0].grid_of(x.shape[2:]) if found else ()
        with contextlib.ExitStack() as hooks:
            for place, join in enumerate(joins_of(self.field)):

                def change(
                    _: Any, given: tuple[Any, ...], place: int = place, late: int = join.late
                ) -> tuple[Any, ...]:
                    dim = -1 if grid else 1
                    parts = given[0].split([late, given[0].shape[dim] - late], dim)
                    new = self.changed(place, *(as_grid(p, grid) for p in parts))
                    return (torch.cat([back(a, p, grid) for a, p in zip(new, parts, strict=True)], dim), *given[1:])

                hooks.callback(join.module.register_forward_pre_hook(change).remove)
            v: Tensor = self.field(x, t, cond, *more)
        return v


class FreeU(ChangedSkips):
    """The first joins with a larger backbone part and fewer low frequencies of the skip.

    half of the channels:  h <- h (1 + (b - 1) m),  m = channel mean of h, scaled to [0, 1] in every sample
    skip <- F^-1(s F(skip)) at the frequencies -1 and 0 of every axis, or -1 to 1 with ``symmetric``
    With b = s = 1 it is the network itself.
    Source: Si et al. 2023, "FreeU" (arXiv 2309.11497), whose centre has the frequencies -1 and 0.

    >>> from beeline.networks.unet import UNet
    >>> FreeU(UNet((1, 8, 8), width=8))(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        backbone: Sequence[float] = (1.1, 1.2),  # b of the first joins, from 1
        skip: Sequence[float] = (0.9, 0.8),  # s of the same joins, up to 1
        symmetric: bool = False,
    ):
        super().__init__(field)
        require(
            len(backbone) == len(skip) <= len(joins_of(field)),
            f"FreeU got {len(backbone)} factors of the backbone and {len(skip)} of the skips for a network with "
            f"{len(joins_of(field))} joins; give one of each for the first joins",
        )
        self.backbone, self.skip, self.symmetric = tuple(backbone), tuple(skip), symmetric

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        more = {"backbone": list(self.backbone), "skip": list(self.skip), "symmetric": self.symmetric}
        return {"field": self.field, **more}

    def changed(self, place: int, late: Tensor, early: Tensor) -> tuple[Tensor, Tensor]:
        if place >= len(self.skip):
            return late, early
        mean = wide(late).mean(1, keepdim=True)
        low, high = (m(mean.flatten(1), 1).reshape(-1, *[1] * (mean.ndim - 1)) for m in (torch.amin, torch.amax))
        half = late.shape[1] // 2
        factor = 1 + (self.backbone[place] - 1) * (mean - low) / (high - low).clamp(min=1e-6)
        late = torch.cat([(wide(late[:, :half]) * factor).to(late.dtype), late[:, half:]], 1)
        return late, fewer_low(early, self.skip[place], self.symmetric)


class SkipTuned(ChangedSkips):
    """Long skips times a factor that rises linearly from the first join to the last (skip-tuning).

    skip_l <- rho_l skip_l,  rho_l from ``first`` to ``last``
    With first = last = 1 it is the network itself.
    Source: Ma et al. 2024, "The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling" (arXiv 2402.15170).

    >>> from beeline.networks.unet import UNet
    >>> SkipTuned(UNet((1, 8, 8), width=8), 0.8)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, field: nn.Module, first: float = 0.9, last: float = 1.0):
        super().__init__(field)
        self.first, self.last = first, last

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "first": self.first, "last": self.last}

    def changed(self, place: int, late: Tensor, early: Tensor) -> tuple[Tensor, Tensor]:
        share = place / max(1, len(joins_of(self.field)) - 1)
        return late, early * (self.first + share * (self.last - self.first))


def fewer_low(x: Tensor, factor: float, symmetric: bool) -> Tensor:
    """Features [B,C,*grid] with a factor at the lowest frequencies of all axes; the real part."""
    dims = tuple(range(2, x.ndim))
    low = torch.ones((), dtype=torch.bool, device=x.device)
    for n in x.shape[2:]:
        k = torch.fft.fftfreq(n, 1 / n, device=x.device).round()
        low = low[..., None] & ((k.abs() <= 1) if symmetric else ((k == 0) | (k == -1)))
    scale = torch.where(low, factor, 1.0)
    return torch.fft.ifftn(torch.fft.fftn(wide(x), dim=dims) * scale, dim=dims).real.to(x.dtype)


def as_grid(h: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Tokens [B,N,C] of a datum as [B,C,*grid], without those after them; features on a grid as they are."""
    n = torch.Size(grid).numel()
    return h[:, :n].mT.unflatten(-1, grid) if grid else h


def back(new: Tensor, old: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The inverse of ``as_grid``, with the tokens after those of the datum as before."""
    n = torch.Size(grid).numel()
    return torch.cat([new.flatten(2).mT, old[:, n:]], 1) if grid else new
