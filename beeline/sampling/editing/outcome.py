"""Runs an edit and measures it: what changed, what was kept, and how many evaluations it took."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import as_map, is_map
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.editing import Edit, EditRegion
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves
from beeline.fields.flow import Flow
from beeline.sampling.editing.keeping import kept, resolved
from beeline.sampling.sampler import Sampler, check_rows


@dataclass(frozen=True)
class Outcome:
    """Edited data, and what the edit did; distances are mean absolute differences in the units of encoded data."""

    x: Tensor  # [B,*S]
    region: Tensor | None  # [B,*S] weights where the data might change; None: everywhere
    change: Tensor  # [B] distance inside the region
    kept: Tensor  # [B] distance outside the region; the whole distance without a region
    evaluations: float  # of the network for a datum


def edited(
    edit: Edit,
    flow: Flow,
    x: Tensor,
    cond: Cond,
    new_cond: Cond,
    sampler: Sampler,
    rng: Rng,
    *,
    region: EditRegion | None = None,
    preserve: float | None = None,
    span: float = 1.0,
) -> Outcome:
    """Edit data ``x`` [B,*S], inside a region if one is given.

    ``preserve`` bounds the distance of every datum outside the region (without one, of the whole datum), in units of
    ``span``.  Raises BeelineError for conditions without one row for every datum, and where the bound is exceeded, with
    the distances.
    """
    require(
        preserve is None or preserve > 0,
        f"preserve={preserve} was given; it bounds the mean distance of what is kept: give a number above 0, as 0.02",
    )
    for tree in (cond, new_cond):
        check_rows(tree, x)
    with counted(flow) as (observed, count):
        where = None if region is None else resolved(region, observed, x, cond, new_cond, rng.fork("region"))
        run = (observed, x, cond, new_cond, sampler, rng)
        made = edit(*run) if where is None else kept(edit, where, *run)
    require(
        isinstance(made, Tensor) and made.shape == x.shape,
        f"the edit {type(edit).__name__} returned {tuple(made.shape) if isinstance(made, Tensor) else type(made)} for "
        f"data of shape {tuple(x.shape)}; an edit returns the edited data in the same shape",
    )
    outcome = Outcome(made, where, *distances(x, made, where), evaluations=count.rows / len(x))
    if preserve is not None:
        _preserved(outcome, preserve, span)
    return outcome


def distances(x: Tensor, made: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean absolute differences [B] inside and outside a region; without one, both are those of whole data."""
    gap = (made - x).abs().flatten(1)
    if region is None:
        return gap.mean(1), gap.mean(1)
    m = region.flatten(1).to(gap)
    inside, outside = (m * gap).sum(1), ((1 - m) * gap).sum(1)
    return inside / m.sum(1), outside / (1 - m).sum(1).clamp(min=1e-12)


def same_condition(cond: Cond, new_cond: Cond) -> bool:
    """Whether two conditions have the same leaves with the same values."""
    a, b = dict(leaves(cond)), dict(leaves(new_cond))
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and bool((a[k] == b[k]).all()) for k in a)


class Count:
    """Rows of data for which the network was evaluated."""

    def __init__(self) -> None:
        self.rows = 0


@contextlib.contextmanager
def counted(flow: Flow) -> Iterator[tuple[Flow, Count]]:
    """Context manager: the flow, and a count of the rows for which its field is evaluated inside the context."""
    count = Count()

    def add(x: Tensor) -> None:
        count.rows += len(x)

    if isinstance(flow.field, nn.Module):  # a hook also counts the calls of copies with other blocks
        handle = flow.field.register_forward_pre_hook(lambda _, inputs: add(inputs[0]))
        try:
            yield flow, count
        finally:
            handle.remove()
        return

    def field(x: Tensor, *rest: Any, **more: Any) -> Tensor:
        add(x)
        return flow.field(x, *rest, **more)  # type: ignore[no-any-return]

    yield replace(flow, field=as_map(field) if is_map(flow.field) else field), count


def _preserved(outcome: Outcome, bound: float, span: float) -> None:
    distance = outcome.kept / span
    over = (distance > bound).nonzero()[:, 0].tolist()
    if over:
        worst = float(distance.max())
        where = "in the whole" if outcome.region is None else "outside the region"
        raise BeelineError(
            f"{len(over)} of {len(distance)} data changed by more than the bound {bound:g} {where}, the most by "
            f"{worst:.4g} (numbers {over[:5]}); keep more by a later start (--set method.start=0.6), give a mask, or a "
            "larger bound"
        )


def joined(parts: list[Outcome]) -> Outcome:
    """The outcomes of several batches as one."""
    total = sum(len(part.x) for part in parts)
    regions = [part.region for part in parts if part.region is not None]
    return Outcome(
        torch.cat([part.x for part in parts]),
        torch.cat(regions) if regions else None,
        torch.cat([part.change for part in parts]),
        torch.cat([part.kept for part in parts]),
        sum(part.evaluations * len(part.x) for part in parts) / total,
    )
