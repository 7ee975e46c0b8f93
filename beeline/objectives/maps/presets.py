"""Objectives of the literature as settings of FlowMapMatching: methods that regress jumps of any span."""

from __future__ import annotations

from dataclasses import field

from beeline.core.protocols.maps import Identity, Spans
from beeline.core.ranges import Share, dataclass
from beeline.objectives.losses.basic import Distance
from beeline.objectives.losses.residuals import AdaptivePower, NormalisedTangent
from beeline.objectives.maps.identities import Eulerian, Lagrangian, Semigroup, Stepped
from beeline.objectives.maps.matching import FlowMapMatching
from beeline.objectives.maps.spans import Dyadic, FromStarts, Gapped, Ordered
from beeline.objectives.maps.splits import Between, Falling, SigmoidFalling
from beeline.objectives.maps.velocities import OwnDiagonal
from beeline.times.samplers import LogitNormal, UShaped


@dataclass(frozen=True)
class MeanFlow(FlowMapMatching):
    """MeanFlow: the Eulerian identity with pairs, logit-normal times and an adaptive weight.

    E |u(x_t, t, s) - sg(v + (s - t) du/dt)|^2 / sg(. + c)^p
    With a teacher v is its velocity, in place of that of the pair, which removes most of the variance.
    Guidance is learned with velocity=GuidedTarget(scale=2.0) and condition dropout.
    Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling" (arXiv 2505.13447).

    >>> MeanFlow().spans.diagonal
    0.5
    """

    spans: Spans = field(default_factory=lambda: Ordered(LogitNormal(0.4), LogitNormal(0.4), diagonal=0.5))
    distance: Distance = field(default_factory=AdaptivePower)


@dataclass(frozen=True)
class ImprovedMeanFlow(MeanFlow):
    """Improved MeanFlow: the derivative is taken along the map's own velocity, not that of the pair.

    E |u - (s - t) sg du/dt - v|^2,  du/dt along (sg u(x, t, t), 1, 0), and the velocity on the diagonal
    The variance of the pair enters the target once.  Its guidance is velocity=GuidedTarget(mixing=1 - 1/scale).
    Source: Geng et al. 2025, "Improved Mean Flows" (arXiv 2512.02012).

    >>> ImprovedMeanFlow().identity.tangent
    OwnDiagonal()
    """

    identity: Identity = field(default_factory=lambda: Eulerian(OwnDiagonal()))


@dataclass(frozen=True)
class RectifiedMeanFlow(FlowMapMatching):
    """MeanFlow on the pairs of a reflow, whose velocities have little variance.

    the identity of MeanFlow with U-shaped starts, jumps of logit-normal length, and long jumps to the end
    Assumes pairs of a teacher: coupling=Paired(), as its distillation sets it.
    Source: Zhang et al. 2025, MeanFlow on rectified trajectories (arXiv 2511.23342).

    >>> RectifiedMeanFlow().spans.early
    0.2
    """

    spans: Spans = field(default_factory=lambda: FromStarts(UShaped(4.0)))
    distance: Distance = field(default_factory=lambda: AdaptivePower(power=0.5, floor=0.01))


@dataclass(frozen=True)
class AlphaFlow(FlowMapMatching):
    """alpha-Flow: from flow matching on trajectories to MeanFlow, by a step that becomes shorter.

    the identity Stepped with a share that falls from 1 to 0.005 by a sigmoid over the training
    It needs no derivative of the network.
    Source: Zhang et al. 2025, alpha-Flow (arXiv 2510.20771).

    >>> AlphaFlow().identity.split.last
    0.005
    """

    identity: Identity = field(default_factory=lambda: Stepped(SigmoidFalling()))
    spans: Spans = field(default_factory=lambda: Ordered(LogitNormal(0.4), LogitNormal(0.4), diagonal=0.25))
    distance: Distance = field(default_factory=AdaptivePower)


@dataclass(frozen=True)
class SoFlow(FlowMapMatching):
    """SoFlow: the identity Stepped with a share that falls from 1/10 to 1/500, for any pair of times.

    E |u(x_t, t, s) - sg(v + (1 - a)/a (u(x_m, m, s) - u(x_t, t, s)))|^2,  m = t + a (s - t)
    Source: Luo et al. 2025, SoFlow (arXiv 2512.15657).

    >>> SoFlow().identity.split
    Falling(first=0.1, last=0.002)
    """

    identity: Identity = field(default_factory=lambda: Stepped(Falling()))
    spans: Spans = field(default_factory=lambda: Ordered(diagonal=0.25))
    distance: Distance = field(default_factory=lambda: AdaptivePower(power=0.5, floor=0.01))


