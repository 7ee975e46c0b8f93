"""A fitted solver whose weights depend on the trajectory so far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.wrappers import SolverBase

Rows = tuple[tuple[float, ...], ...]
FURTHEST = 5.0  # standard deviations to which invariants are clamped, so that unusual samples have bounded changes


@dataclass(frozen=True)
class StateWeights(SolverBase):
    """A fitted solver with a change of its weights by a small network of invariants of the trajectory so far.

    x_i+1 = (keep_i + c_i0) x_0 + sum over j <= i of (rows_ij + c_i,j+1) v_j
    c_i = outer_i tanh(inner_i [z_i, 1]),  z_i the standardised invariants of x_0, v_0, ..., v_i
    The invariants do not change under rotations, and each sample has its own, so a sample does not depend on its batch.
    Assumes the flow, the guidance and the times for which it was fitted, from source to data only.
    The weights of the base: Shaul et al. 2024, "Bespoke Non-Stationary Solvers" (arXiv 2403.01329).

    >>> euler = Fitted((0.0, 1.0), ((1.0,),))
    >>> one = StateWeights(euler, ((0.0,) * 3,), ((1.0,) * 3,), (((0.0,) * 4,),), (((0.0,), (0.0,)),))
    >>> one.step(lambda x, t: x, torch.ones(1, 2), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[2., 2.]])
    """

    base: Fitted
    center: Rows  # mean of the invariants, one row for each step
    scale: Rows  # their standard deviations
    inner: tuple[Rows, ...]  # [hidden, invariants + 1] for each step; the last column is the bias
    outer: tuple[Rows, ...]  # [i + 2, hidden] for step i
    order = 1

    def __post_init__(self) -> None:
        for name in ("center", "scale"):
            object.__setattr__(self, name, tuple(tuple(map(float, row)) for row in getattr(self, name)))
        for name in ("inner", "outer"):
            value = tuple(tuple(tuple(map(float, row)) for row in matrix) for matrix in getattr(self, name))
            object.__setattr__(self, name, value)
        require(
            not self.base.asked, "StateWeights got a base with times of its own for the field; fit one without them"
        )
        steps = len(self.base.rows)
        wanted = [(count_invariants(i + 1), i + 2) for i in range(steps)]
        found = [
            (len(center), len(outer))
            for center, scale, inner, outer in zip(self.center, self.scale, self.inner, self.outer, strict=False)
            if len(center) == len(scale)
            and {len(row) for row in inner} == {len(center) + 1}
            and {len(row) for row in outer} == {len(inner)}
        ]
        require(
            found == wanted and len(self.center) == len(self.scale) == len(self.inner) == len(self.outer) == steps,
            f"StateWeights got networks of (invariants, weights) {found} for a solver of {steps} steps; it needs "
            f"{wanted}: fit them with fits.StateDependent",
        )

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, seen, networks = memory or (x, (), self._networks(x))
        i = len(seen)
        self.base.check(i, t, s)
        seen = (*seen, f(x, t))
        weights, *network = networks[i]
        return combine(start, seen, weights + changes(invariants(start, seen), *network)), (start, seen, networks)

    def _networks(self, like: Tensor) -> list[list[Tensor]]:
        """The weights and the network of every step on the device of the state, moved together."""
        keep = self.base.keep or (1.0,) * len(self.base.rows)
        weights = [(first, *row) for first, row in zip(keep, self.base.rows, strict=True)]
        steps = zip(weights, self.center, self.scale, self.inner, self.outer, strict=True)
        parts = [torch.tensor(value, dtype=torch.float64) for step in steps for value in step]
        wide = torch.promote_types(like.dtype, torch.float32)
        flat = torch.cat([part.flatten() for part in parts]).to(like.device, wide)
        pieces = flat.split([part.numel() for part in parts])
        moved = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        return [moved[k : k + 5] for k in range(0, len(moved), 5)]


def count_invariants(velocities: int) -> int:
    """The number of invariants of a start and some velocities.

    >>> count_invariants(1)
    3
    """
    return (velocities + 1) * (velocities + 2) // 2


def invariants(start: Tensor, seen: Sequence[Tensor]) -> Tensor:
    """Logarithmic norms of x_0, v_0, v_1 - v_0, ..., and the cosines of their angles, [B,K] in float32 or wider."""
    changed = [later - earlier for earlier, later in itertools.pairwise(seen)]
    wide = torch.promote_types(start.dtype, torch.float32)
    vectors = torch.stack([part.flatten(1).to(wide) for part in (start, seen[0], *changed)], 1)
    products = vectors @ vectors.mT / vectors.shape[2]
    norms = products.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
    cosines = products / (norms[:, :, None] * norms[:, None, :])
    low = torch.tril_indices(len(seen) + 1, len(seen) + 1, -1, device=start.device)
    return torch.cat([norms.log(), cosines[:, low[0], low[1]]], 1)


def changes(found: Tensor, center: Tensor, scale: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """The changes [B,i+2] of the weights of the start and of all velocities, for invariants [B,K]."""
    z = ((found - center) / scale).clamp(-FURTHEST, FURTHEST)
    return torch.tanh(z @ inner[:, :-1].mT + inner[:, -1]) @ outer.mT


def combine(start: Tensor, seen: Sequence[Tensor], weights: Tensor) -> Tensor:
    """weights_0 x_0 + sum of weights_j+1 v_j, with the weights [B,i+2] of each sample."""
    weights = weights.to(start.dtype)
    total = expand_time(weights[:, 0], start) * start
    for j, velocity in enumerate(seen):
        total = torch.addcmul(total, expand_time(weights[:, j + 1], start), velocity)
    return total
