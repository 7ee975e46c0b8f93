"""Predictions of several conditions or fields, each in its own part of a picture."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Merged(Containing):
    """In every part of a picture the prediction of the condition, or of the field, that belongs to it.

    v = (1 - sum_k m_k) v(x, t, cond) + sum_k m_k v_k(x, t)
    All predictions see the whole state, so that the parts fit each other; outside of the window it is v alone.  A
    personalised field in the region of a face is PersonaHOI, a condition for every box GrounDiT; the latter's patches,
    which are tokens of their own beside those of the picture, are not made.  Masks that overlap have the sum 1.
    Assumes the same path and source for all fields.
    Source: Hu et al. 2025, "PersonaHOI" (arXiv 2501.05823); Lee et al. 2024, "GrounDiT" (arXiv 2410.20474).

    >>> from beeline.sampling.guidance.references.conditions import OtherCondition
    >>> Merged((OtherCondition({"label": 3}),), ((1.0, 0.0),), window=(0.0, 0.5)).calls(0.2)
    2
    """

    references: tuple[Reference, ...]  # other conditions (OtherCondition) or fields (Weak, WeakBundle)
    masks: tuple[Any, ...]  # weights in [0, 1] for each, of the size of a picture: tensors or nested tuples
    window: tuple[float, float] = (0.0, 1.0)  # times with several predictions, both ends included
    together: bool = True  # evaluate predictions of one field in one batch

    def __post_init__(self) -> None:
        check_window("Merged", self.window)
        require(
            0 < len(self.references) == len(self.masks),
            f"Merged got {len(self.references)} references and {len(self.masks)} masks; every reference has its part: "
            "give as many of each",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        predictions = Predictions(field, cond, self.references, self.together)
        low, high = self.window
        everyone = list(range(len(self.references)))

        def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
            times = host_times(t)
            active = bool(((times >= low) & (times <= high)).any())
            base, *others = predictions(x, t, *s, which=everyone if active else [])
            if not active:
                return base
            masks = self._masks(x)
            made = base + sum((m * (v - base) for m, v in zip(masks, others, strict=True)), torch.zeros_like(x))
            return torch.where(expand_time((t >= low) & (t <= high), x), made, base)

        return like_field(field, f)

    def _masks(self, x: Tensor) -> list[Tensor]:
        masks = [torch.as_tensor(m, dtype=x.dtype).to(x.device) for m in self.masks]
        for m in masks:
            fits = m.ndim <= x.ndim and all(a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False))
            require(
                fits,
                f"Merged got a mask of shape {tuple(m.shape)} for data of shape {tuple(x.shape[1:])}; give one of "
                f"{' x '.join(map(str, x.shape[-2:]))}",
            )
        whole = sum(masks, torch.zeros_like(x)).clamp(min=1.0)
        return [m / whole for m in masks]

    def calls(self, t: float) -> int:
        low, high = self.window
        return 1 + (sum(map(reference_calls, self.references)) if low <= t <= high else 0)
