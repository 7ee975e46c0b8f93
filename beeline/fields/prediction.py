"""Score prediction, and velocities with exact boundary values."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from beeline.core.declared import Wrapping, is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import Prediction, gaussian_independent
from beeline.core.ranges import Edge, dataclass
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Velocity, bind
from beeline.paths.affine import AffinePath, Linear


@dataclass(frozen=True)
class Score:
    """Score prediction, scaled by the noise level so that the output is of order one at every time.

    output = b grad log p_t(x) = -E[x0 | x_t],  with t at least clip
    Assumes a standard Gaussian source and an independent coupling; otherwise it is minus the expected source point.
    Source: Song et al. 2021 (arXiv 2011.13456); Lipman et al. 2023 (arXiv 2210.02747).

    >>> Score().velocity(-torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), Linear())
    tensor([[0.]])
    """

    clip: Edge = 1e-3  # least distance of the time from t = 0, and from t = 1 if b'(1) is infinite

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.velocity(x, path.finite_slope_time(t.clamp(min=self.clip), self.clip), x0=-output)

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return -path.noise(x, v, path.finite_slope_time(t.clamp(min=self.clip), self.clip))


@dataclass(frozen=True)
class Boundary:
    """A velocity with exact boundary values by masking: v(x, 1) = x and v(x, 0) = mean - x for any output.

    v = w m + t x + (1-t)(mean - x),  w = 4 t (1-t);   at the data end only:  v = (1-t) m + t x
    Assumes the straight path, a zero-mean source and an independent coupling; other couplings raise ValueError.  Errors
    are measured between velocities.
    Source: Hu et al. 2025, "Improving Rectified Flow with Boundary Conditions" (arXiv 2506.15864).

    >>> Boundary().velocity(torch.full((1, 1), 9.0), torch.ones(1, 1), torch.ones(1), Linear())
    tensor([[1.]])
    """

    source: bool = False  # exact at the source end as well
    mean: float = 0.0  # E[x1] of every coordinate, used at the source end; 0 for standardised data
    error_space: ClassVar[Prediction] = Velocity()  # the output itself has errors divided by the mask, which diverge

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        self._straight(path)
        t = expand_time(t, x)
        if self.source:
            return 4 * t * (1 - t) * output + t * x + (1 - t) * (self.mean - x)
        return (1 - t) * output + t * x

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        self._straight(path)
        t = expand_time(t, x)
        if self.source:
            return (v - t * x - (1 - t) * (self.mean - x)) / (4 * t * (1 - t)).clamp(min=1e-3)
        return (v - t * x) / (1 - t).clamp(min=1e-3)

    def _straight(self, path: AffinePath) -> None:
        require(
            isinstance(path, Linear),
            f"Boundary got the path {type(path).__name__}; its boundary values hold on the straight path: use "
            "Linear(), or the prediction Velocity()",
        )


class Ends(Wrapping):
    """A velocity with exact boundary values by subtracting the network's output there.

    v = m(x, t) - m(x, 1) + x;   both ends:  v = m(x, t) - t m(x, 1) - (1-t) m(x, 0) + t x + (1-t)(mean - x)
    Assumes the straight path and an independent coupling with a Gaussian source.  An evaluation takes two network
    passes, or three for both ends.
    Source: Hu et al. 2025 (arXiv 2506.15864), subtraction form.

    >>> from beeline.couplings.basic import Independent
    >>> Ends(lambda x, t: 5 + 0 * x, Independent())(torch.ones(1, 1), torch.ones(1))
    tensor([[1.]])
    """

    def __init__(self, field: Any, coupling: Any, source: bool = False, mean: float = 0.0):
        super().__init__()
        require(
            gaussian_independent(coupling),
            f"Ends got the coupling {type(coupling).__name__}; the velocity at the ends is known only for an "
            "independent coupling with a Gaussian source: use Independent(), or a field without Ends",
        )
        require(
            not is_map(field),
            f"Ends got the flow map {type(field).__name__}; boundary values are known for velocities, not for average "
            "velocities: pass a velocity field",
        )
        self.field, self.coupling, self.source, self.mean = field, coupling, source, mean

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "coupling": self.coupling, "source": self.source, "mean": self.mean}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        f = bind(self.field, cond)
        wide = expand_time(t, x)
        if self.source:
            first, last = f(x, torch.zeros_like(t)), f(x, torch.ones_like(t))
            there = wide * x + (1 - wide) * (self.mean - x)
            return f(x, t) - wide * last - (1 - wide) * first + there
        return f(x, t) - f(x, torch.ones_like(t)) + x
