"""Reflow and one-step distillation: student flows from the pairs of a teacher flow."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.flows import Coupling, Path, Prediction, Solver, TimeSampler
from beeline.core.protocols.training import Cost, Microbatches
from beeline.core.ranges import Count, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Paired
from beeline.couplings.sources import Gaussian
from beeline.distillation.paired import PairMethod
from beeline.distillation.pairs import AnnealedPairs
from beeline.fields.flow import Data, Flow, Network, Velocity
from beeline.fields.prediction import Boundary
from beeline.fields.trained import Trained
from beeline.networks.maps.spans import spanned
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.losses.distances import Bregman
from beeline.objectives.matching import FlowMatching
from beeline.objectives.second_order import Potential
from beeline.objectives.tables import RowMatching, columns_of
from beeline.objectives.windows import TwoHops
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import DPMSolver
from beeline.solvers.process import process_of, require_ode
from beeline.solvers.runge_kutta import EULER
from beeline.times.samplers import At, Uniform


@dataclass(frozen=True)
class Reflow(PairMethod):
    """Reflow: flow matching on pairs of the teacher, whose trajectories become straight.

    x0 ~ source, x1 = sampler(teacher, x0);  min E |v(x_t, t, cond) - (x1 - x0)|^2 on stored pairs
    On a curved path, or with a network that predicts noise or data, path and prediction are those of the teacher:
    errors are measured in the space of the prediction (of the datum for a velocity on a curved path), and the student
    samples with DDIM, which is exact for a flow with constant noise and datum along its trajectories.  With ``anneal``
    the sources of microbatch n are sqrt(1 - blend^2) x0 + blend noise, blend = max(0, 1 - n / anneal), so that a new
    network first learns the flow itself.  With a convex ``cost`` the student is the gradient of a potential: its rounds
    decrease E cost(x1 - x0), and converge to the optimal transport for it.
    Assumes pairs of an ODE from a fine sampler, whose errors are learned.  The student has no score, because its
    coupling is not independent.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003); curved paths and noise: Wang et al. 2024, "Rectified Diffusion"
    (arXiv 2410.07303), with space=Data() and distance=Huber(0.001, each=True); annealing, for smaller students: Zhu et
    al. 2024, SlimFlow (arXiv 2407.12718); costs: Liu 2022 (arXiv 2209.14577).

    >>> Reflow(Sampler(8)).student(Flow(None), {"student": nn.Identity()})[0].independent
    False
    """

    automatic: ClassVar[bool] = True

    coupling: Coupling = field(
        default_factory=Paired
    )  # of the pairs; Annealed(0.5) mixes fresh noise into their sources
    times: TimeSampler = field(default_factory=Uniform)  # UShaped has more at both ends, where reflow is hardest
    distance: Distance = squared
    steps: Count = 4  # of the sampler of the student
    space: Prediction | None = None  # of the errors; None is that of the teacher
    anneal: int = 0  # microbatches over which fresh noise is replaced by the sources of the pairs; 0 for none
    rounds: Count = field(default=1, kw_only=True)  # each with the student of the one before as its teacher
    solver: Solver | None = field(default=None, kw_only=True)  # of the student; None is exact for constant ends
    cost: Cost | None = field(default=None, kw_only=True)  # for a field that is the gradient of a potential

    def __post_init__(self) -> None:
        require(
            self.anneal >= 0,
            f"Reflow got anneal={self.anneal}; it is a number of microbatches: give 0 for none, or half of the run",
        )
        super().__post_init__()

    def next_round(self) -> PairMethod:
        return replace(super().next_round(), anneal=0)  # type: ignore[call-arg]  # its network is a trained one

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        student = copied(teacher)
        bound = self.cost is None or isinstance(student, Potential)
        return {"student": student if bound else Potential(student, self.cost)}

    def feed(self, teacher: Flow, data: Any, rng: Rng) -> Batch | Microbatches:
        if not self.anneal:
            return data  # type: ignore[no-any-return]
        require(
            isinstance(teacher.source, Gaussian),
            f"Reflow got anneal={self.anneal} and a teacher from {type(teacher.source).__name__}; a mixture with fresh "
            "noise has the distribution of the source only if that is Gaussian: leave anneal at 0",
        )
        return AnnealedPairs(data, rng, self.anneal)

    def objective(self, teacher: Flow) -> FlowMatching:
        if self.cost is not None:
            require(
                isinstance(teacher.path, Linear) and self.distance is squared,
                f"Reflow got the cost {self.cost}, a teacher on {teacher.path} and the distance {self.distance}; the "
                "velocity is the gradient of a potential on the straight path only, with the distance of the cost: "
                "leave the distance out, and convert the teacher with convert_flow(flow, Linear())",
            )
            return pair_objective(teacher, self.coupling, self.times, Bregman(self.cost), Velocity())
        space = self.space or error_space(teacher)
        return pair_objective(teacher, self.coupling, self.times, self.distance, space)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        solver = self.solver or straight_solver(teacher.path)
        return flow, Sampler(self.steps, solver=process_of(flow).adapt_solver(solver))

    def for_evaluations(self, evaluations: int) -> Reflow:
        return replace(self, steps=evaluations)


@dataclass(frozen=True)
class OneStep(PairMethod):
    """One-step distillation: one evaluation maps a source point to a datum.

    min E |x0 + v(x0, 0, cond) - x1|^2 on pairs of the teacher: reflow with all times at 0, errors of the datum
    Assumes pairs of an ODE on a path with x_0 = x0; a straight teacher is easier to distil.  On a curved path x0 + v is
    the data end that the velocity implies.  A noise prediction is divided by a(0), which amplifies its errors: train
    the teacher with Velocity() or Data().
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), distillation; Liu et al. 2023, InstaFlow (arXiv 2309.06380).

    >>> OneStep().student(Flow(None), {"student": nn.Identity()})[1].evaluations
    1
    """

    automatic: ClassVar[bool] = True

    distance: Distance = squared
    hops: NonNegative = 0.0  # weight of two steps of the teacher from fresh noise, as in TwoHops; 1 is usual

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}

    def objective(self, teacher: Flow) -> FlowMatching | TwoHops:
        require(
            not isinstance(teacher.path, AffinePath) or determines_end(teacher.path),
            f"OneStep got a teacher on {teacher.path}, whose slope at t = 0 does not depend on the datum; convert the "
            "teacher with convert_flow(flow, Linear())",
        )
        space = Data() if isinstance(teacher.path, AffinePath) else Velocity()
        pairs = pair_objective(teacher, Paired(), At(0.0), self.distance, space)
        return TwoHops(teacher, pairs, self.hops) if self.hops else pairs

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        flow = replace(teacher, field=networks["student"], independent=False)
        return flow, Sampler(1, solver=process_of(flow).adapt_solver(straight_solver(teacher.path)))

    def trained(self, sampler: Sampler) -> Trained | None:
        return Trained(tuple(sampler.times().tolist()))

    def for_evaluations(self, evaluations: int) -> OneStep:
        require(
            evaluations == 1,
            f"OneStep got {evaluations} evaluations; its student has one: use ParallelDecoding, PeRFlow or Reflow",
        )
        return self


def as_student_map(teacher: Flow) -> nn.Module:
    """The network of a teacher as a flow map, for a student; equal to the teacher for every jump at first."""
    return spanned(copied(teacher)).requires_grad_(True)


def copied(teacher: Flow) -> nn.Module:
    """A copy of the network of a teacher, for a student."""
    require(
        isinstance(teacher.field, nn.Module),
        f"the field of the teacher is a {type(teacher.field).__name__}, not a network; a student starts from a copy of "
        "it: give a flow with a network, or call fit(...) with your own networks",
    )
    require_ode(teacher, "a student")
    networks = (m for m in teacher.field.modules() if isinstance(m, Network))
    require(
        not any(isinstance(m.prediction, Boundary) for m in networks),
        "the network of the teacher has the prediction Boundary; the ends that it fixes are wrong for pairs: train the "
        "teacher with Velocity()",
    )
    student: nn.Module = copy.deepcopy(teacher.field)
    student.requires_grad_(True)
    return student


def error_space(teacher: Flow) -> Prediction:
    """The space of a student's errors: the prediction of its teacher, or Data() for a velocity on a curved path."""
    modules = teacher.field.modules() if isinstance(teacher.field, nn.Module) else ()
    prediction = next((m.prediction for m in modules if isinstance(m, Network)), Velocity())
    curved = isinstance(teacher.path, AffinePath) and not isinstance(teacher.path, Linear)
    return Data() if curved and isinstance(prediction, Velocity) else prediction


def straight_solver(path: Path) -> Solver:
    """The solver that is exact for constant ends along a trajectory: Euler on the straight path, DDIM on others."""
    if isinstance(path, Linear) or not isinstance(path, AffinePath) or not determines_end(path):
        return EULER
    return DPMSolver(1, path)


def determines_end(path: AffinePath) -> bool:
    """Whether a velocity at t = 0 determines the data end; it does not where the slope of a is zero there."""
    a, b, da, db = path.coefficients(torch.zeros((), dtype=torch.float64))
    return bool(a * db != b * da)


def pair_objective(
    teacher: Flow, coupling: Coupling, times: TimeSampler, distance: Distance, space: Prediction
) -> FlowMatching:
    """The objective of a student on pairs; that of tables for a network that declares columns."""
    if columns_of(teacher.field) is None:
        return FlowMatching(teacher.path, coupling, times, space, distance=distance)
    require(
        distance is squared,
        f"the student of a network for tables got the distance {distance}; its errors are squared errors of numbers "
        "and cross-entropies of categories: leave the distance out",
    )
    return RowMatching(
        teacher.path, coupling, times, distance=distance, known=0.0
    )  # the pairs have known cells already
