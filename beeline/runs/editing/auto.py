"""The edit that makes the best trade between what is changed and what is kept, found by trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.declared import is_map
from beeline.core.errors import BeelineError, require
from beeline.core.modes import deferred, eval_mode
from beeline.core.protocols.editing import Edit
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.runs.editing.edit import Edited, Settings, edit_given
from beeline.runs.editing.inputs import Given, chosen
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.keeping import changes_alone
from beeline.sampling.editing.resampled import SDEdit
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import affine_path
from beeline.sampling.steering.modalities import for_modality

if TYPE_CHECKING:  # a bundle imports the modules of edits
    from beeline.runs.bundle import Bundle

TRIED = 16  # data on which the methods are tried
DRAWS = 16  # of noise for the agreement of a datum
ENOUGH = 0.9  # of the largest success, from which on less change is better
STARTS = (0.1, 0.3, 0.5, 0.7)

Agreement = Callable[[Tensor, Cond, Cond], Tensor]
"""(edited data [N,*S], old condition, new condition) -> whether each datum fits the new one, in [0, 1], [N]."""


@dataclass(frozen=True)
class Trial:
    """One method that was tried."""

    method: str
    success: float = math.nan  # share of the data that fit the new condition
    change: float = math.nan  # mean distance of whole data, in the units of ``Edited``
    evaluations: float = math.nan
    refused: str = ""  # why it could not be used

    @property
    def row(self) -> dict[str, Any]:
        """The trial as plain data."""
        if self.refused:
            return {"method": self.method, "refused": self.refused}
        return {
            "method": self.method,
            "success": round(self.success, 4),
            "change": round(self.change, 5),
            "evaluations": round(self.evaluations, 1),
        }


def candidates() -> dict[str, Edit]:
    """The edits of the catalogue as they are by default, and those with a start at several of them."""
    found: dict[str, Edit] = {}
    for name in CATALOGUE["edits"]:
        kind = config.lookup("edits", name)
        try:
            made = kind()
        except (TypeError, ValueError):  # it needs settings
            continue
        if not changes_alone(made):
            found[name] = made
    for name in (FlowEdit.__name__, SDEdit.__name__):
        del found[name]
        found.update({f"{name}(start={s})": config.parse(f"{name}(start={s})", "edits") for s in STARTS})
    return found


def try_edits(
    bundle: Bundle,
    x: Tensor,
    old: Any,
    new: Any,
    how: Settings,
    methods: dict[str, Edit] | None = None,
    agreement: Agreement | None = None,
) -> tuple[str, Edit, list[Trial]]:
    """The name and the method of the best trade on the first data of ``x`` [N,*S], and all that were tried.

    Of the methods with at least 0.9 of the largest success, the one with the smallest change; where ``how.preserve`` is
    given, of those within it.  Raises BeelineError where no method fits the network, or none stays within the bound.
    """
    few, own = Given(x[:TRIED]), chosen(old, slice(0, TRIED))
    measure = agreement or by_velocity(bundle, how.seed)
    methods = candidates() if methods is None else methods
    trials = [_tried(bundle, name, method, few, own, new, how, measure) for name, method in methods.items()]
    made = [t for t in trials if not t.refused]
    require(
        made,
        f"no method could edit these data, the first because {trials[0].refused if trials else 'there is none'}; use a "
        "flow of velocities with conditions",
    )
    best = best_of(made)
    return best.method, methods[best.method], trials


def best_of(trials: Sequence[Trial]) -> Trial:
    """Of the trials with at least 0.9 of the largest success, the one with the smallest change."""
    most = max(t.success for t in trials)
    return min((t for t in trials if t.success >= ENOUGH * most), key=lambda t: t.change)


def _tried(
    bundle: Bundle, name: str, method: Edit, given: Given, old: Any, new: Any, how: Settings, agreement: Agreement
) -> Trial:
    try:
        made: Edited = edit_given(bundle, method, given, old, new, replace(how, watch=None))
        cond, new_cond = (bundle.condition(value, len(given.x)) for value in (old, new))
        success = float(agreement(made.outcome.x, cond, new_cond).double().mean())
    except BeelineError as error:
        return Trial(name, refused=" ".join(str(error).split()))
    change = float((made.outcome.x - given.x).abs().mean()) / made.span
    if not math.isfinite(change):
        return Trial(name, refused="its data are not finite")
    return Trial(name, success, change, made.outcome.evaluations)


def by_velocity(bundle: Bundle, seed: int) -> Agreement:
    """Whether the flow itself explains data better by the new condition than by the old one.

    E |v(x_t, t, new_cond) - u|^2 < E |v(x_t, t, cond) - u|^2,  x_t and u of the path from noise to the data
    The differences of these errors are those of bounds of the likelihood, so that it is a classifier for two classes.
    Source: Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier" (arXiv 2303.16203).
    """
    flow = bundle.flow
    require(
        not is_map(flow.field),
        "the methods are compared by velocities, and this flow makes jumps; edit with its teacher, or name a method",
    )
    path, how = affine_path(flow, "edit auto"), for_modality(Sampler(1), bundle.modality)

    def agreement(x: Tensor, cond: Cond, new_cond: Cond) -> Tensor:
        where = bundle.device
        x = x.to(where)
        total = torch.zeros(len(x), device=where)
        old, new = (on(tree, where) for tree in (cond, new_cond))
        with torch.no_grad(), eval_mode(flow), deferred():
            for k in range(DRAWS):
                z = Rng(seed).fork("agreement", k).rows(range(len(x)), x)
                t = torch.full((len(x),), 0.2 + 0.6 * (k + 0.5) / DRAWS, device=where)
                point = path.point(z, x, t)
                times = torch.tensor([float(t[0]), 1.0])
                errors = [
                    (how.drift(flow, point.x, tree, times)(point.x, t) - point.v).square().flatten(1).mean(1)
                    for tree in (old, new)
                ]
                total += errors[0].float() - errors[1].float()
        return (total > 0).float().cpu()

    return agreement


def on(cond: Cond, where: torch.device) -> Cond:
    """A condition on a device."""
    return map_cond(lambda leaf: leaf.to(where), cond)
