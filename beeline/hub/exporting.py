"""Bundles in the formats of other programs: pipelines and components of diffusers, and ONNX graphs."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import unwritten
from beeline.data.pretrained import Prompted
from beeline.fields.flow import Network, Velocity
from beeline.hub.onnx_graphs import to_onnx
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.checkpoint_schedule import CheckpointSchedule
from beeline.networks.hub.diffusion import DiffusionSchedule
from beeline.networks.hub.dit import DiffusersDiT
from beeline.networks.hub.family import Experts, Family, Pretrained
from beeline.networks.hub.imports import diffusers
from beeline.paths.affine import Linear
from beeline.runs.bundle import Bundle
from beeline.runs.publishing import export_card

FITS = (
    "diffusers has no network of its structure: pipelines of the hub and their networks, and flows with "
    "network=DiffusersDiT, are written; save() writes any bundle for bl.load"
)

SCHEDULED = frozenset({"schedule"})


def export(bundle: Bundle, out: str | Path, to: str = "diffusers", *, license: str | None = None) -> dict[str, Any]:
    """Write a bundle to a new directory ``out`` in the format ``to``, with a model card; returns what was written.

    ``diffusers``: the whole pipeline of a bundle of a pipeline, with the present weights of its network; or, for a flow
    with network=DiffusersDiT, the transformer with a scheduler.
    ``onnx``: the graph of a sampler with one evaluation, from noise and conditions to encoded data.
    ``license``: its identifier on the hub, such as "mit".

    The directory appears when it is whole.  Raises BeelineError for a bundle that does not fit, before anything is
    written.
    """
    require(to in TARGETS, f"--to {to} was given; {nearest(to, TARGETS)}")
    out = Path(out)
    require(
        not out.exists() or (out.is_dir() and not any(out.iterdir())),
        f"{out} exists and is not empty; an export has a directory of its own: give another one",
    )
    staged = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        said = TARGETS[to](bundle, staged)
        card = export_card(bundle, out.resolve().name, said, license)
        (staged / "README.md").write_text(card, encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        staged.rename(out)
    except OSError as error:
        raise unwritten(out, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {"directory": str(out), **said}


def to_diffusers(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write a pipeline or a component."""
    field = bundle.flow.field
    if isinstance(bundle.modality, Prompted):
        return pipeline_to(bundle, out)
    if isinstance(field, Network) and isinstance(field.backbone, DiffusersDiT):
        require(
            isinstance(field.prediction, Velocity) and isinstance(bundle.flow.path, Linear),
            f"the flow predicts {type(field.prediction).__name__} on {type(bundle.flow.path).__name__}, but the "
            "scheduler beside the component takes velocities on the straight path; train with Velocity() and Linear()",
        )
        return component_to(field.backbone.net, out)
    if isinstance(field, Pretrained):
        return component_to(field.net, out)
    inside = field.backbone if isinstance(field, Network) else field
    raise BeelineError(f"the network of this bundle is a {type(inside).__name__}; {FITS}")


def component_to(net: Any, out: Path) -> dict[str, Any]:
    """Write a network and the scheduler of the straight path."""
    scheduler = diffusers("an export").FlowMatchEulerDiscreteScheduler(shift=1.0)
    net.save_pretrained(str(out / "transformer"), safe_serialization=True)
    scheduler.save_pretrained(str(out / "scheduler"))
    return {"transformer": type(net).__name__, "scheduler": type(scheduler).__name__}


def pipeline_to(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write a pipeline with the networks of the flow."""
    pipeline, family = bundle.modality.pipeline, bundle.modality.family
    factor = family.spatial(pipeline) * family.compressed
    height, width = (factor * side for side in bundle.modality.shape[-2:])
    usual = from_pipeline(pipeline, height=height, width=width, family=family).sampler
    with holding(pipeline, networks(bundle.flow.field, pipeline, family)):
        pipeline.save_pretrained(str(out), safe_serialization=True)
    # a schedule of the checkpoint is that of the scheduler, which is written
    same = isinstance(bundle.sampler.schedule, (CheckpointSchedule, DiffusionSchedule))
    changed = [
        f.name
        for f in fields(usual)
        if getattr(usual, f.name) != getattr(bundle.sampler, f.name) and not (same and f.name in SCHEDULED)
    ]
    said = {"pipeline": type(pipeline).__name__, "scheduler": type(pipeline.scheduler).__name__}
    optional = set(type(pipeline)._optional_components)
    missing = [name for name, part in pipeline.components.items() if part is None and name not in optional]
    said |= {"without": ", ".join(missing)} if missing else {}
    return said | ({"not written, of the sampler": ", ".join(changed)} if changed else {})


def networks(field: Any, pipeline: Any, family: Family) -> dict[str, nn.Module]:
    """The networks of a field by the names of their components."""
    if isinstance(field, Experts):
        return {"transformer": field.high.net, "transformer_2": field.low.net}  # type: ignore[dict-item]
    require(
        isinstance(field, Pretrained),
        f"the field of this bundle is a {type(field).__name__} around a pipeline; {FITS}",
    )
    stored = family.network(pipeline)
    return {next(name for name, part in pipeline.components.items() if part is stored): field.net}


@contextmanager
def holding(pipeline: Any, nets: dict[str, nn.Module]) -> Iterator[None]:
    """The pipeline with other networks, restored on exit."""
    before = {name: pipeline.components[name] for name in nets}
    pipeline.register_modules(**nets)
    try:
        yield
    finally:
        pipeline.register_modules(**before)


TARGETS: dict[str, Callable[[Bundle, Path], dict[str, Any]]] = {"diffusers": to_diffusers, "onnx": to_onnx}
