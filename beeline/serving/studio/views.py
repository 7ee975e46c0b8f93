"""How the data of a model are shown, and the widgets of its conditions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from beeline.data.described.encoders import Numbers, Pictures
from beeline.data.images import Image
from beeline.data.latents.modality import LatentImage
from beeline.data.points import Points
from beeline.data.sequences import Sequences
from beeline.data.signals.arrays import Arrays
from beeline.data.tables.schema import Boolean, Category, Column, Datetime, Number
from beeline.data.tables.table import Table
from beeline.serving.answers import as_json


@singledispatch
def view(modality: Any) -> dict[str, Any]:
    """What the page has to know to draw data: here numbers of any shape, points where they are vectors."""
    shape = tuple(modality.shape)
    if len(shape) == 1:
        return {"kind": "points", "columns": [f"x{k + 1}" for k in range(shape[0])]}
    return {"kind": "fields", "shape": list(shape)}


@view.register(Image)
@view.register(LatentImage)
def _of_pictures(modality: Image | LatentImage) -> dict[str, Any]:
    channels, height, width = pictures_of(modality).shape
    return {"kind": "pictures", "channels": channels, "height": height, "width": width}


@singledispatch
def pictures_of(modality: Any) -> Image:
    """The pictures themselves."""
    found: Image = modality
    return found


@pictures_of.register(LatentImage)
def _of_latents(modality: LatentImage) -> Image:
    return modality.image


@view.register(Points)
def _of_points(modality: Points) -> dict[str, Any]:
    return {"kind": "points", "columns": list(modality.columns)}


@view.register(Arrays)
def _of_arrays(modality: Arrays) -> dict[str, Any]:
    return {"kind": "signals" if len(modality.sizes) == 2 else "fields", "shape": list(modality.sizes)}


@view.register(Table)
def _of_rows(modality: Table) -> dict[str, Any]:
    return {"kind": "rows", "columns": list(modality.columns.names)}


@view.register(Sequences)
def _of_texts(modality: Sequences) -> dict[str, Any]:
    return {"kind": "texts"}


@singledispatch
def drawn(modality: Any, raw: Any) -> Any:
    """Data as the page takes them: here plain data."""
    return as_json(raw)


@drawn.register(Image)
@drawn.register(LatentImage)
def _as_picture(modality: Any, raw: Any) -> Any:
    """A grid of pictures, which is smaller than their numbers."""
    return "data:image/png;base64," + base64.b64encode(pictures_of(modality).preview(raw, most=len(raw))).decode()


@singledispatch
def widgets(modality: Any) -> list[dict[str, Any]]:
    """The conditions of a model: a choice for labels, sliders for vectors."""
    return [widget(name, spec, names_of(modality)) for name, spec in modality.conditions.items()]


@widgets.register(Image)
@widgets.register(LatentImage)
def _described(modality: Any) -> list[dict[str, Any]]:
    image = pictures_of(modality)
    if image.described is None:
        return [widget(name, spec, image.names) for name, spec in modality.conditions.items()]
    labels = [widget(name, spec, image.names) for name, spec in image.conditions.items() if "classes" in spec]
    return labels + [{"name": name, **input_of(encoder)} for name, encoder in image.described.encoders.items()]


@widgets.register(Table)
def _cells(modality: Table) -> list[dict[str, Any]]:
    columns = (modality.columns[name] for name in modality.codes)
    return [{"name": column.name, "kind": "cell", **cell(column)} for column in columns if cell(column)]


@singledispatch
def names_of(modality: Any) -> Sequence[str]:
    """The names of classes where they have some."""
    return ()


@names_of.register(Points)
@names_of.register(Arrays)
def _of_classes(modality: Points | Arrays) -> Sequence[str]:
    return modality.names


def widget(name: str, spec: Mapping[str, int], names: Sequence[str]) -> dict[str, Any]:
    """The widget of one condition as a network describes it."""
    if "classes" in spec:
        known = list(names) or [str(k) for k in range(spec["classes"])]
        return {"name": name, "kind": "choice", "options": known}
    return {"name": name, "kind": "numbers", "size": spec.get("size", 1), "length": spec.get("length")}


@singledispatch
def input_of(encoder: Any) -> dict[str, Any]:
    """The widget of an encoder of descriptions: here a text."""
    return {"kind": "prompt"}


@input_of.register(Numbers)
def _of_numbers(encoder: Numbers) -> dict[str, Any]:
    return {"kind": "numbers", "size": encoder.size, "length": encoder.length, "scale": encoder.scale}


@input_of.register(Pictures)
def _of_picture(encoder: Pictures) -> dict[str, Any]:
    return {"kind": "picture", "side": encoder.side, "channels": encoder.channels}


@singledispatch
def cell(column: Column) -> dict[str, Any]:
    """The widget of a cell of a table; {} for a column that cannot be given."""
    return {}


@cell.register(Number)
def _number(column: Number) -> dict[str, Any]:
    return {"cell": "number", "whole": column.integer, "least": column.low, "most": column.high}


@cell.register(Category)
def _category(column: Category) -> dict[str, Any]:
    return {"cell": "choice", "options": list(column.levels)}


@cell.register(Boolean)
def _boolean(column: Boolean) -> dict[str, Any]:
    return {"cell": "choice", "options": [True, False]}


@cell.register(Datetime)
def _datetime(column: Datetime) -> dict[str, Any]:
    return {"cell": "text", "least": column.low, "most": column.high}
