"""Data to be edited: encoded, with the conditions that their files hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.data.arrays import read_arrays
from beeline.data.images import Image, Images
from beeline.data.latents.modality import LatentImage
from beeline.data.points import PointSet
from beeline.data.signals.arrays import ArraySet
from beeline.data.tables.table import Table
from beeline.runs.solving.observed import Observed, is_path, observed, text_of
from beeline.runs.solving.solve import rows_of

if TYPE_CHECKING:  # a bundle imports this module to edit
    from beeline.runs.bundle import Bundle

FAR = 30.0  # standard deviations of the training data beyond which a number is taken to be in another unit


@dataclass(frozen=True)
class Given:
    """Encoded data, and the condition that they had where it is known."""

    x: Tensor  # [N,*S]
    own: Any = None  # in the user's form; None where it is not known
    note: str = ""  # how the data were converted
    rows: Any = None  # of a table: a data frame, whose unchanged cells an edit returns as they are


@singledispatch
def inputs(modality: Any, bundle: Bundle, given: Any, new: Any = None) -> Given:
    """Data given by a path or in memory, encoded; ``new`` is the condition to which they are to be changed.

    Raises BeelineError for data of another size, data that are not whole, and numbers far outside the training data.
    """
    seen = observed(modality, given)
    shape = tuple(modality.shape)
    require(
        tuple(seen.values.shape[1:]) == shape,
        f"the data have shape {tuple(seen.values.shape[1:])}, and those of the model {shape}; give data of that size, "
        "such as pictures that are resized to it",
    )
    x = whole(seen)
    far = (x.flatten(1).abs().amax(1) > FAR).nonzero()[:, 0].tolist()
    require(
        not far,
        f"the data with the numbers {far[:5]} are up to {float(x.abs().max()):.3g} standard deviations from the mean "
        f"of the training data, and the flow knows nothing beyond about {FAR:g}; give them in the units of that data",
    )
    return Given(x, labels_in(modality, given))


def whole(seen: Observed) -> Tensor:
    """The encoded values [N,*M] of data that are known everywhere; BeelineError for others."""
    require(
        bool(seen.known.all()),
        "the data have transparent pixels or missing numbers, and an edit needs them whole; fill them first: beeline "
        "solve BUNDLE inpaint",
    )
    return seen.values.float()


@inputs.register(Image)
def _of_images(modality: Image, bundle: Bundle, given: Any, new: Any = None) -> Given:
    """Pictures; grey ones for a model of colours have three equal channels, and colours are made grey."""
    seen = observed(modality, given)
    channels, size = seen.values.shape[1], tuple(seen.values.shape[2:])
    require(
        size == tuple(modality.shape[1:]),
        f"the pictures are {size[0]} x {size[1]}, and those of the model {modality.shape[1]} x {modality.shape[2]}; "
        "resize them to that size",
    )
    values = whole(seen)
    own = labels_in(modality, given)
    if channels == 1 < modality.shape[0]:
        return Given(values.expand(-1, modality.shape[0], -1, -1).clone(), own, "grey pictures became colours")
    require(
        channels == modality.shape[0],
        f"the pictures have {channels} channels, and those of the model {modality.shape[0]}; give pictures of "
        "that kind",
    )
    return Given(values, own)


@inputs.register(LatentImage)
def _of_latents(modality: LatentImage, bundle: Bundle, given: Any, new: Any = None) -> Given:
    """Pictures, encoded by the autoencoder of the model."""
    found = inputs(modality.image, bundle, given)
    return Given(modality.encode(modality.image.decode(found.x)).x1.float(), found.own, found.note)


@inputs.register(Table)
def _of_tables(modality: Table, bundle: Bundle, given: Any, new: Any = None) -> Given:
    """Rows; their own condition is that of the columns that are to be changed."""
    require(
        traits_of(bundle.flow.field).cells,
        "this model was trained without known cells, which are the conditions of an edit; train it with known cells: "
        "the recipe 'table' does",
    )
    frame = modality.raw(rows_of(bundle, given) if is_path(given) else given).reset_index(drop=True)
    lacking = [name for name in modality.columns.names if name not in frame.columns]
    require(
        not lacking,
        f"the rows lack the columns {lacking}; an edit changes whole rows: give all columns of the model",
    )
    own = frame[[name for name in new if name in frame.columns]] if isinstance(new, Mapping) else None
    rows = frame[list(modality.columns.names)]
    return Given(modality.encode(rows, Rng(0).fork("edit")).x1, own, rows=rows)


def labels_in(modality: Any, given: Any) -> Any:
    """The labels that data hold, as a condition; None where they hold none, or not of every datum."""
    if "label" not in modality.conditions:
        return None
    found: list[Any] | None = None
    if isinstance(given, Images | PointSet | ArraySet):
        found = None if given.labels is None else [int(v) for v in given.labels]
    elif is_path(given):
        place = Path(given)
        if place.suffix == ".npz":
            arrays = read_arrays(place)
            found = known(arrays["labels"], arrays.get("names")) if "labels" in arrays else None
        elif place.suffix == ".csv":
            lines = [line for line in csv.reader(io.StringIO(text_of(place), newline="")) if line]
            at = [name.strip() for name in lines[0]].index("label") if lines and "label" in lines[0] else -1
            found = [line[at] for line in lines[1:]] if at >= 0 and all(len(line) > at for line in lines) else None
    return None if not found or any(isinstance(v, int) and v < 0 for v in found) else {"label": found}


def known(labels: Any, names: Any) -> list[Any]:
    """Labels of a file: the names of classes where it has them, else numbers."""
    if names is not None and labels.dtype.kind in "iu":
        return [str(names[k]) if 0 <= k < len(names) else -1 for k in labels]
    return [v if isinstance(v, str) else int(v) for v in labels.tolist()]


def chosen(own: Any, rows: Any) -> Any:
    """The condition of some rows of several data in the user's form; ``rows`` is a slice."""
    if own is None:
        return None
    if isinstance(own, Mapping):
        return {name: value[rows] if isinstance(value, list) else value for name, value in own.items()}
    return own.iloc[rows].reset_index(drop=True)
