"""Identities of flow maps, as regressions of the average velocity."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode, full_precision
from beeline.core.protocols.flows import Solver
from beeline.core.protocols.maps import Split, VelocitySource
from beeline.core.ranges import Inside, Share, dataclass
from beeline.core.types import expand_time
from beeline.objectives.maps.jumps import Jumps
from beeline.objectives.maps.splits import Between, Falling
from beeline.solvers.runge_kutta import EULER


class IdentityBase:
    """Base of identities: the average velocity itself is regressed, and any source of velocities will do."""

    @property
    def evolves(self) -> bool:
        """Whether it depends on the progress of the training."""
        return False

    @property
    def warms(self) -> bool:
        """Whether its target has a derivative term, which a warm-up multiplies."""
        return False

    def check(self, velocity: VelocitySource) -> None:
        """Raise BeelineError for a source of velocities with which it is not defined."""

    def predict(self, jumps: Jumps) -> tuple[Tensor, Tensor]:
        """What is regressed [B,*S], with its graph, and u(x, t, s)."""
        u = jumps.map()
        return u, u

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        """What it is regressed on [B,*S]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Eulerian(IdentityBase):
    """The Eulerian identity, which moves the start of the jump: the identity of MeanFlow.

    target = v(x, t) + r (s - t) du/dt,  du/dt the derivative of u(x, t, s) along (v, 1, 0),  r the warm-up
    Assumes a network with a forward derivative.  The variance of pairs enters the derivative too, unless ``tangent``
    is another source, such as OwnDiagonal().
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447); Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching"
    (arXiv 2406.07507).

    >>> Eulerian().warms
    True
    """

    tangent: VelocitySource | None = None  # of the derivative; None is the velocity of the target

    @property
    def warms(self) -> bool:
        return True

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        v = velocity(jumps, jumps.x, jumps.t)
        along = v if self.tangent is None else self.tangent(jumps, jumps.x, jumps.t)
        with eval_mode(jumps.field):
            _, slope = jumps.slope(along, torch.ones_like(jumps.t), torch.zeros_like(jumps.s))
        return v + jumps.warmed * expand_time(jumps.s - jumps.t, v) * slope


@dataclass(frozen=True)
class Lagrangian(IdentityBase):
    """The Lagrangian identity, which moves the end of the jump.

    target = v(X, s) - r (s - t) du/ds,  X = x + (s - t) u,  du/ds the derivative along (0, 0, 1),  r the warm-up
    With ``through``, u + (s - t) du/ds is regressed on v(X, s), and the gradient passes through the derivative.
    Assumes velocities at the end of a jump: those of a teacher, or of the map's own diagonal as ``terminal``.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507); through: Zhou et al. 2025,
    "Terminal Velocity Matching" (arXiv 2511.19797).

    >>> Lagrangian(through=True).warms
    False
    """

    terminal: VelocitySource | None = None  # at the end of the jump; None is the source of the objective
    through: bool = False

    @property
    def warms(self) -> bool:
        return not self.through

    def check(self, velocity: VelocitySource) -> None:
        require(
            (self.terminal or velocity).anywhere,
            f"Lagrangian got {type(self.terminal or velocity).__name__} as the velocity at the end of a jump, where no "
            "pair passes; use terminal=OwnDiagonal(), or velocity=OfTeacher(flow)",
        )

    def predict(self, jumps: Jumps) -> tuple[Tensor, Tensor]:
        if not self.through:
            return super().predict(jumps)
        u, slope = self._slope(jumps)
        return u + expand_time(jumps.s - jumps.t, u) * slope, u

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        length = expand_time(jumps.s - jumps.t, u)
        v = (self.terminal or velocity)(jumps, jumps.x + length * u, jumps.s)
        if self.through:
            return v
        with eval_mode(jumps.field):
            return v - jumps.warmed * length * self._slope(jumps)[1]

    def _slope(self, jumps: Jumps) -> tuple[Tensor, Tensor]:
        return jumps.slope(torch.zeros_like(jumps.x), torch.zeros_like(jumps.t), torch.ones_like(jumps.s))


