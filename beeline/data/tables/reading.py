"""Reading of CSV and Parquet files as data frames, with errors that name the file."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError, extra, require
from beeline.data.tables.csv_files import Dialect, plain_name, read_csv
from beeline.data.tables.dtypes import pandas


def read(
    path: str | Path, rows: int | None = None, *, dialect: Dialect | None = None, text: tuple[str, ...] = ()
) -> Any:
    """A CSV (.csv, .tsv, also as .gz) or Parquet file as a data frame; ValueError if it is empty or damaged.

    Columns of a CSV file that are named in ``text`` stay text.
    """
    path = regular(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        table = whole_parquet(path)
        with damaged(path):
            frame = arrow_frame(table)
        return frame if rows is None else frame.head(rows)
    require(
        plain_name(path).endswith((".csv", ".tsv", ".txt")),
        f"{path} is neither CSV nor Parquet by its name; give a .csv, .tsv, .csv.gz or .parquet file",
    )
    try:
        return read_csv(path, dialect or Dialect(), text, rows)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BeelineError(f"{path} cannot be decompressed ({error}); it is damaged: restore it from a copy") from error


def regular(path: str | Path) -> Path:
    """The path of a file that can be read; a directory, a pipe or a device is refused."""
    path = Path(path)
    require(path.exists(), f"there is no file {path}; check the path")
    require(
        path.is_file(),
        f"{path} is {'a directory' if path.is_dir() else 'no regular file'}; a table is read from a .csv, .tsv or "
        ".parquet file: give its path",
    )
    return path


def whole_parquet(path: Path) -> Any:
    """The Arrow table of a Parquet file."""
    parquet = extra("pyarrow.parquet", "tables")
    with damaged(path):
        return parquet.read_table(path, memory_map=False)


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Convert errors of Arrow to a ValueError that names the file."""
    try:
        yield
    except BeelineError:
        raise
    except Exception as error:  # the kinds are many: of Arrow, of pandas for its own notes in the file, of memory
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BeelineError(
            f"{path} cannot be read as Parquet ({reason}); it is damaged, cut, or of another kind: write or copy it "
            "again"
        ) from error


def arrow_frame(table: Any) -> Any:
    """A data frame of an Arrow table, in types that hold every cell exactly and go back to Arrow as they came."""
    pd, arrow = pandas(), extra("pyarrow", "tables")
    types = arrow.types

    def kept(kind: Any) -> Any:
        plain = types.is_date(kind) or types.is_time(kind) or types.is_decimal(kind)
        return pd.ArrowDtype(kind) if plain else None

    frame = table.to_pandas(types_mapper=kept)
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    for field in table.schema:  # whole numbers with gaps would become float64
        if field.name not in frame.columns or table.column(field.name).null_count == 0:
            continue
        gaps = str(field.type).replace("int", "Int").replace("uI", "UI")
        if types.is_boolean(field.type):
            frame[field.name] = table.column(field.name).to_pandas(types_mapper=lambda _: pd.BooleanDtype()).array
        elif types.is_integer(field.type):
            exact = pd.api.types.pandas_dtype(gaps)
            frame[field.name] = table.column(field.name).to_pandas(types_mapper=lambda _, d=exact: d).array
    return frame
