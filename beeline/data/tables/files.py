"""Data sets of tables: CSV and Parquet files in memory, and Parquet files read by row group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from beeline.core.errors import BeelineError, extra, nearest, require
from beeline.core.ranges import Inside, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, stack
from beeline.data.hub.opening import splits
from beeline.data.labels import divide
from beeline.data.modality import DataSetBase
from beeline.data.tables.csv_files import Dialect
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.infer import infer, label, named
from beeline.data.tables.reading import PARQUET, arrow_frame, damaged, hub_frame, is_hub, read, regular, table_files
from beeline.data.tables.schema import Boolean, Category, Datetime, Identifier, Schema
from beeline.data.tables.table import Raw, Table


@dataclass(frozen=True)
class TableFile(DataSetBase):
    """A table from CSV or Parquet files; its schema is inferred, and corrected by ``schema`` and ``corrections``.

    (training, held-out) rows, with 1 - held_out and held_out of the file
    A folder is the table of all CSV, or all Parquet files in it, which have the same columns.  A Hugging Face data set,
    saved with save_to_disk or hf:owner/name of the hub, gives its split test or validation as held-out rows.
    Assumes that the order of the rows is irrelevant.  Held-out rows are a fixed random choice; rows with the only
    cells of some level remain in training.

    >>> TableFile("adult.csv", corrections={"zip": {"kind": "category"}}).modality().schema
    {'zip': {'kind': 'category'}}
    """

    path: str  # a .csv, .tsv or .parquet file, a folder of them, or a Hugging Face data set
    held_out: Inside = 0.1  # held-out fraction, between 0 and 1
    exclude: tuple[str, ...] = ()  # columns that are not used
    schema: str | None = None  # a YAML file of corrections, as Schema.yaml writes it
    corrections: Mapping[str, Any] = field(default_factory=dict)  # column -> settings; they override the file
    sep: str | None = None  # CSV separator; None is detected, as are the next two
    decimal: str | None = None  # CSV decimal sign
    encoding: str | None = None  # CSV encoding, by its Python name
    comment: str | None = None  # first character of comment lines
    skip: int = 0  # number of lines before the header

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        self.csv  # noqa: B018 - refuses settings that no file can have

    @property
    def csv(self) -> Dialect:
        """The given CSV settings."""
        return Dialect(self.sep, self.decimal, self.encoding, self.comment, self.skip)

    @property
    def detected(self) -> Dialect | None:
        """The CSV settings with undetermined ones detected, of the first file; None for Parquet and Arrow."""
        if is_hub(self.path):
            return None
        file = table_files(self.path)[0]
        return None if file.suffix.lower() in PARQUET else self.csv.of(file)

    @property
    def given(self) -> dict[str, Any]:
        """Corrections of the schema, by column."""
        given: dict[str, Any] = {}
        if self.schema is not None:
            require(Path(self.schema).is_file(), f"there is no schema file {self.schema}; check the path")
            try:
                text = Path(self.schema).read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError) as error:
                raise BeelineError(f"{self.schema} cannot be read as text ({error}); save it in UTF-8") from None
            given = dict(Schema.parse(text).plain())
        for name, correction in self.corrections.items():
            require(
                isinstance(correction, Mapping),
                f"the correction of column {str(name)!r} is {correction!r}; give settings, as in {{kind: category}}",
            )
            given[str(name)] = {**given.get(str(name), {}), **correction}
        return given

    def modality(self) -> Table:
        exists = Path(self.path).exists()
        dialect = self.detected if exists else None
        return Table(schema=self.given, dialect={} if dialect is None else dialect.written)

    def read(self) -> Raw:
        """All rows, without excluded columns."""
        return leave_out(read(self.path, dialect=self.csv, text=as_text(self.given)), self.exclude, self.path)

    def read_file(self, path: str) -> Raw:
        return replace(self, path=path).read()

    def summary(self) -> str:
        """The inferred schema and the CSV settings as text."""
        raw, dialect = self.read(), self.detected
        lines = self._schema(raw, dialect).summary()
        return lines if dialect is None else f"{lines}\n{described(dialect)}"

    def load(self) -> tuple[Raw, Raw]:
        """(training, held-out) rows; ValueError names the file or the column, and the rows."""
        raw = self.read()
        held = splits(self.path)[1] if is_hub(self.path) else None
        if held is not None and set(raw.columns) <= set(held.column_names):
            return raw, leave_out(hub_frame(held, self.path), self.exclude, self.path)[list(raw.columns)]
        return parted(raw, self._schema(raw, self.detected), self.held_out, self.path)

    def _schema(self, raw: Raw, dialect: Dialect | None) -> Schema:
        return infer(raw, self.given, (dialect.decimal if dialect else None) or ".")


def as_text(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns whose given kind needs the original text."""
    kept = {kind.kind for kind in (Category, Identifier, Datetime)}
    return tuple(str(name) for name, settings in given.items() if settings.get("kind") in kept)


def described(dialect: Dialect) -> str:
    """CSV settings as text."""
    parts = [f"{name} {value!r}" for name, value in dialect.written.items()]
    return f"read as CSV with {', '.join(parts)} (settings of these names change it)"