@dataclass(frozen=True)
class Semigroup(IdentityBase):
    """The semigroup identity: a jump is two jumps of the map, one after the other.

    target = a u(x, t, m) + (1 - a) u(X, m, s),  m = t + a (s - t),  X = x + (m - t) u(x, t, m)
    It needs no derivative and no velocity except on the diagonal, of which jumps have to have a share.
    Source: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884); halves: Frans et al. 2024, shortcut models (arXiv
    2410.12557).

    >>> Semigroup(Between(0.5, 0.5)).warms
    False
    """

    split: Split = field(default_factory=Between)

    @property
    def evolves(self) -> bool:
        return self.split.evolves

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        m, share = divided(jumps, self.split)
        with eval_mode(jumps.field):
            first = jumps.map(s=m)
            last = jumps.map(jumps.x + expand_time(m - jumps.t, u) * first, m)
        return share * first + (1 - share) * last


@dataclass(frozen=True)
class Stepped(IdentityBase):
    """A step of the velocity, then a jump of the map: the identity of consistency models and alpha-Flow.

    target = v~ + (1 - a)/a (u(X, m, s) - u(x, t, s)),  m = t + a (s - t),  X = x + (m - t) v~,  v~ the average velocity
    of the source from t to m
    It is the error of a v~ + (1 - a) u(X, m, s) in units of a: a = 1 is flow matching on trajectories, and for a small
    share a it is the Eulerian identity by a difference, without a derivative.
    Assumes weights in float32, whose differences over small shares are not rounded away.
    Source: Zhang et al. 2025, alpha-Flow (arXiv 2510.20771); Song et al. 2023, "Consistency Models" (arXiv 2303.01469).

    >>> Stepped().evolves
    True
    """

    split: Split = field(default_factory=Falling)
    solver: Solver = EULER  # a one-step method for the source of velocities; a pair needs none

    @property
    def evolves(self) -> bool:
        return self.split.evolves

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        m, share = divided(jumps, self.split)
        v = velocity.average(jumps, m, self.solver)
        again = differs(jumps.field, u)
        with eval_mode(jumps.field), full_precision(u.device):
            last = jumps.map(jumps.x + expand_time(m - jumps.t, v) * v, m)
            u = jumps.map() if again else u
        return v + (1 - share) / share * (last - u)


@dataclass(frozen=True)
class Truncated(IdentityBase):
    """The identity Stepped of truncated consistency training: from the time ``seam`` on the map is a trained one.

    target = v~ + (1 - a)/a (w - u(x, t, s)),  w = u(X, m, s) for m < seam and that of the trained map else;
    a share ``boundary`` of the jumps is divided at the seam itself, where the trained map is the target
    Assumes starts before the seam, and a trained consistency function.
    Source: Lee et al. 2024, "Truncated Consistency Models" (arXiv 2410.14895).

    >>> Truncated(lambda x, t, cond=None, s=None: x).seam
    0.5
    """

    trained: Any  # the flow map that holds from the seam on
    seam: Inside = 0.5
    boundary: Share = 0.25
    stepped: Stepped = field(default_factory=Stepped)

    @property
    def evolves(self) -> bool:
        return self.stepped.evolves

    def target(self, jumps: Jumps, u: Tensor, velocity: VelocitySource) -> Tensor:
        m, share = divided(jumps, self.stepped.split)
        whole = (self.seam - jumps.t) / (jumps.s - jumps.t)
        at_seam = (jumps.rng.fork("boundary").uniform(len(m), m) < self.boundary) & (whole > 0) & (whole <= 1)
        share = torch.where(expand_time(at_seam, u), expand_time(whole, u), share)
        m = torch.where(at_seam, self.seam, m)
        v = velocity.average(jumps, m, self.stepped.solver)
        again = differs(jumps.field, u)
        x = jumps.x + expand_time(m - jumps.t, v) * v
        with eval_mode(jumps.field, self.trained), full_precision(u.device):
            known = replace(jumps, field=self.trained).map(x, m)
            last = torch.where(expand_time(m >= self.seam, u), known, jumps.map(x, m))
            u = jumps.map() if again else u
        return v + (1 - share) / share * (last - u)


def divided(jumps: Jumps, split: Split) -> tuple[Tensor, Tensor]:
    """The times [B] at which jumps are divided, and the share of the jump before them, in the shape of the state."""
    share = split(jumps.t, jumps.s, jumps.rng.fork("split"))
    return jumps.t + share * (jumps.s - jumps.t), expand_time(share, jumps.x)


def differs(field: Any, u: Tensor) -> bool:
    """Whether u was computed by other numbers than in evaluation mode and full precision: dropout or autocast."""
    kind = u.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return True
    modules = field.modules() if isinstance(field, nn.Module) else ()
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in modules)
