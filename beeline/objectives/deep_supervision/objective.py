"""The objective of deep supervision."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.declared import stacks_of
from beeline.core.errors import require
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time
from beeline.networks.hooks import block_features, block_name, block_width
from beeline.objectives.alignment import with_term
from beeline.objectives.deep_supervision.heads import PatchHead, Refiner, TimedHead
from beeline.objectives.deep_supervision.network import Deep
from beeline.objectives.heads import Head, settings_of
from beeline.objectives.losses.basic import squared
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.paths.affine import Linear


@dataclass(frozen=True)
class DeepSupervision(ObjectiveWrapper):
    """Regression of intermediate velocities too, whose accelerations have to reach the datum.

    loss(v) + early sum_i loss(v_i) + bend sum_i |x_{t_i} + (1-t_i) sg v_i + (1-t_i)^2/2 A_i - x1|^2,
    t_{i+1} = t_i +- U(0, gap) with one sign a batch, x_{t_i} on the same pair
    Assumes the straight path and a Deep network.  Where v_i is exact and the pair certain the best A_i is zero.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> DeepSupervision().early
    0.2
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    early: NonNegative = 0.2  # weight of the intermediate velocities
    bend: NonNegative = 1.0  # weight of the accelerations
    gap: float = 0.01  # largest time between branches; 0 for none
    pieces: int = 3  # branches of equal depth

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines have no heads inside

    def __post_init__(self) -> None:
        require(
            0 <= self.gap <= 1 and self.pieces >= 2,
            f"DeepSupervision got gap={self.gap}, pieces={self.pieces}; a time gap lies between 0 and 1, and there are "
            "at least two branches: 0.01 and 3 are usual",
        )
        require(
            isinstance(self.inner.path, Linear),
            f"DeepSupervision got an objective on {type(self.inner.path).__name__}; its accelerations reach the datum "
            "on the straight path only: use Linear()",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with a refiner and an acceleration after every branch but the last, and one velocity head."""
        last = block_name(network)
        modules = dict(network.named_modules())
        stack = next(s for s in stacks_of(network).values() if any(modules[last] is block for block in s))
        ends = sorted({max(0, round(len(stack) * i / self.pieces) - 1) for i in range(1, self.pieces)})
        names = [next(name for name, m in modules.items() if m is stack[end]) for end in ends]
        width, shape = block_width(network, names[0], batch, 3, self), batch.x1.shape[1:]
        tokens = block_features(network, names[0], batch).ndim == 3
        patch = settings_of(network).get("patch", 0) if tokens else 0
        require(
            not tokens or patch,
            f"DeepSupervision got {names[0]!r} of {type(network.backbone).__name__}, whose features are tokens without "
            "patches; it supports vectors and patches: use networks.MLP or networks.DiT",
        )
        with rng.ambient():
            if patch:
                bends: list[nn.Module] = [PatchHead(width, shape, patch, True) for _ in names]
            else:
                bends = [Head(width, shape, still=True) for _ in names]
            velocity, refiners = TimedHead(width, shape, patch), [Refiner(width, shape, patch) for _ in names]
        return Deep(network, names, [velocity], bends, refiners)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, Deep),
            f"DeepSupervision got a {type(field).__name__}, which has no heads; wrap the network in Deep(...)",
        )
        example = self.inner.examples(batch, rng, field)
        t, pairs, gaps, times = example.t, example.batch, [], [example.t]
        if self.gap and field.names:
            sign = 1.0 if float(rng.fork("sign").uniform(1, t)) < 0.5 else -1.0
            for i in range(len(field.names)):
                step = sign * self.gap * rng.fork("gap", i).uniform(len(t), t)
                times.append((times[-1] + step).clamp(0, 1))
                gaps.append(times[-1] - times[-2])
        early, bends, v_last = field.branches(example.x, t, pairs.cond, gaps or None)
        loss = self.inner.compare(v_last, example)
        assert pairs.x0 is not None
        for i, (v, a) in enumerate(zip(early, bends, strict=True)):
            inner = self.inner.compare(v, example)
            loss = with_term(loss, inner.value, self.early, f"velocity {i}")
            at = times[i] if gaps else t
            left = expand_time(1 - at, v_last)
            reached = self.inner.path.point(pairs.x0, pairs.x1, at).x + left * v.detach() + left**2 / 2 * a
            loss = with_term(loss, squared(reached, pairs.x1).mean(), self.bend, f"acceleration {i}")
        return loss