@dataclass(frozen=True)
class TableStream(DataSetBase):
    """A Parquet file larger than memory: the schema is inferred from a part, rows are read by row group.

    microbatch n holds rows n size ... of an order that shuffles the row groups, and the rows within each
    Assumes that two row groups fit into memory, and that ``first`` rows, from all row groups, have every level of every
    category; other levels raise ValueError when they are read.

    >>> TableStream("logs.parquet").first
    100000
    """

    path: str  # a .parquet file
    first: int = 100_000  # rows for the schema, the quantiles and the held-out rows
    held_out: Inside = 0.1  # held-out fraction of these
    exclude: tuple[str, ...] = ()  # columns that are not used
    corrections: Mapping[str, Any] = field(default_factory=dict)  # column -> settings

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        require(self.first >= 1, f"TableStream got first={self.first}, but it is a number of rows; give 1 or more")

    def modality(self) -> Table:
        return Table(schema=dict(self.corrections))

    @cached_property
    def file(self) -> Any:
        path = regular(self.path)
        require(
            path.suffix in (".parquet", ".pq"),
            f"{self.path} has no Parquet extension, but only Parquet can be read in parts; convert it, or use "
            "TableFile",
        )
        parquet = extra("pyarrow.parquet", "tables")
        with damaged(path):
            return parquet.ParquetFile(path)

    def load(self) -> tuple[Raw, Raw]:
        """(training, held-out) rows of a part of the file, with equally many rows of every row group."""
        groups = self.file.num_row_groups
        require(groups > 0, f"{self.path} has no rows; check that it was written")
        each = max(1, -(-self.first // groups))
        parts = []
        for g in range(groups):
            rows = self.group(g)
            keep = Rng(0).fork("first", g).permutation(len(rows))[:each].sort().values
            parts.append(rows.iloc[keep.numpy()])
        raw = pandas().concat(parts, ignore_index=True)
        return parted(raw, infer(raw, self.corrections), self.held_out, self.path)

    def summary(self) -> str:
        """The schema as text, inferred from the first rows."""
        return infer(pandas().concat(self.load(), ignore_index=True), self.corrections).summary()

    def group(self, number: int) -> Raw:
        """One row group as a data frame."""
        with damaged(Path(self.path)):
            rows = arrow_frame(self.file.read_row_group(number))
        return leave_out(rows, self.exclude, self.path)

    def microbatches(self, table: Table, rng: Rng) -> StreamMicrobatches:
        """Microbatches of the whole file."""
        return StreamMicrobatches(self, table, rng)


@dataclass(frozen=True, eq=False)
class StreamMicrobatches:
    """Microbatches of a Parquet file, shuffled by row group and within row groups.

    position p = n size + i runs through the row groups of epoch p div N in their shuffled order
    Assumes a fitted table.
    """

    stream: TableStream
    table: Table
    rng: Rng

    def __len__(self) -> int:
        return int(self.stream.file.metadata.num_rows)

    def microbatch(self, number: int, size: int) -> Batch:
        parts = []
        for k, (epoch, group, start, stop) in enumerate(self._pieces(number * size, size)):
            cells = _cells(self, epoch, group).take(torch.arange(start, stop))
            parts.append(Batch(cells.coordinates(self.rng.fork("paint", number, size, k))))
        return parts[0] if len(parts) == 1 else stack(parts)

    def _pieces(self, position: int, size: int) -> Iterator[tuple[int, int, int, int]]:
        """(epoch, row group, first row, end) of the rows of a microbatch, in order."""
        meta = self.stream.file.metadata
        while size > 0:
            epoch, at = divmod(position, len(self))
            for group in self.rng.fork("groups", epoch).permutation(meta.num_row_groups).tolist():
                length = meta.row_group(group).num_rows
                if at < length and size > 0:
                    stop = min(length, at + size)
                    yield epoch, group, at, stop
                    position, size, at = position + stop - at, size - (stop - at), stop
                at -= length
            # remaining rows are from the next epoch


@lru_cache(maxsize=2)
def _cells(microbatches: StreamMicrobatches, epoch: int, group: int) -> Any:
    rows = microbatches.stream.group(group)
    return microbatches.table.cells(rows).take(microbatches.rng.fork("rows", epoch, group).permutation(len(rows)))


def leave_out(raw: Raw, names: tuple[str, ...], what: str) -> Raw:
    """A table without some columns; ValueError if it lacks one of them."""
    known = {label(name): name for name in raw.columns}
    for name in map(label, names):
        require(name in known, f"{what} has no column {name!r} to leave out; {nearest(name, known)}")
    return raw.drop(columns=[known[label(name)] for name in names]) if names else raw


def parted(raw: Raw, schema: Schema, share: float, what: str) -> tuple[Raw, Raw]:
    """(training, held-out) rows; rows with the only cells of some level remain in training."""
    train, held = divide(len(raw), share, what)
    columns, raw = raw.columns, named(raw)
    some, other = raw.iloc[train], raw.iloc[held]
    lone = other.iloc[:, 0].isna() & False
    for column in schema.columns:
        if isinstance(column, Category | Boolean):
            lone |= ~other[column.name].isin(some[column.name].unique())
        lone |= other[column.name].isna() & (not some[column.name].isna().any())
    some, other = pandas().concat([some, other[lone]]).sort_index(), other[~lone]
    return tuple(part.reset_index(drop=True).set_axis(columns, axis=1) for part in (some, other))  # type: ignore[return-value]
