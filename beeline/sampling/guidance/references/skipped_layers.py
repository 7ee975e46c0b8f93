"""Weak predictions by the same network without some of its blocks."""

from __future__ import annotations

from typing import Any

from beeline.core.ranges import dataclass
from beeline.core.types import Cond
from beeline.networks.skipping import block_names, without_blocks


@dataclass(frozen=True)
class SkippedLayers:
    """The same field without some of its blocks, as in skip-layer guidance (SLG) and spatiotemporal skips (STG).

    weak = v(x, t, cond) with h_(k+1) = h_k for the named blocks k
    It needs no condition, and costs less than an evaluation of the whole network.
    Assumes residual blocks whose input and output have one shape, and no cache.
    Source: Hyung et al. 2024, "Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling" (arXiv 2411.18664).

    >>> from beeline.sampling.guidance.guide import Extrapolate, Guide
    >>> Guide(SkippedLayers(("block.1",)), Extrapolate(2.0), window=(0.0, 0.8)).calls(0.9)
    1
    """

    blocks: tuple[str, ...] = ()  # names, as "block.1"; none is the middle one

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        known = block_names(field)
        return without_blocks(field, self.blocks or known[(len(known) - 1) // 2 :][:1]), cond
