"""Branches that treat coarse and fine features apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, Positive, Range, dataclass
from beeline.networks.branches.branch import Added, Branch, Funnel, Place, Site
from beeline.networks.branches.places import Blocks
from beeline.networks.transformer.backbone import FlowTransformer


def low_part(z: Tensor, grid: Sequence[int], cutoff: float) -> Tensor:
    """The part of tokens [B,N,D] of a grid with frequencies up to ``cutoff`` along every axis; a projection."""
    axes = tuple(range(1, 1 + len(grid)))
    u = torch.fft.fftn(wide(z).unflatten(1, tuple(grid)), dim=axes)
    for axis, n in zip(axes, grid, strict=True):
        kept = torch.fft.fftfreq(n, device=z.device).abs() <= cutoff  # symmetric, so that the result is real
        u = u * kept.view(-1, *(1,) * (u.ndim - 1 - axis))
    return torch.fft.ifftn(u, dim=axes).real.flatten(1, len(grid)).to(z.dtype)


class Mixture(Added):
    """Funnels of all, of low and of high frequencies, mixed for every token."""

    def __init__(self, width: int, rank: int, cutoff: float, scale: float):
        super().__init__()
        self.cutoff = cutoff
        self.experts = nn.ModuleList(Funnel(width, rank) for _ in range(3))
        self.router = nn.Linear(width, 3, bias=False)
        self.scale = nn.Parameter(torch.full((1,), scale))

    def shares(self, z: Tensor) -> Tensor:
        """The weights [B,N,3] of the funnels."""
        found: Tensor = self.router(z.to(self.router.weight.dtype)).softmax(-1)
        return found

    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        layout = told[-1]
        z = y[:, : layout.tokens]
        low = low_part(z, layout.grid, self.cutoff)
        made = [expert(part) for expert, part in zip(self.experts, (z, low, z - low), strict=True)]
        change = self.scale * (torch.stack(made, -1) * self.shares(z)[..., None, :]).sum(-1)
        return torch.cat([change, change.new_zeros(len(y), y.shape[1] - z.shape[1], y.shape[2])], 1)


@dataclass(frozen=True)
class Frequency(Branch):
    """Three pairs of small layers behind the last blocks: of all, of coarse and of fine features of the picture.

    z' = z + scale sum_e w_e g_e,  g = (F_0(z), F_1(low), F_2(z - low)),  w = softmax(R z),  F = U relu(D . + d) + u
    low are the frequencies up to ``cutoff`` along every axis of the grid of tokens; U = u = 0 at first.  Tokens of
    conditions stay.
    Source: Hu et al. 2025, "Earth-Adapter" (arXiv 2504.06220).

    >>> Frequency(rank=8).last
    3
    """

    rank: Count = 16
    cutoff: Annotated[float, Range(above=0.0, below=0.5)] = 0.3  # cycles a token; 0.5 is the highest
    last: Count | None = 3  # blocks behind which it stands; none: all
    scale: Positive = 1.0  # at first; it is trained, from 0.1 in the paper

    @property
    def places(self) -> Sequence[Place]:
        return (Blocks(self.last),)

    def build(self, site: Site) -> Mixture:
        net = site.net
        require(
            isinstance(net, FlowTransformer) and net.visit.plain,
            f"Frequency got a {type(net).__name__} whose blocks do not see a whole grid of tokens; it divides the "
            "grid into frequencies: use a network such as DiT with plan=Plain, or the branch Bottleneck",
        )
        return Mixture(site.width, self.rank, self.cutoff, self.scale)
