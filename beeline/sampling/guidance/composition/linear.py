"""Weighted sums of predictions under several conditions or of several fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Reference, reference_calls
from beeline.core.ranges import check_window, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import like_field
from beeline.sampling.guidance.predictions import Predictions


def summed(
    field: Any,
    cond: Cond,
    references: Sequence[Reference],
    weights: Callable[[Tensor], Sequence[Tensor]],
    together: bool,
) -> Dynamics:
    """The dynamics of a weighted sum of the strong prediction and those of references.

    ``weights(t)`` gives that of the strong one and of every reference, [B] each.  A reference whose weight is 0 for all
    samples is not evaluated.
    """
    predictions = Predictions(field, cond, references, together)

    def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
        active = [k for k, w in enumerate(weights(host_times(t))[1:]) if bool((w != 0).any())]
        strong, *others = predictions(x, t, *s, which=active)
        first, *rest = (expand_time(w, x).to(x) for w in weights(t))
        return first * strong + sum((rest[k] * v for k, v in zip(active, others, strict=True)), torch.zeros_like(x))

    return like_field(field, f)


@dataclass(frozen=True)
class Nested(Containing):
    """Guidance by several conditions that are added one after the other, with a scale for every level.

    v = v_0 + sum_k scale_k (v_k - v_(k-1)),  v_n under the full condition, v_0 .. v_(n-1) those of the references
    Outside its window the scale of a level is 1; with all scales 1 it is the full condition.  A prediction whose weight
    is 0, such as between levels with equal scales, is not evaluated.
    Assumes a network that was trained with the conditions dropped in this order, such as both and the text alone.
    Source: Brooks et al. 2023, "InstructPix2Pix" (arXiv 2211.09800); Jiang et al. 2025, "MegaTTS 3" (arXiv 2502.18924).

    >>> from beeline.sampling.guidance.guide import Unconditional
    >>> from beeline.sampling.guidance.references.conditions import Without
    >>> Nested((Unconditional(), Without(("text",))), (1.5, 7.5)).calls(0.5)
    3
    """

    references: tuple[Reference, ...]  # from the weakest on
    scales: tuple[float, ...]  # one for each; the last is that of the full condition against the last reference
    windows: tuple[tuple[float, float], ...] = ()  # times of every scale; none is the whole run
    together: bool = True  # evaluate predictions of one field in one batch

    def __post_init__(self) -> None:
        n = len(self.references)
        require(
            0 < n == len(self.scales) and len(self.windows) in (0, n) and all(math.isfinite(s) for s in self.scales),
            f"Nested got {n} references, scales={self.scales} and {len(self.windows)} windows; every level has one "
            "reference and one finite scale: give as many of each, and windows for all levels or for none",
        )
        for window in self.windows:
            check_window("Nested", window)

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        return summed(field, cond, self.references, self.weights, self.together)

    def weights(self, t: Tensor) -> list[Tensor]:
        """The weights of the full condition and of every reference, in the shape of ``t``."""
        windows = self.windows or ((0.0, 1.0),) * len(self.scales)
        scales = [
            torch.full_like(t, scale).masked_fill((t < low) | (t > high), 1.0)
            for scale, (low, high) in zip(self.scales, windows, strict=True)
        ]
        before = [torch.ones_like(scales[0]), *scales[:-1]]
        return [scales[-1], *(a - b for a, b in zip(before, scales, strict=True))]

    def calls(self, t: float) -> int:
        weights = self.weights(torch.tensor(t, dtype=torch.float64))[1:]
        return 1 + sum(reference_calls(r) for r, w in zip(self.references, weights, strict=True) if float(w) != 0)


@dataclass(frozen=True)
class Conjunction(Containing):
    """Samples that fit several conditions, or several models, at once; negative weights keep away from one.

    v = v_base + sum_i weight_i (v_i - v_base),  v_0 under the condition of the run, v_1 .. those of the references
    A reference is another condition (OtherCondition) or another field (Weak).  Scores in place of velocities would be
    those of p_base^(1 - sum w) prod_i p_i^(w_i) at every time, for densities of noisy data.  A product of noisy
    densities is not the noisy product, so that the ODE does not sample the product: from centred Gaussians with the
    deviations s_k and total weights c_k it makes the deviation prod_k s_k^(c_k), where the product of the densities
    has 1 / sqrt(sum_k c_k / s_k^2).  Many small steps of the solver ``Langevin`` at every time sample the product.
    Assumes the same source and path for all fields.
    Source: Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models" (arXiv 2206.01714); the
    bias: Du et al. 2023, "Reduce, Reuse, Recycle" (arXiv 2302.11552).

    >>> from beeline.sampling.guidance.references.conditions import OtherCondition
    >>> from beeline.sampling.guidance.guide import Unconditional
    >>> Conjunction((OtherCondition({"label": 3}),), (2.0, 2.0), Unconditional()).calls(0.5)
    3
    """

    references: tuple[Reference, ...]  # the other members
    weights: tuple[float, ...]  # of the condition of the run, and of every reference
    base: Reference | None = None  # such as Unconditional(); None needs weights with sum 1
    together: bool = True  # evaluate predictions of one field in one batch

    def __post_init__(self) -> None:
        require(
            len(self.weights) == len(self.references) + 1 and all(math.isfinite(w) for w in self.weights),
            f"Conjunction got weights={self.weights} for {len(self.references)} references; the condition of the run "
            "and every reference have one finite weight: give one more than references",
        )
        require(
            self.base is not None or math.isclose(sum(self.weights), 1, abs_tol=1e-9),
            f"Conjunction got weights={self.weights} with the sum {sum(self.weights):g} and no base; the velocities "
            "would not add up to one of a flow from noise: give base=Unconditional(), or weights with the sum 1",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        base = () if self.base is None else (self.base,)
        rest = () if self.base is None else (1 - sum(self.weights),)

        def weights(t: Tensor) -> list[Tensor]:
            return [torch.full_like(t, w) for w in (*self.weights, *rest)]

        return summed(field, cond, (*self.references, *base), weights, self.together)

    def calls(self, t: float) -> int:
        base = () if self.base is None else ((self.base, 1 - sum(self.weights)),)
        others = (*zip(self.references, self.weights[1:], strict=True), *base)
        return 1 + sum(reference_calls(reference) for reference, w in others if w != 0)
