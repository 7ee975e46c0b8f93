"""Finetuning of a trained flow: piecewise reflow, contrast, its own features, its own guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Guidance, Prediction, Schedule, TimeSampler
from beeline.core.protocols.training import Distillation, Fit
from beeline.core.ranges import Count, NonNegative, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, map_cond, take
from beeline.distillation.fit_solver import Problem
from beeline.distillation.pairs import starts
from beeline.distillation.students import copied, determines_end, error_space, straight_solver
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
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

FITTED, FINE = 128, 50  # source points, and steps to their ends, for a fit of the edges of windows


class OnData(Distillation):
    """Base of methods that train a copy of the teacher on its data, with the same path and source."""

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return batch


class Tuned(OnData):
    """Base of methods whose student samples in ``steps`` steps of the default solver."""

    steps: int

    def for_evaluations(self, evaluations: int) -> Any:
        each = Sampler(1).evaluations
        assert each is not None
        require(
            evaluations >= each and evaluations % each == 0,
            f"{type(self).__name__} got {evaluations} evaluations; its student takes steps of {each} evaluations: give "
            f"a multiple of {each}",
        )
        return replace(self, steps=evaluations // each)  # type: ignore[type-var]


@dataclass(frozen=True)
class PeRFlow(OnData):
    """Piecewise rectified flow: reflow in windows of time, without stored pairs.

    the objective Windowed with the teacher, on its path;  sampled with one step in each window, by Euler on the
    straight path and by DDIM on curved ones
    Assumes an affine path whose slope at t = 0 depends on the datum; one window is reflow.  Errors are measured as in
    Reflow.  With ``fit=Bellman()`` and ``times=At(0.0)`` it straightens only the steps of the grid that the fit finds
    for the teacher; BellmanReflow is that preset.  The student of a guided teacher samples without guidance.
    Source: Yan et al. 2024, PeRFlow (arXiv 2405.07510); curved paths: Wang et al. 2024, "Rectified Diffusion" (arXiv
    2410.07303), phased, with space=Data() and distance=Huber(0.001, each=True); the grid: Nguyen et al. 2024, "Bellman
    Optimal Stepsize Straightening of Flow-Matching Models" (arXiv 2312.16414), here from noised data.

    >>> PeRFlow(4).student(Flow(None), {"student": nn.Identity()})[1].steps
    4
    """

    windows: Count = 4  # parts of [0, 1]
    steps: Count = 4  # of the teacher inside a window, each two evaluations
    space: Prediction | None = None  # of the errors; None is that of the teacher
    distance: Distance = squared
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    schedule: Schedule = field(default_factory=Uniform)  # the edges of the windows
    times: TimeSampler = field(default_factory=Anywhere)  # positions in a window, 0 to 1; At(0.0) is its start
    fit: Fit | None = None  # finds the edges for the teacher before the training, such as Bellman()

    def fitted(self, teacher: Flow, batch: Batch, rng: Rng) -> PeRFlow:
        if self.fit is None:
            return self
        some = take(batch, rng.fork("rows").permutation(len(batch.x1))[:FITTED].to(batch.x1.device))
        x0 = starts(teacher, range(len(some.x1)), rng.fork("noise"), some.x1[:1])
        cond = map_cond(lambda leaf: leaf.to(x0.device), some.cond)
        with eval_mode(teacher.field):
            x1 = Sampler(FINE, guidance=self.guidance)(teacher, x0, cond)
            problem = Problem(teacher, self.guidance, x0, x1, cond)
            schedule, _ = self.fit(problem, self.windows, rng.fork("fit"))
        return replace(self, schedule=schedule, fit=None)

    def objective(self, teacher: Flow) -> Windowed:
        require(
            isinstance(teacher.path, AffinePath) and determines_end(teacher.path),
            f"PeRFlow got a teacher on {teacher.path}; a step over a window needs an affine path whose slope at t = 0 "
            "depends on the datum: convert the teacher with convert_flow(flow, Linear())",
        )
        space = self.space or error_space(teacher)
        inner = FlowMatching(teacher.path, times=self.times, prediction=space, distance=self.distance)
        return Windowed(
            teacher, self.windows, self.steps, objective=inner, guidance=self.guidance, schedule=self.schedule
        )

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        solver = process_of(flow).adapt_solver(straight_solver(teacher.path))
        return flow, Sampler(self.windows, schedule=self.schedule, solver=solver)

    def trained(self, sampler: Sampler) -> Trained | None:
        return Trained(tuple(sampler.times().tolist()), inside=isinstance(self.times, Anywhere))

    def taught(self, sampler: Sampler) -> Sampler:
        return replace(sampler, guidance=self.guidance)

    def for_evaluations(self, evaluations: int) -> PeRFlow:
        return replace(self, windows=evaluations)


@dataclass(frozen=True)
class ContrastTuned(Tuned):
    """Contrastive finetuning of a conditional model, so that it needs no guidance.

    the objective Contrastive with the teacher as reference
    Assumes a conditional teacher.  About 1% of the steps of its training are enough.
    Source: Chen, Su and Zhu 2024 (arXiv 2410.09347).

    >>> ContrastTuned().objective(Flow("teacher")).reference
    'teacher'
    """

    strength: NonNegative = 1.0  # per squared data unit and coordinate
    push: NonNegative = 0.2  # weight of the wrong conditions
    steps: Count = 20  # of the sampler of the student

    def objective(self, teacher: Flow) -> Contrastive:
        return Contrastive(FlowMatching(teacher.path), teacher.field, self.strength, self.push)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"], independent=False), Sampler(self.steps)


@dataclass(frozen=True)
class FeatureTuned(Tuned):
    """Finetuning with a perceptual loss on the features of a frozen copy of the model.

    the objective SelfPerceptual with the teacher as the frozen copy
    Assumes an affine path and the name of a block of the network.
    Source: Lin and Yang 2024 (arXiv 2401.00110).

    >>> FeatureTuned("backbone.block.1").plain
    0.1
    """

    block: str  # name of the module whose output is compared
    plain: NonNegative = 0.1  # weight of the squared error
    steps: Count = 20  # of the sampler of the student

    def objective(self, teacher: Flow) -> SelfPerceptual:
        return SelfPerceptual(FlowMatching(teacher.path), copied(teacher), self.block, self.plain)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"]), Sampler(self.steps)


@dataclass(frozen=True)
class GuidanceTuned(Tuned):
    """Finetuning of a conditional model to its own guidance, so that sampling needs one network pass per evaluation.

    the objective ModelGuidance, started from the teacher
    Assumes a teacher that was trained with condition dropout.
    Source: Tang et al. 2025 (arXiv 2502.12154).

    >>> GuidanceTuned().scale
    1.5
    """

    scale: NonNegative = 1.5  # of the learned guidance
    null: Any = None  # the null condition that the teacher learned; None is that of its network
    drop: Share = 0.1  # share of conditions dropped, 0 to 1
    steps: Count = 20  # of the sampler of the student

    def objective(self, teacher: Flow) -> ModelGuidance:
        return ModelGuidance(FlowMatching(teacher.path, drop=Drop(self.drop, self.null)), scale=self.scale)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        # the learned field is guided, so it has no score
        return replace(teacher, field=networks["student"], independent=False), Sampler(self.steps)
