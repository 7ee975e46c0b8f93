"""How exactly an inversion gives its data back."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from beeline.core.protocols.editing import Inversion, State
from beeline.core.protocols.flows import Guidance
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import plain
from beeline.sampling.editing.resampled import resumed
from beeline.sampling.sampler import Sampler


class RoundTrip(NamedTuple):
    """An inversion, and the data that come back from it under the same condition."""

    state: State
    x: Tensor  # [B,*S]
    error: Tensor  # [B] mean absolute difference from the data, in their units


@runtime_checkable
class Guided(Protocol):
    """An inversion with a guidance of its own, which the way back needs as well."""

    @property
    def guidance(self) -> Guidance: ...


def round_trip(
    inversion: Inversion, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float = 0.0
) -> RoundTrip:
    """Invert data ``x`` [B,*S] to time ``end``, and sample back under the same condition.

    Steps, schedule and solver are those of the sampler; both ways have the guidance of the inversion and no
    controllers.  An inversion with noise or control has an error by design.
    """
    state = inversion(flow, x, cond, sampler, rng, end)
    back = plain(sampler)
    if isinstance(inversion, Guided):
        back = replace(back, guidance=inversion.guidance)
    made = resumed(back, flow, state, cond)
    return RoundTrip(state, made, (made - x).abs().flatten(1).mean(1))
