"""Reading of CSV files: detection of their settings, validation of their rows, types of their columns."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from beeline.core.errors import BeelineError, extra, require
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.schema import listed

MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks of encodings; other files are UTF-8, or else cp1252."""
Array = np.ndarray[Any, Any]
SEPARATORS = ",;\t|"
SNIFFED = 200  # records from which the separator is detected
BLOCK = 1000  # rows that are held as Python objects at a time; larger blocks cost more in garbage collection
WHOLE = re.compile(r"(?:0|-?[1-9]\d*)", re.ASCII)
BROKEN = r"[+-]?(?:(?:0|[1-9]\d*)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Dialect:
    """Settings of a CSV file; None is detected."""

    sep: str | None = None  # separator of cells, one character
    decimal: str | None = None  # decimal sign of numbers
    encoding: str | None = None  # Python name of the encoding
    comment: str | None = None  # first character of comment lines
    skip: int = 0  # number of lines before the header

    def __post_init__(self) -> None:
        for name, value in (("sep", self.sep), ("decimal", self.decimal), ("comment", self.comment)):
            require(
                value is None or (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'),
                f"{name}={value!r} was given for a CSV file; it is one character and no quote; give for example ';'",
            )
        require(
            self.sep is None or self.sep not in (self.decimal, self.comment),
            f"sep={self.sep!r} is also the decimal sign or the comment character; change one of them",
        )
        require(
            isinstance(self.skip, int) and not isinstance(self.skip, bool) and self.skip >= 0,
            f"skip={self.skip!r} is no number of lines before the header; give an integer of 0 or more",
        )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, TypeError, ValueError):
                raise BeelineError(
                    f"encoding={self.encoding!r} is unknown; give for example utf-8, cp1252 or utf-16"
                ) from None

    @property
    def written(self) -> dict[str, str]:
        """Arguments of pandas for writing such a file."""
        return {k: v for k, v in asdict(self).items() if k in ("sep", "decimal", "encoding") and v is not None}

    def of(self, path: Path) -> Dialect:
        """The settings of a file, with None replaced by detected values."""
        encoding = self.encoding or _encoding(path)
        with _Lines(path, encoding, self) as lines:
            start = [line for _, line in zip(range(20 * SNIFFED), lines, strict=False)]
        require(
            any(line.strip() for line in start),
            f"{path} is empty; check that it was written",
        )
        sep = self.sep or ("\t" if plain_name(path).endswith(".tsv") else _separator(start))
        cells = {cell for row in _records(start, sep)[1:] for cell in row}
        comma = any(re.fullmatch(r"-?\d{1,3}(\.\d{3})*,\d+|-?\d+,\d+", cell) for cell in cells)
        point = any(re.fullmatch(r"-?\d{1,3}(,\d{3})*\.\d+|-?\d+\.\d+", cell) for cell in cells)
        # 1,234 may have a thousands separator: with decimal points, a comma is no decimal sign
        decimal = self.decimal or ("," if comma and not point and sep not in (",",) else ".")
        return Dialect(sep, decimal, encoding, self.comment, self.skip)


class _Lines:
    """The lines of a text file after ``skip`` lines and without comments; ``at`` is the current line number."""

    def __init__(self, path: Path, encoding: str, dialect: Dialect):
        self.path, self.encoding, self.dialect, self.at = path, encoding, dialect, 0
        self.file: IO[str] | None = None

    def __enter__(self) -> _Lines:
        self.file = opened(self.path, newline="", encoding=self.encoding)
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()

    def __iter__(self) -> Iterator[str]:
        assert self.file is not None
        try:
            for line in self.file:
                self.at += 1
                if "\0" in line:
                    raise BeelineError(
                        f"{self.path}, line {self.at}: there is a zero byte, so it is no CSV file, or "
                        "damaged; write it again"
                    )
                comment = self.dialect.comment is not None and line.startswith(self.dialect.comment)
                if self.at > self.dialect.skip and not comment:
                    yield line
        except UnicodeError:
            raise BeelineError(
                f"{self.path}, line {self.at + 1}: the bytes are not {self.encoding}; give the encoding of the file"
            ) from None


