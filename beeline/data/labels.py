"""Labels, held-out splits and file paths, shared by the modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.rng import Rng
from beeline.core.types import Cond

Array = np.ndarray[Any, np.dtype[Any]]


def label_conditions(classes: int) -> dict[str, dict[str, int]]:
    """The conditions that a network for labelled data is built for; {} without labels."""
    return {"label": {"classes": classes}} if classes else {}


def label_condition(value: Any, n: int, classes: int, names: Sequence[str] = ()) -> Cond:
    """A label in the user's form as {"label": int64 [n]}; None is the null label, which is the number of classes.

    ``value`` is None, a label, a class name, ``n`` of them, or {"label": one of these}.

    >>> label_condition({"label": "cat"}, 2, 2, ("cat", "dog"))
    {'label': tensor([0, 0])}
    """
    if isinstance(value, Mapping):
        unknown = sorted(str(key) for key in value if key != "label")
        known = ["label"] if classes else []
        for name in unknown:
            raise BeelineError(f"these data have no condition {name!r}; {nearest(name, known)}")
        value = value.get("label")
    if not classes:
        require(value is None, f"the condition {value!r} was given, but these data have no labels; leave it out")
        return None
    if value is None:
        return {"label": torch.full((n,), classes)}
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        require(
            len(value) == n,
            f"{len(value)} labels were given for {n} samples; give one label for all, or one per sample",
        )
        return {"label": torch.tensor([_label(v, classes, names) for v in value])}
    return {"label": torch.full((n,), _label(value, classes, names))}


def labels_of(value: Any, n: int, classes: int, names: Sequence[str]) -> Array | None:
    """The labels [n] of a condition as the data hold them; None for the null label."""
    cond = label_condition(value, n, classes, names)
    index = None if cond is None else cond["label"].numpy()  # type: ignore[index, call-overload, union-attr]
    if index is None or bool((index == classes).any()):
        return None
    return np.array([int(names[k]) for k in index]) if names and numeric(names) else np.asarray(index)


def numeric(names: Sequence[str]) -> bool:
    """Whether the names of classes are integers, so that labels are values and no indices."""
    return all(name.lstrip("-").isdigit() for name in names)


def check_labels(labels: Any, rows: int, classes: int | None, where: str, first: int = 0) -> Array:
    """Labels as int64 [rows]; ValueError names their origin ``where`` and the row, counted from ``first``."""
    got = np.asarray(labels)
    require(
        got.shape == (rows,),
        f"{where} has shape {got.shape} for {rows} data; a label is one integer per datum: give [{rows}]",
    )
    require(
        got.dtype.kind in "iufb",
        f"{where} holds {got.dtype}; labels are integers from 0: number the classes",
    )
    bad = ~np.isfinite(got) | (got != np.floor(got)) if got.dtype.kind == "f" else np.zeros(rows, bool)
    if bad.any():
        row = int(bad.argmax())
        raise BeelineError(
            f"{where}, row {row + first}: the label is {got[row]}, which is no integer; "
            "labels are integers from 0: number the classes"
        )
    whole = got.astype(np.int64)
    bad = (whole < 0) | (whole >= classes) if classes is not None else whole < 0
    if bad.any():
        row = int(bad.argmax())
        span = f"0 .. {classes - 1}" if classes is not None else "0 and above"
        raise BeelineError(
            f"{where}, row {row + first}: the label is {whole[row]}, outside its range; "
            f"labels here are {span}: correct it, or number the classes from 0"
        )
    return whole


def classes_of(labels: Array | None, names: Sequence[str], known: int = 0) -> tuple[int, tuple[str, ...]]:
    """(number of classes, their names).  Labels other than 0 .. K-1 are values, each of which is a class.

    >>> classes_of(np.array([1, 2, 9]), ())
    (3, ('1', '2', '9'))
    >>> classes_of(np.array([0, 1, 2]), ())
    (3, ())
    """
    if labels is None:
        return 0, ()
    if names or known:
        return max(len(names), known, int(labels.max()) + 1), tuple(names)
    values = np.unique(labels)
    plain = values[-1] == len(values) - 1
    return len(values), () if plain else tuple(str(value) for value in values.tolist())


def stored_labels(labels: Array | None, names: Sequence[str]) -> dict[str, Array]:
    """Labels as arrays of an .npz file: ``labels``, and the ``names`` of the classes where they have some."""
    if labels is None:
        return {}
    return {"labels": labels} | ({"names": np.array(names, dtype=str)} if names else {})


def numbered(labels: Array, names: Sequence[str] = (), where: str = "labels") -> tuple[Array, tuple[str, ...]]:
    """Labels as they are stored as (integers, names of the classes).

    Text is numbered by its place in ``names``, or in alphabetical order without them.

    >>> numbered(np.array(["dog", "cat", "dog"]))
    (array([1, 0, 1]), ('cat', 'dog'))
    """
    if labels.dtype.kind not in "U":
        return labels, tuple(names)
    known = list(names) or sorted(set(labels.tolist()))
    for label in set(labels.tolist()) - set(known):
        raise BeelineError(f"{where}: {label!r} is a label that the other data do not have; {nearest(label, known)}")
    place = {label: k for k, label in enumerate(known)}
    return np.array([place[label] for label in labels.tolist()]), tuple(known)


def class_indices(labels: Any, rows: int, own: Sequence[str], classes: int, names: Sequence[str]) -> Array:
    """Labels as class indices, int64 [rows] in 0 .. classes-1.

    ``own`` are the class names of the data, ``names`` those of the model; labels of data without names are looked up
    in the names of the model.
    """
    got = check_labels(labels, rows, None if names and not own else classes, "labels")
    if own or not names:
        return got
    if not numeric(names):
        return check_labels(got, rows, classes, "labels")
    values = np.array([int(name) for name in names])
    refuse_unseen(got, values, "labels")
    order = values.argsort()
    return order[np.searchsorted(values, got, sorter=order)]


def refuse_unseen(labels: Array, known: Array, where: str) -> None:
    """Refuse labels that the training data do not have; ValueError names the row and the label."""
    new = ~np.isin(labels, known)
    if new.any():
        row = int(new.argmax())
        raise BeelineError(
            f"{where}, row {row}: the label is {labels[row]}, which the training data do not have "
            f"({', '.join(str(v) for v in np.unique(known)[:12].tolist())}); correct it, or leave the row out"
        )


def divide(n: int, held_out: float, where: str) -> tuple[Array, Array]:
    """(training rows, held-out rows), sorted: a random split that depends on ``n`` and ``held_out`` alone."""
    require(
        0 < held_out < 1,
        f"held_out={held_out}, but it is the fraction of the data held out for evaluation; give a number between 0 and "
        "1, such as 0.1",
    )
    require(
        n >= 2, f"{where} holds {n} datum, which cannot be split into training and held-out data; give at least two"
    )
    order = Rng(0).fork("held-out").permutation(n).numpy()
    count = min(max(1, round(n * held_out)), n - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def existing(path: str) -> Path:
    """The path of a file or directory; ValueError suggests the most similar name."""
    place = Path(path).expanduser()
    if not place.exists():
        folder = place.parent
        names = sorted(p.name for p in folder.iterdir())[:50] if folder.is_dir() else []
        about = nearest(place.name, names) if names else f"the directory {folder} does not exist or is empty"
        raise BeelineError(f"{place} does not exist; {about}")
    require(
        place.is_file() or place.is_dir(),
        f"{place} is a pipe, socket or device, which cannot be read twice; save the data as a file first",
    )
    return place


def _label(value: Any, classes: int, names: Sequence[str]) -> int:
    if isinstance(value, float | np.integer) and value % 1 == 0:
        value = int(value)
    if str(value) in names:  # labels that are values, such as 1 .. 10
        return list(names).index(str(value))
    require(
        not (names and numeric(names)),
        f"the label {value!r} is outside its range; labels here are {', '.join(names[:20])}: give one of them, or None "
        "for no condition",
    )
    if isinstance(value, str):
        require(
            value.isascii() and value.strip().isdigit() and len(value) <= 18,
            f"there is no class {value!r}; {nearest(value, names) if names else f'give a number 0 .. {classes - 1}'}",
        )
        value = int(value)
    whole = isinstance(value, int | float | np.integer) and not isinstance(value, bool) and value % 1 == 0
    require(
        whole and 0 <= value < classes,
        f"the label {value!r} is outside its range; labels here are 0 .. {classes - 1}"
        + (f" ({', '.join(names)})" if names else "")
        + ": give one of them, or None for no condition",
    )
    return int(value)
