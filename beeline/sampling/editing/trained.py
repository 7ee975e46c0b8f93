"""Edits by networks that were trained to edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.protocols.editing import OwnChange
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class TrainedEditor(OwnChange):
    """The edit of an editor that was trained on pairs, named by the number of its operation.

    y = sampler(z, {new_cond, source: x, reference, operation})
    The operation is carried out also with equal conditions.  What is kept is what the editor has learned to keep.
    Assumes a network trained with the objective Instructed.
    Source: Brooks et al. 2023, "InstructPix2Pix" (arXiv 2211.09800).

    >>> TrainedEditor(1).operation
    1
    """

    operation: Whole  # its index in Instructed(operations)
    reference: Any = None  # a datum [*S] or one for each [B,*S] that shows what is meant; None is blank

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        nulls = traits_of(flow.field).nulls or {}
        require(
            "operation" in nulls,
            f"TrainedEditor got {type(flow.field).__name__}, which was not trained to edit; train one with the recipe "
            "'editor', or use FlowEdit()",
        )
        count = int(nulls["operation"] or 0)
        require(
            self.operation < count,
            f"TrainedEditor got the operation {self.operation}, and the network has {count}, counted from 0; give one "
            "of them",
        )
        given: dict[str, Any] = {} if new_cond is None else {"cond": new_cond}
        if isinstance(new_cond, Mapping):
            given = dict(new_cond)
        if self.reference is not None:
            shown = torch.as_tensor(self.reference).to(x)
            given["reference"] = shown.expand(x.shape)
        number = torch.full((len(x),), self.operation, device=x.device)
        return sampler(flow, noise(rng, x), {**given, "source": x, "operation": number})


@dataclass(frozen=True)
class ResampledViews(OwnChange):
    """Samples some views anew given the others, by a flow of several views.

    y_f = x_f for the given views f;  y_f ~ p(. | the given views, new_cond) for the others
    Assumes data [B,V,...] and a field that takes a time for every view, trained with ``Frames(clean > 0)``.
    Source: Le et al. 2024, "One Diffusion to Generate Them All" (arXiv 2411.16318).

    >>> ResampledViews((0,)).given
    (0,)
    """

    given: tuple[int, ...]  # indices of the views that are kept, from 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", tuple(self.given))

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        guidance = GivenFrames(self.given, sampler.guidance)
        require(
            x.ndim > 2 and max(self.given, default=0) < x.shape[1],
            f"ResampledViews got data of shape {tuple(x.shape[1:])} and the given views {self.given}; views are the "
            "second axis of data [B,V,C,...]",
        )
        start = noise(rng, x)
        start[:, list(self.given)] = x[:, list(self.given)]
        return replace(sampler, guidance=guidance)(flow, start, new_cond)
