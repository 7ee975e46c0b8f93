"""Guidance with a scale for every region of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import is_map, traits_of
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import check_values
from beeline.core.protocols.flows import Reference
from beeline.core.ranges import Count, NonNegative, Range, Whole, dataclass
from beeline.core.types import Cond, Dynamics
from beeline.sampling.blur import gaussian_blur
from beeline.sampling.guidance.composition.attention_maps import RecordedAttention, text_maps
from beeline.sampling.guidance.dependence import Containing, needs_evaluation
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.guidance.predictions import Predictions
from beeline.solvers.process import FieldReadout


class RegionsOfRun(NamedTuple):
    """The regions of the images of one run."""

    cond: Cond  # the condition for the field
    recording: Callable[[Tensor], Any] | None  # x -> context in which the strong prediction is evaluated; None: no need
    labels: Callable[[Any, Tensor], tuple[Tensor, int]]  # (the context, x [B,C,H,W]) -> regions [B,H,W], their number


class Regions(Protocol):
    """Where the regions of an image come from."""

    def for_run(self, field: Any, cond: Cond) -> RegionsOfRun: ...


@dataclass(frozen=True)
class GivenRegions:
    """Regions that are given in the condition, as integers; 0 is the background.

    region at (i, j) = cond[name][:, i, j];  the field does not get this leaf

    >>> GivenRegions(3).for_run(None, {"regions": torch.zeros(1, 2, 2), "label": torch.zeros(1)}).cond
    {'label': tensor([0.])}
    """

    count: Count = 2  # number of regions, with the background
    name: str = "regions"  # of the leaf [B,H,W]

    def for_run(self, field: Any, cond: Cond) -> RegionsOfRun:
        require(
            isinstance(cond, Mapping) and isinstance(cond.get(self.name), Tensor),
            f"GivenRegions got a condition without {self.name!r}; give the regions there, integers [B,H,W]",
        )
        assert isinstance(cond, Mapping)
        regions = cond[self.name]
        assert isinstance(regions, Tensor)
        whole = regions.long()
        check_values(
            ((whole >= 0) & (whole < self.count)).all(),
            lambda: f"GivenRegions({self.count}) got regions outside 0 .. {self.count - 1}; set count to their number",
        )

        def labels(recorded: Any, x: Tensor) -> tuple[Tensor, int]:
            require(
                whole.shape == (len(x), *x.shape[2:]),
                f"GivenRegions got regions of shape {tuple(whole.shape)} for images of shape {tuple(x.shape)}; give "
                "one region for every pixel [B,H,W]",
            )
            return whole, self.count

        rest = {name: leaf for name, leaf in cond.items() if name != self.name} or None
        return RegionsOfRun(rest, None, labels)


@dataclass(frozen=True)
class AttentionRegions:
    """Regions by the token of the text to which every image token attends most, relative to its mean.

    S = attention image -> image, C = image -> text, means over heads and layers;  S' = (S + 3 S^2) / 4
    M = blur(S' C);  region at i = argmax_k M_ik / mean_i M_ik over ``tokens``
    The region of the token ``background`` is the background; without it, no region is.
    Assumes a transformer with joint attention that declares its image tokens (``Traits.tokens``), such as FLUX and
    Stable Diffusion 3.  Special and padding tokens attract attention: leave them out of ``tokens``.
    Source: Shen et al. 2024 (arXiv 2404.05384), with a mean over all layers.

    >>> AttentionRegions(tokens=(1, 2, 3)).tokens
    (1, 2, 3)
    """

    tokens: tuple[int, ...] = ()  # indices of tokens of the text, from 0; none is all of them
    background: Whole | None = None  # index in ``tokens`` of that of the background
    deviation: NonNegative = 0.5  # of the blur, in tokens

    def __post_init__(self) -> None:
        require(
            min(self.tokens, default=0) >= 0 and (not self.tokens or (self.background or 0) < len(self.tokens)),
            f"AttentionRegions got tokens={self.tokens} and background={self.background}; tokens are counted from 0, "
            "and the background is one of them: give its place in tokens",
        )

    def for_run(self, field: Any, cond: Cond) -> RegionsOfRun:
        tokens = traits_of(field).tokens
        require(
            tokens is not None,
            f"AttentionRegions got {type(field).__name__}, which does not declare its image tokens; use a bundle of "
            "FLUX or Stable Diffusion 3, or GivenRegions",
        )
        assert tokens is not None

        def labels(recorded: RecordedAttention, x: Tensor) -> tuple[Tensor, int]:
            grid = tokens(tuple(x.shape[1:]))
            maps = gaussian_blur(text_maps(recorded, grid, self.tokens, "AttentionRegions"), self.deviation)
            require(
                (self.background or 0) < maps.shape[1],
                f"AttentionRegions got background={self.background}, but the text has {maps.shape[1]} tokens: give an "
                "index below it",
            )
            maps = maps / maps.mean((2, 3), keepdim=True).clamp(min=1e-12)
            if self.background is not None:  # the background is region 0
                order = [self.background, *(k for k in range(maps.shape[1]) if k != self.background)]
                maps = maps[:, order]
            found = maps.argmax(1, keepdim=True) + (self.background is None)
            return F.interpolate(found.float(), size=x.shape[2:], mode="nearest")[:, 0].long(), maps.shape[1] + 1

        return RegionsOfRun(cond, lambda x: RecordedAttention(tokens(tuple(x.shape[1:]))), labels)


@dataclass(frozen=True)
class Regional(Containing):
    """Guidance whose scale evens out the strength of guidance over the regions of an image (S-CFG).

    v = weak + scale g (strong - weak);  d = |strong - weak| over channels
    g in region k = mean of d over the foreground / mean of d over region k, within ``bounds``, blurred
    With one region it is extrapolation with the scale.
    Assumes images [B,C,H,W].
    Source: Shen et al. 2024, "Rethinking the Spatial Inconsistency in Classifier-Free Diffusion Guidance" (arXiv
    2404.05384).

    >>> Regional(3.0, GivenRegions(2)).calls(0.5)
    2
    """

    scale: Annotated[float, Range(least=0)]  # 1 is no guidance where g is 1
    regions: Regions
    reference: Reference = field(default_factory=Unconditional)
    bounds: tuple[float, float] = (0.8, 3.0)  # of g
    deviation: NonNegative = 0.5  # of the blur of g, in pixels
    window: tuple[float, float] = (0.0, 1.0)  # times with guidance, both ends included
    together: bool = True  # evaluate both predictions in one batch where no attention is recorded

    def __post_init__(self) -> None:
        low, high = self.window
        require(
            0 <= low <= high <= 1 and 0 < self.bounds[0] <= self.bounds[1],
            f"Regional got window={self.window} and bounds={self.bounds}; both are (low, high), the window inside "
            "[0, 1] and the bounds above 0",
        )
        needs_evaluation(self.reference, "Regional")

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field) and not isinstance(field, FieldReadout),
            f"Regional got {type(field).__name__}, which is no velocity field of images; use CFG(scale)",
        )
        regions = self.regions.for_run(field, cond)
        predictions = Predictions(field, regions.cond, [self.reference], self.together)
        low, high = self.window

        def f(x: Tensor, t: Tensor) -> Tensor:
            require(
                x.ndim == 4,
                f"Regional got states of shape {tuple(x.shape)}; it has regions of images [B,C,H,W]: use CFG(scale)",
            )
            times = host_times(t)
            if not bool(((times >= low) & (times <= high)).any()):
                return predictions.strong(x, t)
            recorded = None
            if regions.recording is None:
                strong, weak = predictions(x, t)
            else:
                with regions.recording(x) as recorded:
                    strong = predictions.apart[0](x, t)
                weak = predictions.apart[1](x, t)
            g = region_factors((strong - weak).norm(dim=1), *regions.labels(recorded, x), self.bounds)
            total = self.scale * gaussian_blur(g, self.deviation)[:, None]
            guided = strong + (total - 1) * (strong - weak)
            return torch.where(((t >= low) & (t <= high)).view(-1, 1, 1, 1), guided, strong)

        return f

    def calls(self, t: float) -> int:
        return 2 if self.window[0] <= t <= self.window[1] else 1


def region_factors(size: Tensor, labels: Tensor, count: int, bounds: tuple[float, float]) -> Tensor:
    """The factors [B,H,W] that even out ``size`` [B,H,W] over regions 0 .. count-1, of which 0 is the background.

    An image of background alone is foreground.

    >>> size, labels = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1, 2]]])
    >>> region_factors(size, labels, 3, (0.8, 3.0))
    tensor([[[1.5000, 0.8000]]])
    """
    flat, index = size.flatten(1), labels.flatten(1)
    empty = flat.new_zeros(len(flat), count)
    sums, numbers = empty.scatter_add(1, index, flat), empty.scatter_add(1, index, torch.ones_like(flat))
    front = torch.where(numbers[:, 1:].sum(1, keepdim=True) > 0, (torch.arange(count, device=size.device) > 0), True)
    mean = (sums * front).sum(1, keepdim=True) / (numbers * front).sum(1, keepdim=True)
    each = sums / numbers.clamp(min=1)
    ratio = torch.where(each > 0, mean / each.clamp(min=1e-30), torch.ones_like(each))
    return ratio.clamp(*bounds).gather(1, index).view_as(size)
