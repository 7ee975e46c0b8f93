"""Regions made of others."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import EditRegion
from beeline.core.ranges import Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.blur import gaussian_blur


@dataclass(frozen=True)
class Complement:
    """What is outside of a region.

    m' = 1 - m

    >>> from beeline.sampling.editing.regions import GivenRegion
    >>> Complement(GivenRegion((1.0, 0.0)))(None, torch.zeros(1, 2), None, None, Rng(0))
    tensor([[0., 1.]])
    """

    region: EditRegion

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        return 1 - self.region(flow, x, cond, new_cond, rng)


@dataclass(frozen=True)
class Union:
    """What is inside of one of several regions.

    m = max_k m_k

    >>> from beeline.sampling.editing.regions import GivenRegion
    >>> two = Union((GivenRegion((1.0, 0.0)), GivenRegion((0.0, 0.5))))
    >>> two(None, torch.zeros(1, 2), None, None, Rng(0))
    tensor([[1.0000, 0.5000]])
    """

    regions: tuple[EditRegion, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))
        require(self.regions, "Union got no regions; give at least one, as Union((GivenRegion(mask), Difference()))")

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        found = [region(flow, x, cond, new_cond, rng.fork("region", k)) for k, region in enumerate(self.regions)]
        return torch.stack([part.to(x).expand(x.shape) for part in found]).amax(0)


@dataclass(frozen=True)
class Softened:
    """A region whose weights fall off towards its border, from 1 to 0 (soft mask).

    m' = m blur(m), so that what is outside of the region stays outside
    Assumes pictures [B,C,H,W].

    >>> from beeline.sampling.editing.regions import GivenRegion
    >>> given = GivenRegion(((0.0, 0.0, 1.0, 1.0, 1.0, 1.0),))
    >>> Softened(given, 0.5)(None, torch.zeros(1, 1, 1, 6), None, None, Rng(0))[0, 0, 0, :3].round(decimals=1)
    tensor([0.0000, 0.0000, 0.9000])
    """

    region: EditRegion
    deviation: Positive = 1.0  # of the blur, in pixels

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        require(
            x.ndim == 4,
            f"Softened got data of shape {tuple(x.shape[1:])}; it blurs over rows and columns: use it on pictures, or "
            "give weights between 0 and 1",
        )
        m = self.region(flow, x, cond, new_cond, rng).to(x).expand(x.shape)
        return m * gaussian_blur(m, self.deviation).clamp(0, 1)
