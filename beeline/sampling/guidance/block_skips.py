"""Sampling with fewer blocks of the network at some times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from torch import Tensor

from beeline.core.declared import in_place_of, is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import bind
from beeline.networks.skipping import without_blocks
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.guidance.skipping import SAME, one_time
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class SkippedBlocks(Containing):
    """A plan of the blocks of the network that are not evaluated, for every time of evaluation.

    h_(k+1) = h_k for a skipped block k, block_k(h_k) otherwise
    Both predictions of guidance skip the same blocks.  ``search_blocks`` finds a plan.
    Assumes residual blocks, and that all samples have one time.
    Source: Li et al. 2023, "AutoDiffusion" (arXiv 2309.10438).

    >>> SkippedBlocks(((0.5, ("block.1", "block.2")),)).skipped(0.5)
    ('block.1', 'block.2')
    """

    plan: tuple[tuple[float, tuple[str, ...]], ...] = ()  # (time of evaluation, names of blocks)
    guidance: Guidance = field(default_factory=Plain)  # of the shorter network

    def __post_init__(self) -> None:
        require(
            all(len(entry) == 2 and 0 <= entry[0] <= 1 for entry in self.plan),
            f"SkippedBlocks got plan={self.plan}; every entry is a time in [0, 1] and the names of the blocks that are "
            "skipped there: give ((0.5, ('block.1',)),)",
        )
        object.__setattr__(self, "plan", tuple((float(t), tuple(names)) for t, names in self.plan))

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        if isinstance(field, FieldReadout) or not any(names for _, names in self.plan):  # also the step to a symbol
            return self.guidance(field, cond)
        require(
            not is_map(field),
            "SkippedBlocks got a flow map; blocks are skipped for velocity fields: use the guidance inside without it",
        )
        made: Mapping[tuple[str, ...], Any] = {
            (): field,
            **{names: without_blocks(field, names) for names in {names for _, names in self.plan if names}},
        }

        def short(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            return bind(made[self.skipped(one_time(t, "SkippedBlocks"))], cond)(x, t)

        return self.guidance(in_place_of(field, short), cond)

    def skipped(self, t: float) -> tuple[str, ...]:
        """The names of the blocks that are not evaluated at a time."""
        return next((names for time, names in self.plan if abs(time - t) < SAME), ())

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)
