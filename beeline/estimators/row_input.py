"""What a user hands to a flow of a table: rows and random states in the ways of scikit-learn."""

from __future__ import annotations

import secrets
import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np

from beeline.core.errors import require
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.schema import Identifier
from beeline.data.tables.table import Table


@runtime_checkable
class _Array(Protocol):
    """What numpy takes as an array."""

    def __array__(self) -> Any: ...


def frame_of(X: Any) -> Any:
    """A data frame, or an array of rows as one."""
    pd = pandas()
    if isinstance(X, pd.DataFrame):
        return X
    require(
        isinstance(X, _Array) and np.ndim(X) == 2,
        f"got {type(X).__name__} in place of a table; give a pandas DataFrame, an array of rows, or the path of a file",
    )
    return pd.DataFrame(np.asarray(X), columns=[f"x{i}" for i in range(np.shape(X)[1])])


def seed_of(random_state: Any) -> int:
    """The seed of a state in the ways of scikit-learn: a whole number, None for another one every time."""
    if random_state is None:
        return secrets.randbits(62)
    require(
        isinstance(random_state, int | np.integer) and not isinstance(random_state, bool),
        f"random_state={random_state!r} is no whole number; give one, or None for another one every time",
    )
    return int(random_state)


def tell_lost(table: Table) -> None:
    """Say which columns are not learned because they name the rows; an identifier that was asked for is no news."""
    lost = [column.name for column in table.columns.columns if isinstance(column, Identifier)]
    if lost:
        warnings.warn(
            f"not learned, because they name the rows: {', '.join(lost)}; they are replaced by fresh numbers. "
            "Give schema={name: {'kind': ...}} to learn them, or exclude=[...] to leave them out",
            stacklevel=3,
        )


def say(entry: dict[str, Any]) -> None:
    """Print notes and held-out losses of a training."""
    if "note" in entry:
        print(entry["note"])
    elif "heldout" in entry:
        held = entry["heldout"]["ema"]["value"]
        print(f"step {entry['step']}: loss {entry['loss']:.4f}, held out {held:.4f}", flush=True)
