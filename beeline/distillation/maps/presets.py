"""Distillations to flow maps of the literature, as settings of FlowMapDistillation.

Jumps have all lengths equally often, in place of the times of the papers: long ones, on which samples in few steps
depend, are rare among two sorted times.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from beeline.core.ranges import dataclass
from beeline.distillation.maps.flow_maps import FlowMapDistillation, OneJump, even
from beeline.objectives.maps import consistency, presets
from beeline.objectives.maps.identities import Lagrangian
from beeline.objectives.maps.matching import FlowMapMatching


@dataclass(frozen=True)
class MeanFlow(FlowMapDistillation):
    """Distillation by the identity of MeanFlow, with the velocities of the teacher.

    the objective MeanFlow with jumps of all lengths equally often;  sampled with FlowMapStep
    Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling" (arXiv 2505.13447); from a teacher: Sabour,
    Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> MeanFlow().evaluations
    1
    """

    automatic: ClassVar[bool] = True

    matching: FlowMapMatching = field(default_factory=lambda: presets.MeanFlow(spans=even()))


@dataclass(frozen=True)
class ImprovedMeanFlow(FlowMapDistillation):
    """Distillation by improved MeanFlow, whose derivative is taken along the map's own velocity.

    the objective ImprovedMeanFlow;  sampled with FlowMapStep
    Source: Geng et al. 2025, "Improved Mean Flows" (arXiv 2512.02012).

    >>> ImprovedMeanFlow().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.ImprovedMeanFlow(spans=even()))


@dataclass(frozen=True)
class AlphaFlow(FlowMapDistillation):
    """Distillation by alpha-Flow, which needs no derivative of the network.

    the objective AlphaFlow;  sampled with FlowMapStep
    Source: Zhang et al. 2025, alpha-Flow (arXiv 2510.20771).

    >>> AlphaFlow().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.AlphaFlow(spans=even()))


@dataclass(frozen=True)
class SoFlow(FlowMapDistillation):
    """Distillation by SoFlow, which needs no derivative of the network.

    the objective SoFlow;  sampled with FlowMapStep
    Source: Luo et al. 2025, SoFlow (arXiv 2512.15657).

    >>> SoFlow().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.SoFlow(spans=even()))


@dataclass(frozen=True)
class SplitMeanFlow(FlowMapDistillation):
    """Distillation by the semigroup identity at random divisions.

    the objective SplitMeanFlow;  sampled with FlowMapStep
    Source: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884).

    >>> SplitMeanFlow().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.SplitMeanFlow(spans=even()))


@dataclass(frozen=True)
class Shortcut(FlowMapDistillation):
    """Distillation to a shortcut model, in which a jump is two of half its length.

    the objective Shortcut;  sampled with FlowMapStep, in 1, 2, 4, ... steps
    Source: Frans et al. 2024, "One Step Diffusion via Shortcut Models" (arXiv 2410.12557).

    >>> Shortcut().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=presets.Shortcut)


@dataclass(frozen=True)
class Progressive(FlowMapDistillation):
    """Progressive distillation: the lengths of the jumps double in the course of one training.

    the objective Progressive;  sampled with FlowMapStep, in 1, 2, 4, ... steps
    Source: Salimans and Ho 2022, "Progressive Distillation" (arXiv 2202.00512); of guided teachers: Meng et al. 2023
    (arXiv 2210.03142), second stage.

    >>> Progressive().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=presets.Progressive)


@dataclass(frozen=True)
class AlignYourFlow(FlowMapDistillation):
    """Align Your Flow: Eulerian distillation with normalised tangents and a warm-up.

    the objective AlignYourFlow;  sampled with FlowMapStep
    Autoguidance is guidance=Guide(Weak(network), Extrapolate(2.0)).
    Source: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> AlignYourFlow().evaluations
    1
    """

    automatic: ClassVar[bool] = True

    matching: FlowMapMatching = field(default_factory=lambda: presets.AlignYourFlow(spans=even()))


@dataclass(frozen=True)
class AlignYourFlowLagrangian(FlowMapDistillation):
    """Align Your Flow, Lagrangian: the end of a jump moves with the velocity of the teacher.

    the objective AlignYourFlow with the identity Lagrangian;  sampled with FlowMapStep
    Source: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> AlignYourFlowLagrangian().matching.identity
    Lagrangian(terminal=None, through=False)
    """

    matching: FlowMapMatching = field(
        default_factory=lambda: presets.AlignYourFlow(identity=Lagrangian(), spans=even())
    )


@dataclass(frozen=True)
class LagrangianSelfDistillation(FlowMapDistillation):
    """Lagrangian self-distillation that starts from a teacher, whose velocities are those of the diagonal.

    the objective LagrangianSelfDistillation;  sampled with FlowMapStep
    Source: Boffi, Albergo and Vanden-Eijnden 2025, "How to Build a Consistency Model" (arXiv 2505.18825).

    >>> LagrangianSelfDistillation().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.LagrangianSelfDistillation(spans=even()))


@dataclass(frozen=True)
class TerminalVelocity(FlowMapDistillation):
    """Terminal velocity matching that starts from a teacher, whose velocities are those of the diagonal.

    the objective TerminalVelocity;  sampled with FlowMapStep
    Source: Zhou et al. 2025, "Terminal Velocity Matching" (arXiv 2511.19797).

    >>> TerminalVelocity().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=lambda: presets.TerminalVelocity(spans=even()))


@dataclass(frozen=True)
class Bootstrapping(OneJump):
    """BOOT: data-free distillation of the trajectories of noises.

    the objective Bootstrapping;  sampled in one step
    The data are used for their number, shape and conditions alone.
    Source: Gu et al. 2023, "BOOT" (arXiv 2306.05544).

    >>> Bootstrapping().evaluations
    1
    """

    matching: FlowMapMatching = field(default_factory=consistency.Bootstrapping)
