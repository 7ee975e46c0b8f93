"""Files and folders of data that are to be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.runs.bundle import Bundle
from beeline.runs.editing.auto import TRIED
from beeline.runs.editing.inputs import Given, chosen, inputs


@dataclass(frozen=True)
class Part:
    """The data of one file."""

    file: Path
    given: Given
    cond: Any  # in the user's form; None is the learned null

    @property
    def x(self) -> Tensor:
        """The encoded data [N,*S]."""
        return self.given.x


def files_in(given: Path) -> list[Path]:
    """The file, or all files of a folder and of its folders, in the order of their names."""
    if not given.is_dir():
        return [given]
    found = sorted(path for path in given.rglob("*") if path.is_file() and not path.name.startswith("."))
    require(found, f"the folder {given} has no files; give a folder of data of the kind that the model generates")
    return found


def read(bundle: Bundle, files: Sequence[Path], cond: Any, new: Any, folder: bool) -> tuple[list[Part], dict[str, str]]:
    """The data of files with their conditions, and the files that cannot be read with the reasons.

    Without ``cond`` the condition is that of the labels of the file, of the class of the folder that it lies in, of the
    cells of the rows, or the learned null.  Raises BeelineError where a single file, or none, can be read.
    """
    parts, refused = [], {}
    for file in files:
        try:
            parts.append(_part(bundle, file, cond, new))
        except BeelineError as error:
            if not folder:
                raise
            refused[str(file)] = " ".join(str(error).split())
    require(parts, f"none of {len(files)} files could be read: {'; '.join(list(refused.values())[:3])}")
    return parts, refused


def first_data(parts: Sequence[Part], most: int = TRIED) -> tuple[Tensor, Any]:
    """Some of the data [N,*S] with their condition, of several files where all have labels."""
    labels = [label for part in parts for label in _labels(part)]
    if len(labels) < sum(len(part.x) for part in parts):
        return parts[0].x[:most], chosen(parts[0].cond, slice(0, most))
    return torch.cat([part.x for part in parts])[:most], {"label": labels[:most]}


def _labels(part: Part) -> list[Any]:
    """The labels of the data of a file; none where its condition is no mapping with a label."""
    value = part.cond.get("label") if isinstance(part.cond, Mapping) else None
    return value if isinstance(value, list) else [] if value is None else [value] * len(part.x)


def _part(bundle: Bundle, file: Path, cond: Any, new: Any) -> Part:
    found = inputs(bundle.modality, bundle, file, new)
    own = cond if cond is not None else found.own
    if own is None and "label" in bundle.modality.conditions:
        names = {str(name) for name in bundle.modality.names}
        own = {"label": file.parent.name} if file.parent.name in names else None
    if own is None:
        wanted = sorted(bundle.modality.conditions)
        require(
            bundle.null is not None and bundle.null != {},
            f"{file} holds no {' or '.join(wanted)}, and this model was trained without dropping conditions, so that "
            f"it has no null to edit from; say what the data are: --from {wanted[0]}=...",
        )
    bundle.condition(own, len(found.x))
    return Part(file, found, own)
