"""Going on from a trained flow with an objective that needs it: windows, contrast, its own features, its guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Prediction, Schedule, TimeSampler
from beeline.core.protocols.training import Distillation
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.students import begins, copied, frozen, own_space
from beeline.fields.flow import Flow
from beeline.objectives.alignment import SelfPerceptual
from beeline.objectives.guided import Contrastive, ModelGuidance
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.matching import Drop, FlowMatching
from beeline.objectives.windows import Windowed
from beeline.paths.affine import AffinePath
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import process_of
from beeline.times.samplers import Uniform as Anywhere
from beeline.times.schedules import Uniform


class OnData(Distillation):
    """What these share: a copy of the teacher learns on the data themselves, and keeps its path and source."""

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return batch


@dataclass(frozen=True)
class PeRFlow(OnData):
    """Reflow window by window: noise and datum are constant inside each part of time, without stored pairs.

    the objective Windowed with the teacher, on its path;  drawn with one step in each window, by Euler on the straight
    path and by DDIM on curved ones
    Assumes an affine path that leaves the source with a slope; one window is reflow.  Errors count as those of Reflow.
    With the edges that the fit Bellman found as its ``schedule`` and ``times=At(0.0)`` it straightens the steps of that
    grid alone.  The student of a guided teacher is drawn without guidance.
    Source: Yan et al. 2024, PeRFlow (arXiv 2405.07510); curved paths: Wang et al. 2024, "Rectified Diffusion" (arXiv
    2410.07303), phased, with space=Data() and distance=Huber(0.001, each=True); the grid: Nguyen et al. 2024, "Bellman
    Optimal Stepsize Straightening of Flow-Matching Models" (arXiv 2312.16414), here from noised data.

    >>> PeRFlow(4).student(Flow(None), {"student": nn.Identity()})[1].steps
    4
    """

    windows: Count = 4  # parts of [0, 1]
    steps: Count = 4  # of the teacher inside a window, each two evaluations
    space: Prediction | None = None  # where errors count; None is the teacher's own
    distance: Distance = squared
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    schedule: Schedule = field(default_factory=Uniform)  # the edges of the windows
    times: TimeSampler = field(default_factory=Anywhere)  # places inside a window, 0 to 1; At(0.0) is its start alone

    def objective(self, teacher: Flow) -> Windowed:
        require(
            isinstance(teacher.path, AffinePath) and begins(teacher.path),
            f"PeRFlow was given a teacher on {teacher.path}; a step of a window needs an affine path whose slope at "
            "t = 0 says where it goes: convert the teacher with convert_flow(flow, Linear())",
        )
        space = self.space or own_space(teacher)
        inner = FlowMatching(teacher.path, times=self.times, prediction=space, distance=self.distance)
        return Windowed(
            teacher, self.windows, self.steps, objective=inner, guidance=self.guidance, schedule=self.schedule
        )

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        solver = process_of(flow).adapt_solver(frozen(teacher.path))
        return flow, Sampler(self.windows, schedule=self.schedule, solver=solver)


@dataclass(frozen=True)
class ContrastTuned(OnData):
    """A conditional model moved towards its conditions by contrast, so that it needs no guidance.

    the objective Contrastive with the teacher as reference
    Assumes a conditional teacher; a hundredth of its training is enough.
    Source: Chen, Su and Zhu 2024 (arXiv 2410.09347).

    >>> ContrastTuned().objective(Flow("teacher")).reference
    'teacher'
    """

    strength: NonNegative = 1.0  # per squared data unit and coordinate
    push: NonNegative = 0.2  # weight of the wrong conditions
    steps: Count = 20  # of the student's own sampler

    def objective(self, teacher: Flow) -> Contrastive:
        return Contrastive(FlowMatching(teacher.path), teacher.field, self.strength, self.push)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"], independent=False), Sampler(self.steps)


@dataclass(frozen=True)
class FeatureTuned(OnData):
    """A model tuned by what its own frozen copy sees in its predictions.

    the objective SelfPerceptual with the teacher as the frozen copy
    Assumes an affine path and the name of a block of the network.
    Source: Lin and Yang 2024 (arXiv 2401.00110).

    >>> FeatureTuned("backbone.block.1").plain
    0.1
    """

    block: str  # the module whose output is compared, by its name in the network
    plain: NonNegative = 0.1  # weight of the squared error beside it
    steps: Count = 20  # of the student's own sampler

    def objective(self, teacher: Flow) -> SelfPerceptual:
        return SelfPerceptual(FlowMatching(teacher.path), copied(teacher), self.block, self.plain)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"]), Sampler(self.steps)


@dataclass(frozen=True)
class GuidanceTuned(OnData):
    """A conditional model that learns its own guidance, so that one pass a step is enough.

    the objective ModelGuidance, started from the teacher
    Assumes a teacher that knows the null condition.
    Source: Tang et al. 2025 (arXiv 2502.12154).

    >>> GuidanceTuned().scale
    1.5
    """

    scale: NonNegative = 1.5  # of the guidance that is learned
    null: Any = None  # what stands for no condition, as the teacher learned it; None is that of its network
    drop: Share = 0.1  # share of conditions dropped, 0 to 1
    steps: Count = 20  # of the student's own sampler

    def objective(self, teacher: Flow) -> ModelGuidance:
        return ModelGuidance(FlowMatching(teacher.path, drop=Drop(self.drop, self.null)), scale=self.scale)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        # the learned field is guided, so it is no longer that of the path: it has no score
        return replace(teacher, field=networks["student"], independent=False), Sampler(self.steps)
