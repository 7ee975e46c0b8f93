"""The objective of flow maps: an identity, a source of velocities, a distribution of jumps and a distance."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.progress import progress
from beeline.core.protocols.flows import Coupling, Path, TimeSampler
from beeline.core.protocols.maps import Identity, Spans, VelocitySource
from beeline.core.protocols.objectives import Derivative, ObjectiveSpec
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.couplings.basic import Independent
from beeline.objectives.losses.basic import Distance, Weight, one, squared
from beeline.objectives.maps.derivatives import ForwardMode
from beeline.objectives.maps.identities import Eulerian
from beeline.objectives.maps.jumps import Jumps
from beeline.objectives.maps.spans import Ordered
from beeline.objectives.maps.velocities import OfPair
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.runge_kutta import FlowMapStep


class Compared(NamedTuple):
    """Jumps, and what the map predicts for them."""

    jumps: Jumps
    u: Tensor  # [B,*S], average velocities, with their graph
    predicted: Tensor  # [B,*S], what is regressed
    target: Tensor  # [B,*S]


@dataclass(frozen=True)
class FlowMapMatching(ObjectiveBase):
    """Regression of a flow map on an identity that average velocities satisfy.

    E over pairs and (t, s) of weight(t) distance(u(x_t, t, s), target of the identity);  v(x_t, t) where s = t
    Targets have no gradient.  At the exact map of the velocities the error vanishes; with velocities of pairs its mean
    does.  The derivative terms of the identity have the factor min(1, p / warmup), and jumps the length
    min(1, p / growth) (s - t), p the share of the training that is done.  MeanFlow, consistency models, shortcut models
    and others are settings of it (see the presets).
    Assumes an affine path and a flow map; recipes build their network with one.  Sample with FlowMapStep(),
    which is the default of recipes.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507); Geng et al. 2025, MeanFlow
    (arXiv 2505.13447).

    >>> from beeline.core.declared import as_map
    >>> net = as_map(lambda x, t, cond=None, s=None: -x)
    >>> FlowMapMatching()(net, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    path: Path = field(default_factory=Linear)
    coupling: Coupling = field(default_factory=Independent)
    identity: Identity = field(default_factory=Eulerian)
    velocity: VelocitySource | None = None  # None is OfPair(); a distillation fills in its teacher
    spans: Spans = field(default_factory=Ordered)
    distance: Distance = squared
    weight: Weight = one  # over the start of the jump
    warmup: Share = 0.0  # share of the training in which the derivative terms rise to their full size
    growth: Share = 0.0  # share of the training in which jumps grow to their full length
    derivative: Derivative = field(default_factory=ForwardMode)
    drop: Drop | None = None

    def __post_init__(self) -> None:
        require(
            isinstance(self.path, AffinePath),
            f"FlowMapMatching got the path {type(self.path).__name__}; its states have to be functions of the pair and "
            "the time: use an affine path such as Linear()",
        )
        require(
            self.warmup == 0 or self.identity.warms,
            f"FlowMapMatching got warmup={self.warmup} and {type(self.identity).__name__}, whose target has no "
            "derivative term: leave warmup at 0",
        )
        if self.velocity is not None:
            self.identity.check(self.velocity)

    @property
    def source(self) -> VelocitySource:
        """The source of velocities."""
        return OfPair() if self.velocity is None else self.velocity

    @property
    def spec(self) -> ObjectiveSpec:
        """Its diagonal, where it is trained, is the velocity field of the path."""
        declared = replace(super().spec, coupling=self.coupling, drop=self.drop, solver=FlowMapStep())
        declared = replace(declared, span=True, baselines=False, evolves=self.evolves)
        return replace(declared, path=self.path) if self.spans.diagonal else declared

    @property
    def evolves(self) -> bool:
        """Whether it depends on the progress of the training."""
        return self.warmup > 0 or self.growth > 0 or self.identity.evolves

    def heldout(self, times: TimeSampler) -> Any:
        """The squared error of the jumps, with weight one and no dropout."""
        drop = None if self.drop is None else replace(self.drop, probability=0.0)
        return replace(self, distance=squared, weight=one, drop=drop)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The loss of a flow map on data ``batch.x1`` [B,*S]."""
        return self.compare(self.examples(field, batch, rng))

    def compare(self, made: Compared) -> Loss:
        """The loss of examples."""
        return self._plain.reduce(made.predicted, made.target, made.jumps.t, made.jumps.batch)

    def examples(self, field: Any, batch: Batch, rng: Rng) -> Compared:
        """Sample pairs and jumps, and compute predictions and targets."""
        require(
            is_map(field),
            f"FlowMapMatching got the velocity field {type(field).__name__}; it trains a network with a second time: "
            "build it with span=True, or turn a trained one into a map with spanned(network) of "
            "beeline.networks.maps.spans",
        )
        self.identity.check(self.source)
        jumps, diagonal = self.jumps(field, self._plain.pairs(batch, rng, field), rng)
        predicted, u = self.identity.predict(jumps)
        with torch.no_grad():
            target = self.target(jumps, u.detach(), diagonal)
        return Compared(jumps, u, predicted, target)

    @property
    def _plain(self) -> FlowMatching:
        """The objective of the pairs and of the mean over a batch."""
        return FlowMatching(self.path, self.coupling, weight=self.weight, distance=self.distance, drop=self.drop)

    def jumps(self, field: Any, batch: Batch, rng: Rng) -> tuple[Jumps, int]:
        """The jumps of a batch with source points, and how many of them, which come first, have t = s."""
        assert batch.x0 is not None and isinstance(self.path, AffinePath)
        t, s, diagonal = self.spans(len(batch.x1), batch.x1, rng.fork("spans"))
        grown, warmed = (min(1.0, progress() / part) if part else 1.0 for part in (self.growth, self.warmup))
        s = s if grown == 1 else t + grown * (s - t)
        x = self.path.point(batch.x0, batch.x1, t).x
        return Jumps(field, batch, self.path, x, t, s, self.derivative, rng.fork("jumps"), warmed), diagonal

    def target(self, jumps: Jumps, u: Tensor, diagonal: int) -> Tensor:
        """The targets [B,*S]: velocities on the diagonal, those of the identity elsewhere."""
        parts = []
        if diagonal:
            some = jumps.rows(0, diagonal)
            parts.append(self.source(some, some.x, some.t))
        if diagonal < len(u):
            parts.append(self.identity.target(jumps.rows(diagonal, len(u)), u[diagonal:], self.source))
        return torch.cat([part.to(u.dtype) for part in parts])