def read_csv(paths: Sequence[Path], dialect: Dialect, text: Sequence[str] = (), rows: int | None = None) -> Any:
    """CSV files with the same columns as one data frame, of the first ``rows`` rows of each where given.

    Malformed rows are refused with their line, and a file with other columns than the first one by its name.
    Columns named in ``text`` stay text.  Others are integers, floats or booleans where all of their cells are
    written as such; numbers with leading zeros, such as 01034, are text.
    """
    pa = extra("pyarrow", "tables")
    header: list[str] = []
    parts: dict[str, list[Any]] = {}
    decimals = []
    for path in paths:
        try:
            settings = dialect.of(path)
            found, columns = _parsed(path, settings, rows)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BeelineError(
                f"{path} cannot be decompressed ({error}); it is damaged: restore it from a copy"
            ) from error
        header = header or found
        agree(header, found, paths[0], path)
        decimals.append(settings.decimal)
        for name, cells in zip(found, columns, strict=True):
            parts.setdefault(name, []).extend(cells.chunks)
    decimal = "," if "," in decimals else "."  # a part without fractions shows none
    made = {}
    for name in header:
        cells = pa.chunked_array(parts[name], pa.large_string())
        coded = cells.combine_chunks().dictionary_encode()  # types follow from the distinct cells alone
        distinct, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
        made[name] = _as_text(distinct, codes) if name in text else typed(distinct, codes, decimal)
    return pandas().DataFrame(made)


def agree(ours: Sequence[str], theirs: Sequence[str], first: Path, file: Path) -> None:
    """Refuse a part of a table whose columns are not those of the first part; their order may differ."""
    lacks = [name for name in ours if name not in theirs]
    more = [name for name in theirs if name not in ours]
    require(
        not lacks and not more,
        f"{file} has other columns than {first}"
        + (f"; it lacks {listed(map(repr, lacks))}" if lacks else "")
        + (f"; it also has {listed(map(repr, more))}" if more else "")
        + "; the parts of a table have the same columns: correct it, move it away, or give one file, not the folder",
    )


def _parsed(path: Path, dialect: Dialect, rows: int | None) -> tuple[list[str], list[Any]]:
    """(header, one Arrow column of text per name); every row has as many cells as the header, or its line is named."""
    pa = extra("pyarrow", "tables")
    header: list[str] = []
    parts: list[list[Any]] = []
    block: list[list[str]] = []
    count, longer, first, begin = 0, 0, "", 1

    def flush() -> None:
        for part, cells in zip(parts, zip(*block, strict=True), strict=False):
            part.append(pa.array(cells, pa.large_string()))
        block.clear()

    assert dialect.sep is not None
    with _Lines(path, str(dialect.encoding), dialect) as lines:
        reader = csv.reader(iter(lines), delimiter=dialect.sep, strict=True)
        try:
            for row in reader:
                if header and len(row) == len(header):
                    count += 1
                    block.append(row)
                    if len(block) == BLOCK:
                        flush()
                elif row and not header:
                    header = row
                    names(header, str(path))
                    parts = [[] for _ in header]
                elif len(row) == len(header) + 1:
                    count, longer = count + 1, longer + 1
                    first = first or _ragged(path, begin, row, header)
                elif row:
                    raise BeelineError(_ragged(path, begin, row, header))
                begin = lines.at + 1
        except csv.Error as error:
            raise BeelineError(
                f"{path}, line {begin}: {error}; a quote was opened and not closed, or stands within a cell: "
                'close it, and write a quote within a cell twice (""), or give another sep'
            ) from None
    flush()
    require(
        not longer or longer < count or header[0].startswith(("#", "%")),
        f"{path}: every row has one cell more than the header, as R writes the names of its rows; write it with "
        "row.names=FALSE, or name the first column in the header",
    )
    require(not longer, first)
    require(header, f"{path} is empty; check that it was written")
    require(count > 0, f"{path} has a header but no rows; check that it was written")
    return header, [pa.chunked_array(part, pa.large_string()).slice(0, rows) for part in parts]


def names(header: Sequence[Any], what: str = "the table") -> None:
    """Refuse a header with unnamed or repeated columns."""
    unnamed = [i + 1 for i, name in enumerate(header) if not str(name).strip()]
    require(
        not unnamed,
        f"column {listed(unnamed)} of {what} has no name; give it one in the header "
        "(pandas writes no index column with index=False)",
    )
    seen: dict[str, int] = {}
    for name in header:
        seen[str(name)] = seen.get(str(name), 0) + 1
    twice = sorted(name for name, times in seen.items() if times > 1)
    require(
        not twice,
        f"{what} has more than one column named {listed(map(repr, twice))}; rename them",
    )


