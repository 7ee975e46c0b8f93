"""Checks of a teacher before any work of a distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from beeline.core.declared import is_map
from beeline.core.errors import BeelineError, require
from beeline.core.modes import device_of, eval_mode
from beeline.core.protocols.training import Distillation
from beeline.core.rng import Rng
from beeline.core.types import Batch, take, to
from beeline.distillation.paired import PairMethod
from beeline.evaluation.heldout import HeldOut
from beeline.objectives.games.distance import SampleDistance
from beeline.objectives.matching import FlowMatching
from beeline.paths.affine import AffinePath
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode

if TYPE_CHECKING:  # a run imports this module
    from beeline.runs.run import Distilled

PROBED = 256  # held-out data
HELDOUT = 512  # data of the held-out loss of a student


def check_teacher(teacher: Bundle, method: Distillation, held: Batch, name: str) -> None:
    """Refuse a teacher from which a method cannot learn; ``held`` are its held-out data, encoded, ``name`` its place.

    Raises BeelineError for a student that can only be evaluated at fixed times, for guidance that the teacher does not
    have, and for a network of another origin whose velocities do not fit its data.
    """
    flow, kind = teacher.flow, type(method).__name__
    require(
        flow.trained is None or not flow.trained.fixed or isinstance(method, PairMethod),
        f"the teacher {name} is a student that was trained for the times {flow.trained and flow.trained.text()} alone, "
        f"and {kind} evaluates its teacher at all times: distil the teacher of that student, or take pairs of it by "
        "Reflow or OneStep with its sampler",
    )
    some = to(take(held, torch.arange(min(2, len(held.x1)))), device_of(flow) or held.x1.device)
    guidance = method.taught(Sampler()).guidance
    if not isinstance(guidance, Plain):
        t = some.x1.new_full((len(some.x1),), 0.5)
        try:
            with eval_mode(flow.field, guidance):
                guidance_for_flow(guidance, flow)(flow.field, some.cond)(some.x1, t)
        except BeelineError as error:
            raise BeelineError(f"{kind} asks the teacher {name} for guidance that it does not have: {error}") from error
    if "made_by" not in teacher.lineage:
        check_convention(teacher, held, name)


def heldout_of_student(
    run: Distilled, method: Distillation, networks: Any, parts: tuple[Bundle, Any, Batch, Batch, Batch], rng: Rng
) -> HeldOut:
    """The held-out loss of a student, or the distance of its samples from held-out data where that decides.

    ``parts``: the teacher, the objective, the data of the held-out loss, the held-out data and the training data.
    """
    teacher, objective, unseen, held, train = parts
    stopping = run.training.early_stopping
    every = 500 if stopping is None else stopping.every
    if run.by_samples or (run.by_samples is None and method.by_samples):
        flow, sampler = method.student(teacher.flow, networks)
        objective, unseen = SampleDistance(flow, sampler), take(held, torch.arange(min(len(held.x1), HELDOUT)))
    return HeldOut(objective, unseen, train=train, rng=rng, every=every)


def check_convention(teacher: Bundle, held: Batch, name: str) -> None:
    """Refuse a network of another origin that predicts the velocities of its data worse than their mean does.

    Nothing is checked where velocities of pairs are not the target of the flow: other couplings, sources and maps.
    """
    flow = teacher.flow
    plain = isinstance(flow.path, AffinePath) and flow.independent and flow.source.gaussian
    if not plain or is_map(flow.field) or not is_ode(flow) or len(held.x1) < 2:
        return
    objective = FlowMatching(flow.path)
    found = HeldOut(objective, held, train=held, rng=Rng(0).fork("convention"), max_data=PROBED, max_train=0)(
        flow.field
    )
    known = [v for v in found.mean or [] if v == v]
    mean = sum(known) / max(1, len(known))
    require(
        found.mean is None or found.value < mean,
        f"the teacher {name} does not say how it was trained, and its velocities do not fit its data: their error is "
        f"{found.value:.3g}, that of the mean of the data {mean:.3g}; its path, prediction or direction of time is "
        "probably another one: find it with 'beeline probe' (bl.hub.probe), and build the flow with that",
    )
