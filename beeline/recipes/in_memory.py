"""Data in memory as a file beside the directory of a run, so that the run can be resumed, distilled and evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from beeline.core.errors import BeelineError, require
from beeline.core.files import replacing
from beeline.core.rng import Rng
from beeline.data.arrays import as_array, as_frame, as_labels, as_pictures, with_labels
from beeline.data.images import Images
from beeline.data.points import PointSet
from beeline.data.signals.arrays import ArraySet

LIMIT = 8 << 30  # bytes of items that are collected from a data set of torch


def stored(data: Any, labels: Any, out: Path) -> Path:
    """The path of a .parquet or .npz file with the data, which ``recipe_for`` reads.

    Raises BeelineError for data of a kind, dtype or shape that no recipe reads, before anything is written.
    """
    data, labels = collected(data, labels)
    frame = as_frame(data)
    if frame is not None:
        frame = frame if labels is None else with_labels(frame, labels)
        path = out.parent / f"{out.name}-data.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
        return path
    array = as_array(data)
    require(
        array is not None,
        f"{type(data).__name__} is no data to train on; give an array or a tensor, a data frame of pandas, polars or "
        "Arrow, a Dataset or DataLoader of torch, or the path of a file or folder",
    )
    assert array is not None
    require(
        array.dtype.kind in "iuf" and array.ndim >= 1 and array.size,
        f"the data are {array.dtype} of shape {array.shape}, which are no numbers to learn; convert them to numbers, "
        "or give columns of other kinds as a data frame",
    )
    array = as_pictures(array)
    pictures = array.dtype == np.uint8 and array.ndim in (3, 4)
    arrays = {"images" if pictures else "points" if array.ndim <= 2 else "values": array}
    if labels is not None:
        arrays["labels"] = as_labels(labels, len(array))
    path = out.parent / f"{out.name}-data.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def collected(data: Any, labels: Any) -> tuple[Any, Any]:
    """(data, labels) of a pair, and of a Dataset or DataLoader of torch, whose items are read once."""
    if isinstance(data, tuple) and len(data) == 2:
        require(labels is None, "labels were given beside a pair (data, labels); give them once")
        return data
    if isinstance(data, Images | PointSet | ArraySet):  # samples of a flow, with their own labels
        require(labels is None, f"labels were given beside {type(data).__name__}, which hold their own")
        own_labels = data.labels if data.labels is None or not data.names else np.asarray(data.names)[data.labels]
        return np.asarray(data), own_labels
    if not isinstance(data, Dataset | DataLoader):
        return data, labels
    kind = type(data).__name__
    require(labels is None, f"labels were given beside a {kind}; let its items be pairs (datum, label)")
    with Rng(0).fork("items").ambient():  # for random transforms of the items
        if isinstance(data, DataLoader):
            own = data.dataset
            collate: Any = data.collate_fn
            parts: Iterable[Any] = (
                data if isinstance(own, IterableDataset) else (collate([item]) for item in _items(own))
            )
            return _joined(parts, f"the DataLoader of a {type(own).__name__}", np.concatenate)
        return _joined(data if isinstance(data, IterableDataset) else _items(data), f"the {kind}", np.stack)


def _items(data: Any) -> Iterable[Any]:
    return (data[i] for i in range(len(data)))


def _joined(parts: Iterable[Any], where: str, join: Any) -> tuple[Any, Any]:
    """Items, or batches of them, as one array and one list of labels."""
    values: list[Any] = []
    labels: list[Any] = []
    size = 0
    for part in parts:
        datum, label = _pair(part, where)
        values.append(datum)
        size += datum.nbytes
        require(
            size <= LIMIT,
            f"{where} holds more than {LIMIT >> 30} GiB, or does not end; write its items to files, such as a folder "
            "of pictures, and give the path, or write an own loop with bl.fit",
        )
        labels += [] if label is None else label
    require(values, f"{where} is empty, but training needs data; check what it reads")
    sizes = {value.shape[1:] if join is np.concatenate else value.shape for value in values}
    require(
        len(sizes) == 1,
        f"{where} gives items of the shapes {', '.join(map(str, sorted(sizes)[:3]))}, but data have one shape; resize "
        "or pad them in a transform",
    )
    rows = len(joined := join(values))
    require(
        len(labels) in (0, rows), f"{where} gives labels for {len(labels)} of {rows} items; label all of them, or none"
    )
    return joined, labels or None


def _pair(part: Any, where: str) -> tuple[Any, list[Any] | None]:
    """An item, or a batch of them, as an array and its labels."""
    datum, label = part, None
    if isinstance(part, Sequence) and not isinstance(part, str):
        require(
            len(part) in (1, 2),
            f"{where} gives items of {len(part)} parts; an item is a datum, or a pair (datum, label): select two",
        )
        datum, label = part[0], part[1] if len(part) == 2 else None
    array = np.asarray(datum) if isinstance(datum, Picture) else as_array(datum)
    if array is None:
        raise BeelineError(
            f"{where} gives items of {type(datum).__name__}; an item is a tensor, an array or a picture, or a pair "
            "with its label: convert it in a transform"
        )
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = torch.as_tensor(label).reshape(-1).tolist()
    return array, None if label is None else list(label) if isinstance(label, list | tuple) else [label]