def typed(distinct: Sequence[str], codes: Array, decimal: str = ".") -> Any:
    """The cells distinct[codes] in the type that all of them are written in; empty cells are missing values.

    >>> typed(["3", "", "-1"], np.array([0, 1, 2, 0])).tolist()
    [3, <NA>, -1, 3]
    """
    pd = pandas()
    full = [text for text in distinct if text]
    gaps = np.array([not text for text in distinct])[codes]
    if not full:
        return pd.Series(np.full(len(codes), np.nan))
    if all(map(WHOLE.fullmatch, full)):
        whole = _whole(full)
        if whole is not None:
            made = _spread(whole, distinct, 0)[codes]
            return pd.Series(pd.arrays.IntegerArray(made, gaps) if gaps.any() else made)
    elif all(map(re.compile(BROKEN.format(point=re.escape(decimal)), re.ASCII).fullmatch, full)):
        numbers = np.array([float(text.replace(decimal, ".")) for text in full])
        if np.isfinite(numbers).all():
            return pd.Series(_spread(numbers, distinct, np.nan)[codes])
    if set(full) <= {"True", "False"}:
        truth = np.array([text == "True" for text in distinct])[codes]
        return pd.Series(truth) if not gaps.any() else pd.Series(truth, dtype=object).mask(gaps)
    return _as_text(distinct, codes)


def _as_text(distinct: Sequence[str], codes: Array) -> Any:
    """The cells distinct[codes] as text; empty ones are None."""
    return pandas().Series(np.array([text or None for text in distinct], dtype=object)[codes], dtype=object)


def _spread(values: Array, distinct: Sequence[str], empty: float) -> Array:
    """The values of the distinct cells that are not empty, with ``empty`` where they are."""
    made = np.full(len(distinct), empty, dtype=values.dtype)
    made[np.array([bool(text) for text in distinct])] = values
    return made


def _whole(full: Sequence[str]) -> Array | None:
    """Integers as int64 or uint64; None where they need more bits."""
    values = [int(text) for text in full] if max(map(len, full)) <= 20 else [2**64]
    low, high = min(values), max(values)
    if -(2**63) <= low and high < 2**63:
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=np.uint64) if low >= 0 and high < 2**64 else None


def _ragged(path: Path, line: int, row: Sequence[str], header: Sequence[str]) -> str:
    marks = [cells[0].lstrip()[:1] for cells in (row, header) if cells and cells[0].lstrip()[:1] in ("#", "%")]
    comment = marks[0] if marks else ""
    return (
        f"{path}, line {line}: there are {len(row)} cells where the header has {len(header)}; correct the line, quote "
        "cells that hold the separator, or "
        + (f"leave comments out with comment={comment!r}" if comment else "give sep, comment or skip if they differ")
    )


def _separator(start: Sequence[str]) -> str:
    """The separator under which the first records, quotes respected, have equally many cells, and most of them."""

    def score(sep: str) -> tuple[float, int]:
        widths = [len(row) for row in _records(start[:SNIFFED], sep) if row]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(w == widths[0] for w in widths) / len(widths), widths[0]

    return max(SEPARATORS, key=score)


def _records(lines: Sequence[str], sep: str) -> list[list[str]]:
    found: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=sep):
            found.append(row)
    except csv.Error:  # reported with its line number when the file is read
        pass
    return found


def plain_name(path: Path) -> str:
    """The name of a file in lower case, without the ending of its compression."""
    return path.name.lower().removesuffix(".gz")


def opened(path: Path, mode: str = "rt", **how: Any) -> IO[Any]:
    """A file as text or bytes, decompressed where its name ends with .gz."""
    open_file: Any = gzip.open if path.suffix.lower() == ".gz" else open
    file: IO[Any] = open_file(path, mode, **how)
    return file


def _encoding(path: Path) -> str:
    with opened(path, "rb") as raw:
        head = raw.read(4)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    return next((name for name in (marked, "cp1252") if _decodes(path, name)), "latin-1")


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with opened(path, newline="", encoding=encoding) as file:
            while file.read(1 << 20):
                pass
    except UnicodeError:
        return False
    return True
