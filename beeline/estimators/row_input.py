"""Arguments of TabularFlow: rows and random states as in scikit-learn."""

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
    """Anything that numpy converts to an array."""

    def __array__(self) -> Any: ...


def frame_of(X: Any) -> Any:
    """A data frame, or an array of rows converted to one."""
    pd = pandas()
    if isinstance(X, pd.DataFrame):
        return X
    require(
        isinstance(X, _Array) and np.ndim(X) == 2,
        f"got {type(X).__name__}, which is no table; give a pandas DataFrame, an array of rows, or the path of a file",
    )
    return pd.DataFrame(np.asarray(X), columns=[f"x{i}" for i in range(np.shape(X)[1])])


def seed_of(random_state: Any) -> int:
    """The seed of a random state: an integer, or None for a random seed."""
    if random_state is None:
        return secrets.randbits(62)
    require(
        isinstance(random_state, int | np.integer) and not isinstance(random_state, bool),
        f"random_state={random_state!r} is no integer; give an integer, or None for a random seed",
    )
    return int(random_state)


def warn_not_learned(table: Table) -> None:
    """Warn about identifier columns, which are not learned."""
    lost = [column.name for column in table.columns.columns if isinstance(column, Identifier)]
    if lost:
        warnings.warn(
            f"the columns {', '.join(lost)} identify rows, so they are not learned but replaced by new numbers; give "
            "schema={name: {'kind': ...}} to learn them, or exclude=[...] to drop them",
            stacklevel=3,
        )


def say(entry: dict[str, Any]) -> None:
    """Print notes and held-out losses during training."""
    if "note" in entry:
        print(entry["note"])
    elif "heldout" in entry:
        held = entry["heldout"]["ema"]["value"]
        print(f"step {entry['step']}: loss {entry['loss']:.4f}, held out {held:.4f}", flush=True)
