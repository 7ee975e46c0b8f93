"""Caches of diffusers for pretrained transformers, with the families for which each is tested."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.networks.hub.imports import diffusers

ATTENTION = r"(single_)?(transformer_)?blocks\.\d+\.attn\d?"
"""Names of the attention modules of repeated blocks."""

BLOCK = r"[^.]*blocks\.\d+"
"""Names of repeated blocks."""

Timestep = Callable[[], float]
"""Returns 1000 (1 - t) of the present evaluation; infinity in the first of a run, in which nothing can be reused."""


class Cache(Protocol):
    """What a pretrained network reuses from earlier evaluations of the same run.

    ``families`` names the families for which it is tested.  With ``per_sample`` every sample decides for itself, and
    the samples of a batch are evaluated one by one.  ``config`` gives the configuration of diffusers, ``witness`` a
    module that is computed in an evaluation exactly if nothing is reused, and ``inner`` those modules inside of blocks
    that may get hooks.
    """

    families: ClassVar[tuple[str, ...]]

    @property
    def per_sample(self) -> bool: ...

    def config(self, timestep: Timestep) -> Any: ...

    def witness(self, net: nn.Module) -> nn.Module: ...

    def inner(self, net: nn.Module) -> list[nn.Module]: ...


@dataclass(frozen=True)
class FirstBlock:
    """Reuse of the change that all later blocks make, while that of the first block stays nearly the same.

    h = h1 + c',  if mean |r - r'| <= threshold mean |r'|,  r = h1 - x, with r' and c' of the last full evaluation
    Here x is the input of the blocks, h1 the output of the first, h that of the last one.  At 0 everything is
    evaluated in full.
    Source: Liu et al. 2024, "TeaCache" (arXiv 2411.19108), with the first block as the estimate.

    >>> FirstBlock(0.1)
    FirstBlock(threshold=0.1, per_sample=True)
    """

    families: ClassVar[tuple[str, ...]] = ("flux", "qwen-image", "cogview4", "wan", "ltx", "hunyuan-video", "mochi")

    threshold: NonNegative = 0.05  # 0.05 to 0.3 is usual
    per_sample: bool = True  # else one decision for the batch, so that a sample depends on the others

    def config(self, timestep: Timestep) -> Any:
        return diffusers("a cache").FirstBlockCacheConfig(threshold=self.threshold)

    def witness(self, net: nn.Module) -> nn.Module:
        return blocks_of(net)[-1]

    def inner(self, net: nn.Module) -> list[nn.Module]:
        return []


@dataclass(frozen=True)
class MagCache:
    """Reuse of the change that the blocks make, as long as its known growth from evaluation to evaluation allows.

    h = x + c',  if sum |1 - prod gamma| <= threshold, over the evaluations since the last full one
    The ratios gamma_i = mean |c_i| / |c_(i-1)| belong to a checkpoint; they are stretched to ``evaluations``.
    Source: Ma et al. 2025, "MagCache" (arXiv 2506.09045).

    >>> MagCache((1.0, 1.1, 1.0, 1.0), evaluations=4).most
    3
    """

    families: ClassVar[tuple[str, ...]] = ("flux", "qwen-image", "cogview4", "wan", "ltx", "hunyuan-video", "mochi")
    per_sample: ClassVar[bool] = False  # the decision does not depend on the sample

    ratios: tuple[float, ...]  # of the checkpoint, one per evaluation of the run in which they were measured
    evaluations: Count  # of one run and one prediction: the steps of the sampler, for a solver of order 1
    threshold: NonNegative = 0.06  # of the accumulated error
    most: Count = 3  # evaluations in a row that reuse
    full: Share = 0.2  # part of the run, from its start, that is evaluated in full

    def __post_init__(self) -> None:
        require(
            len(self.ratios) > 0,
            "MagCache got no ratios; they say how the change by the blocks grows from evaluation to evaluation: give "
            "those of the checkpoint, one per evaluation",
        )

    def config(self, timestep: Timestep) -> Any:
        return diffusers("a cache").MagCacheConfig(
            threshold=self.threshold,
            max_skip_steps=self.most,
            retention_ratio=self.full,
            num_inference_steps=self.evaluations,
            mag_ratios=torch.tensor(self.ratios),
        )

    def witness(self, net: nn.Module) -> nn.Module:
        return blocks_of(net)[-1]

    def inner(self, net: nn.Module) -> list[nn.Module]:
        return []


@dataclass(frozen=True)
class TaylorSeer:
    """Extrapolation of the outputs of attention, by differences of the evaluations in which it was computed.

    a_(k+n) = sum_j n^j / j! D^j a_k,  D^j a_k the j-th divided difference
    With ``whole``, the output of the last layer takes the place of those of attention, and no block is evaluated; the
    error is larger.  The evaluations are taken as equally spaced.
    Source: Liu et al. 2025, "From Reusing to Forecasting" (arXiv 2503.06923).

    >>> TaylorSeer(every=3).order
    1
    """

    families: ClassVar[tuple[str, ...]] = (
        *("flux", "flux2", "flux2-klein", "chroma", "qwen-image", "cogview4"),
        *("wan", "ltx", "hunyuan-video", "mochi", "hunyuan-image"),
    )
    per_sample: ClassVar[bool] = False  # the decision does not depend on the sample

    every: Count = 5  # evaluations from one that is computed to the next
    order: Count = 1  # of the extrapolation
    warmup: Count = 3  # first evaluations, which are computed
    whole: bool = False  # extrapolate the output of the network, so that reuse costs next to nothing

    def config(self, timestep: Timestep) -> Any:
        return diffusers("a cache").TaylorSeerCacheConfig(
            cache_interval=self.every,
            disable_cache_before_step=self.warmup,
            max_order=self.order,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=["proj_out" if self.whole else ATTENTION],
            skip_predict_identifiers=[BLOCK] if self.whole else None,
        )

    def witness(self, net: nn.Module) -> nn.Module:
        return attentions(net)[0]

    def inner(self, net: nn.Module) -> list[nn.Module]:
        return [] if self.whole else attentions(net)


@dataclass(frozen=True)
class AttentionBroadcast:
    """Reuse of the outputs of self-attention in all but every n-th evaluation, inside a window of times.

    a_k = a of the last evaluation in which attention was computed
    Source: Zhao et al. 2024, "Pyramid Attention Broadcast" (arXiv 2408.12588).

    >>> AttentionBroadcast(every=3).window
    (0.2, 0.9)
    """

    families: ClassVar[tuple[str, ...]] = TaylorSeer.families
    per_sample: ClassVar[bool] = False  # the decision does not depend on the sample

    every: Count = 2  # evaluations from one that is computed to the next
    window: tuple[float, float] = (0.2, 0.9)  # times between which attention is reused

    def __post_init__(self) -> None:
        check_window(self)

    def config(self, timestep: Timestep) -> Any:
        return diffusers("a cache").PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=self.every,
            spatial_attention_timestep_skip_range=timesteps(self.window),
            current_timestep_callback=timestep,
        )

    def witness(self, net: nn.Module) -> nn.Module:
        return attentions(net)[0]

    def inner(self, net: nn.Module) -> list[nn.Module]:
        return attentions(net)


@dataclass(frozen=True)
class FasterCache:
    """Linear extrapolation of the outputs of self-attention in all but every n-th evaluation, inside a window of times.

    a_k = a_(k-1) + weight (a_(k-1) - a_(k-2)), with outputs of earlier evaluations, computed or extrapolated
    Only attention is extrapolated: the unconditional prediction of guidance is evaluated.
    Source: Lv et al. 2024, "FasterCache" (arXiv 2410.19355).

    >>> FasterCache(every=3).weight
    0.5
    """

    families: ClassVar[tuple[str, ...]] = TaylorSeer.families
    per_sample: ClassVar[bool] = False  # the decision does not depend on the sample

    every: Count = 2  # evaluations from one that is computed to the next
    weight: NonNegative = 0.5  # of the change from one evaluation to the next; 0 repeats the last output
    window: tuple[float, float] = (0.32, 1.0)  # times between which attention is extrapolated

    def __post_init__(self) -> None:
        check_window(self)

    def config(self, timestep: Timestep) -> Any:
        return diffusers("a cache").FasterCacheConfig(
            spatial_attention_block_skip_range=self.every,
            spatial_attention_timestep_skip_range=timesteps(self.window),
            attention_weight_callback=lambda module: self.weight,
            is_guidance_distilled=True,  # every prediction has a copy of its own
            current_timestep_callback=timestep,
        )

    def witness(self, net: nn.Module) -> nn.Module:
        return attentions(net)[0]

    def inner(self, net: nn.Module) -> list[nn.Module]:
        return attentions(net)


CACHES = (FirstBlock, MagCache, TaylorSeer, AttentionBroadcast, FasterCache)


def check_window(cache: AttentionBroadcast | FasterCache) -> None:
    """Raise ValueError for a window that is no interval of times."""
    low, high = cache.window
    require(
        0 <= low < high <= 1,
        f"{type(cache).__name__} got window={cache.window}, which is no interval of times: set (low, high) with "
        "0 <= low < high <= 1",
    )


def timesteps(window: tuple[float, float]) -> tuple[float, float]:
    """The values of 1000 (1 - t) for a window of t."""
    low, high = window
    return 1000 * (1 - high), 1000 * (1 - low)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer of diffusers in the order of their evaluation."""
    lists = [child for child in net.children() if isinstance(child, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if any(True for _ in block.children())]


def attentions(net: nn.Module) -> list[nn.Module]:
    """The attention modules of the repeated blocks."""
    return [module for name, module in net.named_modules() if re.fullmatch(ATTENTION, name)]
