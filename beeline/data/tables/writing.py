"""Writing of tables to CSV and Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import extra, require
from beeline.core.files import replacing
from beeline.data.tables.infer import named
from beeline.data.tables.schema import EXACT


def save(raw: Any, path: str | Path, written: Mapping[str, str] | None = None) -> None:
    """Write a data frame as CSV, TSV, Parquet or NPZ, by the extension of the path; integers are written as integers.

    ``written`` is the dialect of a CSV file: encoding, sep and decimal, in the words of pandas.
    """
    path = Path(path)
    if path.suffix in (".parquet", ".pq"):
        with replacing(path) as temporary:
            named(raw).to_parquet(temporary, index=False)
        return
    if path.suffix in (".npz",):
        with replacing(path) as temporary, open(temporary, "wb") as out:
            np.savez_compressed(out, **arrays(raw))  # type: ignore[arg-type]
        return
    require(
        path.suffix in (".csv", ".tsv"),
        f"{path} is neither .csv, .tsv, .parquet nor .npz; choose one of these extensions",
    )
    tabs = {"sep": "\t"} if path.suffix in (".tsv",) else {}
    with replacing(path) as temporary:
        plain(raw).to_csv(temporary, index=False, **{"encoding": "utf-8", **(written or {}), **tabs})


def arrays(raw: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of a data frame as arrays of numbers, booleans or text, none of which need pickling."""
    made = {}
    for name, cells in named(raw).items():
        numbers = cells.dtype.kind in "biuf" and not cells.isna().any()
        if cells.dtype.kind in "iuf":
            made[str(name)] = cells.to_numpy() if numbers else cells.to_numpy(dtype=float, na_value=np.nan)
        elif numbers:
            made[str(name)] = cells.to_numpy(dtype=bool)
        else:
            made[str(name)] = cells.astype(object).where(cells.notna(), "").astype(str).to_numpy(dtype=str)
    return made


def plain(raw: Any) -> Any:
    """The rows with integer columns as integers, which missing values had converted to float."""
    made = named(raw).copy(deep=False)
    for name in made.columns:
        cells = made[name]
        if not isinstance(cells.dtype, np.dtype) or cells.dtype.kind not in "f" or cells.isna().all():
            continue
        full = cells.dropna()
        if ((full % 1 == 0) & (full.abs() <= EXACT)).all():
            made[name] = cells.astype("Int64")
    return made


def save_parts(parts: Iterator[Any], path: str | Path, written: Mapping[str, str] | None = None) -> int:
    """Write data frames to one Parquet (a row group each) or CSV file, in constant memory; returns the number of "
    "rows."""
    path, count = Path(path), 0
    arrow, parquet = extra("pyarrow", "tables"), extra("pyarrow.parquet", "tables")
    require(
        path.suffix in (".parquet", ".pq", ".csv"),
        f"{path} is neither .parquet nor .csv; choose one of these extensions",
    )
    with replacing(path) as temporary, contextlib.ExitStack() as opened:
        writer: Any = None
        for raw in parts:
            count += len(raw)
            if path.suffix in (".csv",):
                form = dict(written or {})
                encoding = form.pop("encoding", "utf-8")
                first = writer is None
                writer = writer or opened.enter_context(open(temporary, "w", newline="", encoding=encoding))
                plain(raw).to_csv(writer, index=False, header=first, **form)
                continue
            rows = arrow.Table.from_pandas(named(raw), preserve_index=False)
            writer = writer or opened.enter_context(parquet.ParquetWriter(temporary, rows.schema))
            writer.write_table(rows.cast(writer.schema))
    return count
