"""Bundles of pretrained pipelines of diffusers."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from beeline.config import build
from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import Schedule, Solver
from beeline.data.pretrained import Prompted
from beeline.fields.flow import Flow
from beeline.networks.hub.checkpoint_schedule import CheckpointSchedule
from beeline.networks.hub.diffusion import Diffused, DiffusionSchedule
from beeline.networks.hub.families import family_of
from beeline.networks.hub.family import Family, field_of, whole_noise_level
from beeline.paths.affine import AffinePath, Linear
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Guide, Plain, Unconditional
from beeline.sampling.guidance.references.negative import Negative
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import DPMSolver, UniPC
from beeline.solvers.runge_kutta import EULER, FlowMapStep

SOLVERS: dict[str, tuple[Solver, bool]] = {
    "FlowMatchEulerDiscreteScheduler": (EULER, False),
    "FlowMapEulerDiscreteScheduler": (EULER, False),
    "DPMSolverMultistepScheduler": (DPMSolver(2), True),
    "UniPCMultistepScheduler": (UniPC(2), True),
}
"""Class of scheduler -> its solver, and whether it passes whole-number times to the network."""


def from_pipeline(
    pipeline: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    max_sequence_length: int | None = None,
    family: Family | None = None,
) -> Bundle:
    """A pipeline of diffusers as a bundle: its network as a flow, its schedule, solver and guidance as the sampler.

    ``height`` and ``width`` are in pixels, ``num_frames`` in frames, ``max_sequence_length`` of a prompt in tokens; the
    defaults are those of the pipeline.  The components are shared with the pipeline, not copied.

    Raises ValueError for a pipeline of an unknown family, an unknown scheduler, or a size that the network cannot take.
    """
    family = family or family_of(pipeline)
    if max_sequence_length is not None:
        family = replace(family, prompt=family.prompt.with_length(pipeline, max_sequence_length))
    defaults = call_defaults(pipeline)
    size = size_of(family, pipeline, height, width, num_frames, defaults)
    made = (as_diffusion if family.diffusion else as_flow)(pipeline, family, family.tokens(size))
    scale = (family.own_scale(pipeline) or defaults.get(family.scale_argument) or 1.0) + family.scale_offset
    guidance: Any = Plain()
    if family.rule is not None and scale != 1.0:
        guidance = Guide(Unconditional(), build.build({**family.rule, "scale": scale}))
    sampler = Sampler(defaults["num_inference_steps"], made.schedule, made.solver, guidance)
    embedded = defaults.get(family.embedded_argument) if family.embedded is not None else None
    modality = Prompted(pipeline, family, size, isinstance(guidance, Guide), embedded)
    flow = Flow(made.field, made.path, null=Negative() if family.rule else {})
    return Bundle(flow, sampler, modality, {"pipeline": type(pipeline).__name__, "family": family.name})


class Scheme(NamedTuple):
    """What the network and the scheduler of a pipeline are here."""

    field: nn.Module
    path: AffinePath
    schedule: Schedule
    solver: Solver


def as_flow(pipeline: Any, family: Family, tokens: int) -> Scheme:
    """The scheme of a network that was trained on the straight path."""
    name = type(pipeline.scheduler).__name__
    require(
        name in SOLVERS,
        f"the pipeline has the scheduler {name}, whose solver is unknown; set one of {', '.join(SOLVERS)} with "
        "pipeline.scheduler = ...",
    )
    solver, whole = SOLVERS[name]
    field = field_of(pipeline, family, whole_noise_level if whole else None)
    config = {**pipeline.scheduler.config, **family.schedule_config(pipeline)}
    schedule = CheckpointSchedule(family.name, name, config, tokens)
    return Scheme(field, Linear(), schedule, FlowMapStep() if is_map(field) else solver)


def as_diffusion(pipeline: Any, family: Family, tokens: int) -> Scheme:
    """The scheme of a network that was trained as a diffusion with discrete times."""
    schedule = DiffusionSchedule(type(pipeline.scheduler).__name__, dict(pipeline.scheduler.config))
    field = Diffused(family.network(pipeline).eval(), family, family.settings(pipeline), pipeline.scheduler)
    return Scheme(field, field.path, schedule, DPMSolver(schedule.order, field.path))


def call_defaults(pipeline: Any) -> dict[str, Any]:
    """The defaults of the arguments of a pipeline's call, by name."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def resized(bundle: Bundle, height: int, width: int, num_frames: int | None = None) -> Bundle:
    """The bundle for samples of another size, with the schedule for that size."""
    assert isinstance(bundle.modality, Prompted)
    pipeline, family = bundle.modality.pipeline, bundle.modality.family
    made = from_pipeline(pipeline, height=height, width=width, num_frames=num_frames, family=family)
    return replace(bundle, modality=made.modality, sampler=replace(bundle.sampler, schedule=made.sampler.schedule))


def size_of(
    family: Family,
    pipeline: Any,
    height: int | None,
    width: int | None,
    num_frames: int | None,
    defaults: dict[str, Any],
) -> tuple[int, ...]:
    """The shape of one latent for a size in pixels, or for the pipeline's default size."""
    height, width = (
        given or defaults.get(name) or family.side(pipeline) for name, given in (("height", height), ("width", width))
    )
    return family.latent_shape(
        pipeline, height, width, num_frames or defaults.get("num_frames") or defaults.get("frames") or 1
    )
