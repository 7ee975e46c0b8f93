"""Edits of data in the user's form by the flow of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import Edit, EditRegion
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.data.images import Image
from beeline.data.tables.table import Table
from beeline.evaluation.edits.preservation import mean_defined, psnr, ssim, structure
from beeline.runs.editing.inputs import Given, inputs
from beeline.sampling.editing.keeping import changes_alone
from beeline.sampling.editing.outcome import Outcome, edited, joined, same_condition
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.modalities import for_modality

if TYPE_CHECKING:  # a bundle imports this module to edit
    from beeline.runs.bundle import Bundle

BATCH = 64  # data of one run; the noise of a datum follows from its place, so that the size changes no result


@dataclass(frozen=True)
class Settings:
    """How data are edited."""

    region: EditRegion | None
    preserve: float | None  # in the units of ``span``
    seed: int
    sampler: Sampler
    batch_size: int = BATCH
    watch: Callable[[int], None] | None = None  # called after every batch with its number of data


@dataclass(frozen=True)
class Edited:
    """Edited data in the user's own form, and what the edit did.

    Distances are mean absolute differences over the range of pixels, or in standard deviations of the training data.
    """

    samples: Any
    outcome: Outcome
    span: float  # of encoded data: the unit of distances
    measures: Mapping[str, Tensor] = field(default_factory=dict)  # [N] by name: further ones, of pictures

    @property
    def summary(self) -> dict[str, Any]:
        """The means over all data, as plain data."""
        found = {"change": float(self.outcome.change.mean()) / self.span}
        if self.outcome.region is not None:
            found["kept_outside"] = float(self.outcome.kept.mean()) / self.span
            found["largest_outside"] = float(self.outcome.kept.max()) / self.span
        means = {name: mean_defined(values) for name, values in self.measures.items()}
        found.update({name: value for name, value in means.items() if value is not None})
        return {**found, "evaluations": self.outcome.evaluations}


def edit(bundle: Bundle, method: Edit, given: Any, old: Any, new: Any, how: Settings) -> Edited:
    """Data ``given`` under the condition ``old`` edited to fit ``new``; see ``Bundle.edit``."""
    modality = editable(bundle)
    require(new is not None, f"no new condition was given; give one of {sorted(modality.conditions)}, as label=8")
    return edit_given(bundle, method, inputs(modality, bundle, given, new), old, new, how)


def editable(bundle: Bundle) -> Any:
    """The modality of a bundle; BeelineError for one without conditions to edit by."""
    require(
        bundle.modality is not None,
        "this bundle has no modality, so that it does not know the form of its data; use the edit on tensors: "
        "FlowEdit()(flow, x, cond, new_cond, sampler, rng)",
    )
    require(
        bool(bundle.modality.conditions),
        "this model has no conditions, so that there is nothing to edit by; train it with labels or other columns as "
        "conditions, or change data by an energy: Sampler(controllers=(EnergyGuidance(...),))",
    )
    return bundle.modality


def edit_given(bundle: Bundle, method: Edit, given: Given, old: Any, new: Any, how: Settings) -> Edited:
    """Encoded data edited; conditions are in the user's form."""
    modality, x = bundle.modality, given.x
    cond, new_cond = (bundle.condition(value, len(x)) for value in (old, new))
    unit = span(modality)
    if same_condition(cond, new_cond) and not changes_alone(method):
        nothing = x.new_zeros(len(x))
        return Edited(decoded(modality, given, x), Outcome(x, None, nothing, nothing, 0.0), unit)
    outcome = run(bundle, method, x, cond, new_cond, how, unit)
    raw = decoded(modality, given, outcome.x)
    return Edited(modality.with_condition(raw, new), outcome, unit, measured(modality, x, outcome))


def run(bundle: Bundle, method: Edit, x: Tensor, cond: Cond, new_cond: Cond, how: Settings, unit: float) -> Outcome:
    """Encoded data edited in batches on the device of the bundle; the result is on the CPU."""
    where, sampler = bundle.device, for_modality(how.sampler, bundle.modality)
    parts = []
    for i in range(0, len(x), how.batch_size):
        rows = slice(i, i + how.batch_size)
        old, new = (map_cond(lambda leaf, rows=rows: leaf[rows].to(where), tree) for tree in (cond, new_cond))
        seeded = sampler.seeded(range(i, i + len(x[rows])), how.seed)
        rng = Rng(how.seed).fork("edit", i)
        part = edited(
            method,
            bundle.flow,
            x[rows].to(where),
            old,
            new,
            seeded,
            rng,
            region=how.region,
            preserve=how.preserve,
            span=unit,
        )
        parts.append(part)
        if how.watch is not None:
            how.watch(len(part.x))
    whole = joined(parts)
    tensors = (
        whole.x.cpu(),
        None if whole.region is None else whole.region.cpu(),
        whole.change.cpu(),
        whole.kept.cpu(),
    )
    return Outcome(*tensors, whole.evaluations)


@singledispatch
def decoded(modality: Any, given: Given, made: Tensor) -> Any:
    """Edited data [N,*S] in the user's form."""
    return modality.decode(made)


@decoded.register(Table)
def _of_rows(modality: Table, given: Given, made: Tensor) -> Any:
    """Rows, whose unchanged cells are those that were given: encoding changes the last digits of numbers."""
    frame, start = modality.decode(made), 0
    if given.rows is None:
        return frame
    for name, code in modality.coded.items():
        part = slice(start, start + code.width)
        same = (made[:, part] == given.x[:, part].to(made)).all(1).numpy()
        frame[name] = frame[name].where(~same, given.rows[name].to_numpy())
        start += code.width
    return frame


@singledispatch
def measured(modality: Any, x: Tensor, outcome: Outcome) -> dict[str, Tensor]:
    """Further measures of what an edit kept, [N] by name."""
    return {}


@measured.register(Image)
def _of_pictures(modality: Image, x: Tensor, outcome: Outcome) -> dict[str, Tensor]:
    """The ratio of signal to noise and the similarity outside of the region, and the distance of structures."""
    found = {"psnr": psnr(x, outcome.x, outcome.region), "ssim": ssim(x, outcome.x, outcome.region)}
    if outcome.region is not None:
        found = {f"{name}_outside": values for name, values in found.items()}
    return {**found, "structure": structure(x, outcome.x)}


@singledispatch
def span(modality: Any) -> float:
    """The unit of distances in encoded data: a standard deviation of the training data."""
    return 1.0


@span.register(Image)
def _of_images(modality: Image) -> float:
    """The range of pixels, -1 to 1."""
    return 2.0
