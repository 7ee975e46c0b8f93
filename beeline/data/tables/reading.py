"""Reading of CSV and Parquet files as data frames, with errors that name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError, extra, require
from beeline.data.hub.features import columns_of, stored_features, with_class_names
from beeline.data.hub.opening import is_name, is_saved, splits
from beeline.data.tables.csv_files import Dialect, agree, plain_name, read_csv
from beeline.data.tables.dtypes import pandas

TEXTS = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")


def read(
    path: str | Path, rows: int | None = None, *, dialect: Dialect | None = None, text: tuple[str, ...] = ()
) -> Any:
    """A CSV (.csv, .tsv, also as .gz) or Parquet file as a data frame; ValueError if it is empty or damaged.

    A folder is the table of its parts, or a data set of the Hugging Face library; hf:owner/name is one of the hub.
    Columns of a CSV file that are named in ``text`` stay text.
    """
    if is_hub(path):
        return hub_frame(splits(str(path))[0], str(path))
    files = table_files(path)
    if files[0].suffix.lower() in PARQUET:
        table = joined([(file, whole_parquet(file)) for file in files])
        with damaged(files[0]):
            frame = arrow_frame(table)
        return frame if rows is None else frame.head(rows)
    return read_csv(files, dialect or Dialect(), text, rows)


def is_hub(path: str | Path) -> bool:
    """Whether a path is a data set of the Hugging Face library, saved or by name."""
    return is_name(str(path)) or is_saved(Path(path))


def hub_frame(split: Any, where: str) -> Any:
    """A split of a data set of the Hugging Face library as a data frame, classes by their names."""
    columns = columns_of(split.features)
    require(
        columns.scalars and not columns.unknown,
        f"{where} has columns that no table has ({', '.join(f'{k} of {v}' for k, v in columns.unknown.items())}); save "
        "it without them: remove_columns([...]).save_to_disk(...)",
    )
    return arrow_frame(with_class_names(split.with_format("arrow")[:], columns.classes))


def table_files(path: str | Path) -> list[Path]:
    """The files of a table: one file, or the parts in a folder in the order of their names."""
    place = Path(path)
    if not place.is_dir():
        file = regular(place)
        require(
            plain_name(file).endswith((*TEXTS, ".txt", *PARQUET)),
            f"{file} is neither CSV nor Parquet by its name; give a .csv, .tsv, .csv.gz or .parquet file",
        )
        return [file]
    files = [f for f in sorted(place.rglob("*")) if f.is_file() and not _hidden(f, place)]
    texts = [f for f in files if plain_name(f).endswith(TEXTS)]
    parquet = [f for f in files if f.suffix.lower() in PARQUET]
    require(
        not (texts and parquet),
        f"{place} holds CSV files ({texts[0].name if texts else ''}, ...) and Parquet files "
        f"({parquet[0].name if parquet else ''}, ...), and the parts of a table are of one kind; move one kind away, "
        "or name a file",
    )
    require(
        texts or parquet,
        f"{place} is a directory without .csv, .tsv or .parquet files; a table is read from such files: give their "
        "folder, or one of them",
    )
    return texts or parquet


def joined(parts: Sequence[tuple[Path, Any]]) -> Any:
    """The Arrow table of several parts; ValueError names the file whose columns differ from those of the first."""
    arrow = extra("pyarrow", "tables")
    first, table = parts[0]
    for file, part in parts[1:]:
        agree(table.column_names, part.column_names, first, file)
        for name in table.column_names:
            ours, theirs = (str(t.schema.field(name).type) for t in (table, part))
            same = ours == theirs or "null" in (ours, theirs) or _number(arrow, table, part, name)
            require(
                same,
                f"{file}: column {name!r} holds {theirs}, and {ours} in {first}; the parts of a table have the same "
                "columns: convert it, or move the file away",
            )
    if len(parts) == 1:
        return table
    order = table.column_names
    return arrow.concat_tables([part.select(order) for _, part in parts], promote_options="permissive")


def _number(arrow: Any, table: Any, part: Any, name: str) -> bool:
    kinds = (table.schema.field(name).type, part.schema.field(name).type)
    return all(arrow.types.is_integer(k) or arrow.types.is_floating(k) for k in kinds)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)


def regular(path: str | Path) -> Path:
    """The path of a file that can be read; a directory, a pipe or a device is refused."""
    path = Path(path)
    require(path.exists(), f"there is no file {path}; check the path")
    require(
        path.is_file(),
        f"{path} is {'a directory' if path.is_dir() else 'no regular file'}; this table is read from a .csv, .tsv or "
        ".parquet file: give its path",
    )
    return path


def whole_parquet(path: Path) -> Any:
    """The Arrow table of a Parquet file."""
    parquet = extra("pyarrow.parquet", "tables")
    with damaged(path):
        table = parquet.ParquetFile(path, memory_map=False).read()
    return with_class_names(table, columns_of(stored_features(table.schema)).classes)


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
