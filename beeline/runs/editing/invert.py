"""The noise of data in the user's form by the flow of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.editing import Inversion
from beeline.core.rng import Rng
from beeline.core.types import map_cond
from beeline.runs.editing.edit import BATCH, span
from beeline.runs.editing.inputs import inputs
from beeline.sampling.editing.round_trip import round_trip
from beeline.sampling.sampler import Sampler

if TYPE_CHECKING:  # a bundle imports this module to invert
    from beeline.runs.bundle import Bundle


@dataclass(frozen=True)
class Inverted:
    """The states of a flow from which it leads to given data, or near them."""

    noise: Tensor  # [N,*S] encoded states at the time ``t``
    t: float
    samples: Any  # what comes back from them under the same condition, in the user's own form
    error: Tensor  # [N] mean absolute difference of what comes back, in the range of pixels or standard deviations

    @property
    def summary(self) -> dict[str, Any]:
        """The means over all data, as plain data."""
        return {
            "round_trip": float(self.error.mean()),
            "largest_round_trip": float(self.error.max()),
            "noise_mean": float(self.noise.mean()),
            "noise_std": float(self.noise.std(correction=0)),
        }


def invert(
    bundle: Bundle, inversion: Inversion, given: Any, cond: Any, sampler: Sampler, seed: int, end: float
) -> Inverted:
    """Data ``given`` inverted under a condition; see ``Bundle.invert``."""
    modality = bundle.modality
    require(
        modality is not None,
        "this bundle has no modality, so that it does not know the form of its data; use the inversion on tensors: "
        "round_trip(Backwards(), flow, x, cond, sampler, rng)",
    )
    require(
        not is_map(bundle.flow.field),
        "this bundle is a student, which jumps towards the data and has no inverse; invert with its teacher, or edit "
        "with SDEdit, which needs no inversion",
    )
    require(0 <= end < 1, f"end={end} was given; an inversion ends at a time before the data: give one in [0, 1)")
    x = inputs(modality, bundle, given).x
    tree, where = bundle.condition(cond, len(x)), bundle.device
    parts = []
    for i in range(0, len(x), BATCH):
        rows = slice(i, i + BATCH)
        part = map_cond(lambda leaf, rows=rows: leaf[rows].to(where), tree)
        one = sampler.seeded(range(i, i + len(x[rows])), seed)
        parts.append(round_trip(inversion, bundle.flow, x[rows].to(where), part, one, Rng(seed).fork("edit", i), end))
    back, states = (torch.cat([p.cpu() for p in some]) for some in ([p.x for p in parts], [p.state.x for p in parts]))
    error = torch.cat([p.error.cpu() for p in parts]) / span(modality)
    return Inverted(states, parts[0].state.t, modality.decode(back), error)
