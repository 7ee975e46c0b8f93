"""Data sets of the Hugging Face library that are given as objects in Python."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import require
from beeline.core.files import replacing, unwritten
from beeline.data.hub.features import columns_of
from beeline.data.hub.given import give
from beeline.data.hub.hub_stream import features
from beeline.data.hub.opening import is_saved
from beeline.data.pictures.folders import TRAINING


def hub_path(data: Any, labels: Any, out: Path, stored: bool = False) -> str | None:
    """The path of a Dataset, DatasetDict or IterableDataset of the library ``datasets``; None for other objects.

    A data set is saved beside the run ``out`` (unless it is ``stored`` already), so that the run can be resumed and
    evaluated.  A stream of images is not saved: its path stands for it in this process.  A stream of other data is
    written to a Parquet file.
    """
    datasets = sys.modules.get("datasets")  # an object of the library exists only where it was imported
    if datasets is None or not isinstance(data, (*_maps(datasets), *_streams(datasets))):
        return None
    require(
        labels is None,
        f"labels were given beside a {type(data).__name__}, whose labels are a column of it; add them with add_column",
    )
    if isinstance(data, _streams(datasets)):
        stream: Any = _training(data) if isinstance(data, Mapping) else data
        if columns_of(features(stream)).images:
            return give(str(out), stream)
        path = out.parent / f"{out.name}-data.parquet"
        if not stored:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                stream.to_parquet(str(temporary))
        return str(path)
    path = out.parent / f"{out.name}-data"
    if not stored:
        _save(data, path)
    return str(path)


def _training(data: Mapping[str, Any]) -> Any:
    """The training split of an IterableDatasetDict."""
    found = next((data[name] for name in TRAINING if name in data), None)
    require(
        found is not None,
        f"the IterableDatasetDict has the splits {', '.join(data)}, none of which is named train; give one of them",
    )
    return found


def _maps(datasets: Any) -> tuple[type, ...]:
    return datasets.Dataset, datasets.DatasetDict


def _streams(datasets: Any) -> tuple[type, ...]:
    return datasets.IterableDataset, datasets.IterableDatasetDict


def _save(data: Any, path: Path) -> None:
    """Save a data set in a folder, which appears when it is whole; that of an earlier data set is replaced."""
    require(
        not path.exists() or is_saved(path),
        f"{path} exists and is no data set, so the data cannot be stored beside the run; give another out=",
    )
    staged = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        data.save_to_disk(str(staged))
        if path.exists():
            shutil.rmtree(path)
        staged.rename(path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