@dataclass(frozen=True)
class SplitMeanFlow(FlowMapMatching):
    """SplitMeanFlow: the semigroup identity at a random division, with the velocity on the diagonal.

    E |u(x_t, t, s) - sg(a u(x_t, t, m) + (1 - a) u(X_m, m, s))|^2,  m = t + a (s - t)
    It needs no derivative of the network.
    Source: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884).

    >>> SplitMeanFlow().spans.diagonal
    0.5
    """

    identity: Identity = field(default_factory=Semigroup)
    spans: Spans = field(default_factory=lambda: Ordered(diagonal=0.5))


@dataclass(frozen=True)
class Shortcut(FlowMapMatching):
    """Shortcut models: a jump is two jumps of half its length, for lengths 1, 1/2, 1/4, ...

    E |u(x_t, t, s) - sg(u(x_t, t, m) + u(X_m, m, s)) / 2|^2,  m = (t + s) / 2,  and the velocity on the diagonal
    Sample in 1, 2, 4, ... equal steps.
    Source: Frans et al. 2024, "One Step Diffusion via Shortcut Models" (arXiv 2410.12557).

    >>> Shortcut().spans.levels
    7
    """

    identity: Identity = field(default_factory=lambda: Semigroup(Between(0.5, 0.5)))
    spans: Spans = field(default_factory=Dyadic)


@dataclass(frozen=True)
class Progressive(Shortcut):
    """Progressive distillation as a curriculum: the lengths of the jumps double in the course of one training.

    the identity of Shortcut with the lengths of Dyadic(rounds=True)
    Every round learns two jumps of the one before in one, by the same network.
    Source: Salimans and Ho 2022, "Progressive Distillation" (arXiv 2202.00512).

    >>> Progressive().spans.rounds
    True
    """

    spans: Spans = field(default_factory=lambda: Dyadic(6, rounds=True, diagonal=0.25))


@dataclass(frozen=True)
class AlignYourFlow(FlowMapMatching):
    """Align Your Flow, Eulerian: normalised tangents, a warm-up, and jumps of all lengths.

    the identity Eulerian with NormalisedTangent and the lengths of Gapped
    Its Lagrangian form is AlignYourFlow(identity=Lagrangian()), which needs a teacher.
    Source: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> AlignYourFlow().warmup
    0.1
    """

    spans: Spans = field(default_factory=Gapped)
    distance: Distance = field(default_factory=NormalisedTangent)
    warmup: Share = 0.1


@dataclass(frozen=True)
class LagrangianSelfDistillation(FlowMapMatching):
    """Lagrangian self-distillation: the end of a jump moves with the velocity that the diagonal has learned.

    E |d/ds X(x_t, t, s) - sg u(X, s, s)|^2,  X = x + (s - t) u(x, t, s),  and flow matching on the diagonal
    The gradient passes through the derivative.  Jumps grow during the first half of the training, because a diagonal
    that is not trained yet may lead long ones ever further away.
    Source: Boffi, Albergo and Vanden-Eijnden 2025, "How to Build a Consistency Model" (arXiv 2505.18825).

    >>> LagrangianSelfDistillation().identity.through
    True
    """

    identity: Identity = field(default_factory=lambda: Lagrangian(OwnDiagonal(), through=True))
    spans: Spans = field(default_factory=lambda: Ordered(diagonal=0.5))
    growth: Share = 0.5


@dataclass(frozen=True)
class TerminalVelocity(LagrangianSelfDistillation):
    """Terminal velocity matching: Lagrangian self-distillation with logit-normal lengths and ends.

    E |u + (s - t) du/ds - sg u(X, s, s)|^2,  and flow matching on the diagonal
    Its network has bounded slopes in the paper; here the end of the jump is that of the trained weights, not of their
    average.
    Source: Zhou et al. 2025, "Terminal Velocity Matching" (arXiv 2511.19797).

    >>> TerminalVelocity().spans.gap
    LogitNormal(mean=-0.8, std=1.0)
    """

    spans: Spans = field(default_factory=lambda: Gapped(starts=LogitNormal(0.4), diagonal=0.5))
