"""Edits in which the attention of the edited data sees that of the source, evaluated as one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import deferred, eval_mode
from beeline.core.protocols.editing import Inversion, State
from beeline.core.ranges import Early, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.fields.flow import Flow, bind
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import extended_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import chosen_blocks
from beeline.sampling.editing.attention.parts import EARLIER, Trajectory, differing, end_of_steps, grouped, members
from beeline.sampling.editing.dynamics import Drift, along, to_device
from beeline.sampling.editing.inversions import Backwards, Noised
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.sampler import Sampler

Mix: TypeAlias = Callable[[ImageAttention, ImageAttention], Tensor]
"""(attention of the source, of the target) -> the output of the target's."""


class Paired(ABC):
    """Base of edits that evaluate source and target as one batch; a member says what attention of the target sees.

    dz/dt = v([x_t; z], t, [cond; new_cond]) of the second half,  z = x_t at t = ``start``
    The states x_t of the source are those of the inversion, or with ``Noised`` those of the straight path.  A batch of
    guidance holds such pairs of one prediction each.  The first ``share`` of the steps sees the source; with none of
    them, or without an effect, the edit is ``InvertAndSample``, bit by bit.
    """

    blocks: tuple[str, ...]
    depth: tuple[float, float]
    share: float
    inversion: Inversion
    start: float

    @abstractmethod
    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        """The output [B,H,L,D] of the target's attention."""

    def mixer(self, changed: Tensor) -> Mix:
        """``mix`` for one run, in which the rows ``changed`` [B] have another new condition than the old one."""
        return self.mix

    def correction(
        self, source: Trajectory, flow: Flow, cond: Cond, new_cond: Cond, rng: Rng
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        """(x, t) -> the corrected state of the target after a step; None where there is none."""
        return None

    @property
    def acts(self) -> bool:
        """Whether the settings have an effect."""
        return True

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        names = chosen_blocks(flow.field, self.blocks, self.depth)
        until = end_of_steps(sampler, self.start, round(self.share * sampler.steps)) - EARLIER
        if until < self.start or not self.acts:
            return InvertAndSample(self.inversion, self.start)(flow, x, cond, new_cond, sampler, rng)
        source, state = self.source(flow, x, cond, sampler, rng)
        attend = pairwise(self.mixer(differing(cond, new_cond, x)), len(x), until)
        paired = replace(flow, field=with_attention(flow.field, names, attend))
        after = self.correction(source, flow, cond, new_cond, rng)
        return along(paired, state.x, sampler, beside(source, cond, new_cond), start=state.t, after=after)

    def source(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng) -> tuple[Trajectory, State]:
        """The states of the source by time, and the state from which the target starts."""
        found = Trajectory(self.inversion, flow, x, cond, sampler, rng, self.start)
        return found, found.state


def beside(source: Trajectory, cond: Cond, new_cond: Cond) -> Callable[[Drift], Dynamics]:
    """Dynamics of the target in a batch [source; target]."""

    def dynamics(drift: Drift) -> Dynamics:
        like = source.state.x
        pair = map_cond(lambda a, b: torch.cat([a, b]), to_device(cond, like), to_device(new_cond, like))
        f = drift(pair)

        def target(z: Tensor, t: Tensor) -> Tensor:
            known = source(float(host_times(t).flatten()[0])).to(z)
            return f(torch.cat([known, z]), torch.cat([t, t]))[len(z) :]

        return target

    return dynamics


def pairwise(mix: Mix, rows: int, until: float) -> Callable[[ImageAttention], Tensor]:
    """Attention of batches of pairs [source; target] of some rows each, in which the target's is ``mix``."""

    def attend(a: ImageAttention) -> Tensor:
        if a.time >= until:
            return a.softmax()
        source, target = members(a, 2, rows)
        return grouped([source.softmax(), mix(source, target)], rows)

    return attend


@dataclass(frozen=True)
class KeyValueEnriched(Paired):
    """Attention of the edited data also sees keys and values of the source (ContextFlow).

    y = softmax(q [k; k_source]' / sqrt(D)) [v; v_source]
    Equal keys and values cancel: with equal conditions nothing but the error of the round trip changes.  Blocks that
    matter for a task are found by ``responsiveness``.
    Assumes a network that declares the tokens of an image.
    Source: Chen et al. 2025, "ContextFlow: Training-Free Video Object Editing via Adaptive Context Enrichment"
    (arXiv 2509.17818).

    >>> KeyValueEnriched(share=0.25).start
    0.0
    """

    share: Share = 0.5  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.5, 1.0)  # interval of the depth: the last half
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        return extended_attention(target, source.k, source.v, mask=source.mask)


@dataclass(frozen=True)
class ReferenceAttention(Paired):
    """Attention of the edited data mixed with attention to keys and values of a reference (MixSA).

    y = (1 - w) softmax(q k' / sqrt(D)) v + w softmax(q k_ref' / sqrt(D)) v_ref,  w = ``weight``
    The reference is the source, with the old condition, or ``reference``, which then has that condition.
    Assumes a network that declares the tokens of an image.
    Source: "MixSA: Training-free Reference-based Sketch Extraction via Mixture-of-Self-Attention", in its attention.

    >>> ReferenceAttention(weight=1.0).depth
    (0.5, 1.0)
    """

    weight: Share = 0.5  # of the reference; 1 replaces keys and values
    reference: Any = None  # a tensor, an array or nested tuples [*S] or [B,*S]; none is the source
    share: Share = 0.8  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.5, 1.0)  # interval of the depth: the last half
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    @property
    def acts(self) -> bool:
        return self.weight > 0

    def source(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng) -> tuple[Trajectory, State]:
        own = Trajectory(self.inversion, flow, x, cond, sampler, rng, self.start)
        if self.reference is None:
            return own, own.state
        given = torch.as_tensor(self.reference).to(x)
        require(
            given.shape in (x.shape, x.shape[1:]),
            f"ReferenceAttention got a reference of shape {tuple(given.shape)} for data of shape {tuple(x.shape)}; "
            "give one datum, or one for every row",
        )
        other = Trajectory(self.inversion, flow, given.expand(x.shape), cond, sampler, rng, self.start)
        return other, own.state

    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        given = replace(source, q=target.q).softmax()
        return given if self.weight == 1 else torch.lerp(target.softmax(), given, self.weight)


def responsiveness(
    flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng, times: Sequence[float] = (0.1, 0.3, 0.5)
) -> dict[str, float]:
    """How much the output of attention in every block changes where it also sees keys and values of the source.

    |y_enriched - y| / |y|, the mean over times and rows of noisy data; the block with the largest is first.  Both
    conditions see the same states, and no block is changed.
    """
    found: dict[str, list[float]] = {}

    def look(source: ImageAttention, target: ImageAttention) -> Tensor:
        y = target.softmax()
        away = extended_attention(target, source.k, source.v, mask=source.mask) - y
        sizes = (part.float().flatten(1).norm(dim=1) for part in (away, y))
        found.setdefault(target.block, []).append(float((next(sizes) / next(sizes)).mean()))
        return y

    names = chosen_blocks(flow.field)
    pair = map_cond(lambda a, b: torch.cat([a, b]), to_device(cond, x), to_device(new_cond, x))
    f = bind(with_attention(flow.field, names, pairwise(look, len(x), 1.0)), pair)
    with eval_mode(flow), deferred():
        for time in times:
            state = Noised()(flow, x, cond, Sampler(1), rng.fork(time), time).x
            f(torch.cat([state, state]), torch.full((2 * len(x),), time, device=x.device))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))
