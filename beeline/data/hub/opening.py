"""Opening of Hugging Face data sets: saved on disk, in Parquet files, or of the hub by name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError, extra, require
from beeline.data.pictures.folders import HELD_OUT, TRAINING

PREFIX = "hf:"


def library() -> Any:
    """The library ``datasets``, quiet; BeelineError names the extra."""
    found = extra("datasets", "datasets")
    found.disable_progress_bars()
    return found


def is_name(path: str) -> bool:
    """Whether a path is the name of a data set of the hub: hf:owner/name, or owner/name where there is no such path.

    >>> is_name("hf:owner/name"), is_name("hf:owner/name/config"), is_name("photos/"), is_name("data/people.csv")
    (True, True, False, False)
    """
    if path.startswith(PREFIX):
        return True
    plain = re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", path)
    if plain is None or Path(path).exists() or Path(path).parent.exists():
        return False
    return not re.search(r"\.[A-Za-z]\w{1,6}$", path)  # a file that is missing


def is_saved(place: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of the library."""
    one = (place / "state.json").is_file() and (place / "dataset_info.json").is_file()
    return one or (place / "dataset_dict.json").is_file()


def hub_name(path: str) -> tuple[str, str | None]:
    """(owner/name, configuration or None) of hf:owner/name or hf:owner/name/configuration; or hf:name."""
    parts = path.removeprefix(PREFIX).split("/")
    require(
        all(parts) and len(parts) <= 3,
        f"{path!r} is no name of a data set; give hf:owner/name, or hf:owner/name/configuration",
    )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def features_of(path: str) -> Mapping[str, Any]:
    """The features of the training split, where possible without its data."""
    if not is_name(path):
        return splits(path)[0].features
    name, config = hub_name(path)
    with reachable(path):
        found = library().load_dataset_builder(name, config).info.features
    return found if found is not None else splits(path)[0].features


def splits(path: str) -> tuple[Any, Any | None]:
    """(training split, held-out split or None) of a data set as objects of the library, memory-mapped."""
    datasets = library()
    if is_name(path):
        name, config = hub_name(path)
        with reachable(path):
            return chosen(datasets.load_dataset(name, config), path)
    place = Path(path).expanduser()
    try:
        if is_saved(place):
            return chosen(datasets.load_from_disk(str(place)), path)
        return chosen(datasets.load_dataset("parquet", data_files=parquet_files(place)), path)
    except BeelineError:
        raise
    except Exception as error:  # on damaged files the library raises errors of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise BeelineError(
            f"{path} cannot be read as a Hugging Face data set ({reason}); it is damaged or incomplete: write it again "
            "with save_to_disk"
        ) from error


def chosen(found: Any, where: str) -> tuple[Any, Any | None]:
    """(training split, held-out split or None) of a data set or a mapping of its splits."""
    if not isinstance(found, Mapping):
        require(len(found) > 0, f"{where} has no rows; check that it was written")
        return found, None
    names = list(found)
    require(names, f"{where} has no splits; check that it was written")
    train = next((name for name in TRAINING if name in found), names[0] if len(names) == 1 else None)
    require(
        train is not None,
        f"{where} has the splits {', '.join(names)}, none of which is named train; save the one to learn from alone, "
        "or rename it",
    )
    held = next((name for name in HELD_OUT if name in found and len(found[name])), None)
    require(len(found[train]) > 0, f"{where} has no rows in the split {train!r}; check that it was written")
    return found[train], None if held is None else found[held]


def parquet_files(place: Path) -> dict[str, list[str]]:
    """The Parquet files of a path by split, in the order of their names."""
    if place.is_file():
        return {"train": [str(place)]}
    files = [p for p in sorted(place.rglob("*")) if p.suffix in (".parquet", ".pq") and not p.name.startswith(".")]
    held = next((part for w in HELD_OUT if (part := [p for p in files if p.name.startswith(w)])), [])
    train = [p for p in files if p.name.startswith("train")] or [p for p in files if not p.name.startswith(HELD_OUT)]
    found = {"train": [str(p) for p in train]}
    return found | ({"test": [str(p) for p in held]} if held else {})


@contextlib.contextmanager
def reachable(path: str) -> Iterator[None]:
    """Context manager: errors of the hub become one that says what to do without a network."""
    try:
        yield
    except BeelineError:
        raise
    except Exception as error:  # of the network, of the hub, and of the cache
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        name = hub_name(path)[0]
        local = "" if path.startswith(PREFIX) else "there is no such path here, and "
        raise BeelineError(
            f"{path}: {local}the data set {name} of the Hugging Face hub could not be loaded ({reason}); check the "
            "name and the network, or save it on a machine that has one, with "
            f"datasets.load_dataset({name!r}).save_to_disk('FOLDER'), and give the folder"
        ) from error
