"""CSV files: how one is written, whether its rows are whole, and its columns in the types that its cells say."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.schema import listed

MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What files begin with that say how they are encoded; others are UTF-8, or else of an old Windows."""
SEPARATORS = ",;\t|"
SNIFFED = 200  # records from which the separator is told
WHOLE = r"(?:0|-?[1-9]\d*)"
BROKEN = r"[+-]?(?:(?:0|[1-9]\d*)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written; what is None is told from the file."""

    sep: str | None = None  # what parts the cells of a row, one character
    decimal: str | None = None  # the decimal sign of numbers
    encoding: str | None = None  # as Python names it
    comment: str | None = None  # the character with which lines begin that are no rows
    skip: int = 0  # lines before the header

    def __post_init__(self) -> None:
        for name, value in (("sep", self.sep), ("decimal", self.decimal), ("comment", self.comment)):
            require(
                value is None or (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'),
                f"{name}={value!r} was given for a CSV file; it is one character and no quote: give for example ';'",
            )
        require(
            self.sep is None or self.sep not in (self.decimal, self.comment),
            f"sep={self.sep!r} is also the decimal sign or begins comments; one character has one meaning: change one",
        )
        require(
            isinstance(self.skip, int) and not isinstance(self.skip, bool) and self.skip >= 0,
            f"skip={self.skip!r} lines were to be left out before the header; give a whole number from 0",
        )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, TypeError, ValueError):
                raise BeelineError(
                    f"encoding={self.encoding!r} is none that Python knows; give utf-8, cp1252 or utf-16"
                ) from None

    @property
    def written(self) -> dict[str, str]:
        """The words of pandas for writing such a file."""
        return {k: v for k, v in asdict(self).items() if k in ("sep", "decimal", "encoding") and v is not None}

    def of(self, path: Path) -> Dialect:
        """The dialect of a file, with nothing left open."""
        encoding = self.encoding or _encoding(path)
        with _Lines(path, encoding, self) as lines:
            start = [line for _, line in zip(range(20 * SNIFFED), lines, strict=False)]
        require(
            any(line.strip() for line in start),
            f"{path} is empty; a table needs a header and rows: check that it was written",
        )
        sep = self.sep or ("\t" if path.suffix.lower() in (".tsv",) else _separator(start))
        cells = {cell for row in _records(start, sep)[1:] for cell in row}
        comma = any(re.fullmatch(r"-?\d{1,3}(\.\d{3})*,\d+|-?\d+,\d+", cell) for cell in cells)
        point = any(re.fullmatch(r"-?\d{1,3}(,\d{3})*\.\d+|-?\d+\.\d+", cell) for cell in cells)
        # 1,234 may be thousands: where a column has points, commas are no decimal sign
        decimal = self.decimal or ("," if comma and not point and sep not in (",",) else ".")
        return Dialect(sep, decimal, encoding, self.comment, self.skip)


class _Lines:
    """The lines of a text file without those before the header and the comments; its line numbers in ``at``."""

    def __init__(self, path: Path, encoding: str, dialect: Dialect):
        self.path, self.encoding, self.dialect, self.at = path, encoding, dialect, 0
        self.file: IO[str] | None = None

    def __enter__(self) -> _Lines:
        self.file = open(self.path, newline="", encoding=self.encoding)
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
                        f"{self.path}, line {self.at}: there is a zero byte, which no text holds; it is no CSV file, "
                        "or it is damaged: write it again"
                    )
                comment = self.dialect.comment is not None and line.startswith(self.dialect.comment)
                if self.at > self.dialect.skip and not comment:
                    yield line
        except UnicodeError:
            raise BeelineError(
                f"{self.path}, line {self.at + 1}: this is not text in {self.encoding}; give its encoding"
            ) from None


def read_csv(path: Path, dialect: Dialect, text: Sequence[str] = (), rows: int | None = None) -> Any:
    """A CSV file as a data frame; rows that are broken are refused with their line.

    Columns named in ``text`` stay text.  Others are whole numbers, numbers or truth values where all of their cells are
    written as such; numbers with zeros before them, such as 01034, are text.
    """
    pd = pandas()
    dialect = dialect.of(path)
    header, count = checked(path, dialect)
    require(count > 0, f"{path} has a header but no rows; a table is learned from rows: check that it was written")
    assert dialect.sep is not None and dialect.decimal is not None
    try:
        with _Lines(path, str(dialect.encoding), dialect) as lines:
            frame = pd.read_csv(
                _Text(iter(lines)), sep=dialect.sep, dtype=str, keep_default_na=False, na_filter=False, nrows=rows,
                index_col=False, low_memory=False, names=header, skiprows=1, header=None,
            )  # fmt: skip
    except pd.errors.ParserError as error:
        raise BeelineError(f"{path} cannot be read as CSV ({error}); correct that line, or write it again") from None
    require(
        rows is not None or len(frame) == count,
        f"{path} has {count} rows by its quotes and {len(frame)} by its lines; quote its cells alike, or write it anew",
    )
    made = {
        name: frame[name].astype(object) if name in text else typed(frame[name], dialect.decimal) for name in header
    }
    for name in text:
        if name in made:
            made[name] = made[name].where(made[name].str.len() > 0, None)
    return pd.DataFrame(made)


def checked(path: Path, dialect: Dialect) -> tuple[list[str], int]:
    """(header, number of rows) of a file whose rows all have as many cells as the header; refused with its line."""
    header: list[str] = []
    count, longer, first, begin = 0, 0, "", 0
    assert dialect.sep is not None
    with _Lines(path, str(dialect.encoding), dialect) as lines:
        reader = csv.reader(iter(lines), delimiter=dialect.sep, strict=True)
        while True:
            begin = lines.at + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise BeelineError(
                    f"{path}, line {begin}: {error}; a quote was opened and not closed, or stands within a cell: "
                    'close it, and write a quote within a cell twice (""), or give another sep'
                ) from None
            if row is None:
                break
            if not row:
                continue
            if not header:
                header = row
                names(header, str(path))
                continue
            count += 1
            if len(row) == len(header) + 1:
                longer += 1
                first = first or _ragged(path, begin, row, header)
            elif len(row) != len(header):
                raise BeelineError(_ragged(path, begin, row, header))
    require(
        not longer or longer < count or header[0].startswith(("#", "%")),
        f"{path}: every row has one cell more than the header, as R writes the names of its rows; write it with "
        "row.names=FALSE, or name the first column in the header",
    )
    require(not longer, first)
    require(header, f"{path} is empty; a table needs a header and rows: check that it was written")
    return header, count


def names(header: Sequence[Any], what: str = "the table") -> None:
    """Refuse a header with unnamed or repeated columns."""
    unnamed = [i + 1 for i, name in enumerate(header) if not str(name).strip()]
    require(
        not unnamed,
        f"column {listed(unnamed)} of {what} has no name; every column is asked for by its name: name it in the header "
        "(an index that was written along is dropped with index=False)",
    )
    seen: dict[str, int] = {}
    for name in header:
        seen[str(name)] = seen.get(str(name), 0) + 1
    twice = sorted(name for name, times in seen.items() if times > 1)
    require(
        not twice,
        f"{what} has more than one column named {listed(map(repr, twice))}; one name means one column: rename them",
    )


def typed(cells: Any, decimal: str = ".") -> Any:
    """A column of text in the type that all its cells are written in; empty cells are empty."""
    pd = pandas()
    empty = (cells.str.len() == 0).to_numpy(dtype=bool)
    full = cells[~empty]
    if full.empty:
        return pd.Series(np.full(len(cells), np.nan))
    if full.str.fullmatch(WHOLE).all():
        made = _whole(full)
        if made is not None and empty.any():  # through float64 they would lose digits
            made = made.astype("UInt64" if str(made.dtype).startswith("u") else "Int64").reindex(cells.index)
        if made is not None:
            return made
    elif full.str.fullmatch(BROKEN.format(point=re.escape(decimal))).all():
        made = full.str.replace(decimal, ".", regex=False).astype("float64")
        if np.isfinite(made.to_numpy()).all():
            return made.reindex(cells.index)
    if full.isin(["True", "False"]).all():
        truth = full == "True"
        return truth.astype(bool) if not empty.any() else truth.astype(object).reindex(cells.index)
    made = cells.astype(object)
    return made.where(~empty, None) if empty.any() else made


def _whole(full: Any) -> Any:
    """Text of whole numbers in 64 bits; None where they need more."""
    if int(full.str.len().max()) > 20:
        return None
    low, high = (f(map(int, full[full.str.len() == full.str.len().max()])) for f in (min, max))
    if -(2**63) <= low and high < 2**63:
        return full.astype("int64")
    if high < 2**64 and not full.str.startswith("-").any():
        return full.astype(object).map(int).astype("uint64")
    return None


class _Text:
    """Lines as a file that pandas reads."""

    def __init__(self, lines: Iterator[str]):
        self.lines, self.left = lines, ""

    def read(self, size: int = -1) -> str:
        parts, have = [self.left], len(self.left)
        while size < 0 or have < size:
            line = next(self.lines, None)
            if line is None:
                break
            parts.append(line)
            have += len(line)
        text = "".join(parts)
        made, self.left = (text, "") if size < 0 else (text[:size], text[size:])
        return made

    def __iter__(self) -> Iterator[str]:
        return self.lines


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
    except csv.Error:  # told with its line when the file is checked
        pass
    return found


def _encoding(path: Path) -> str:
    with open(path, "rb") as raw:
        head = raw.read(4)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    return next((name for name in (marked, "cp1252") if _decodes(path, name)), "latin-1")


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with open(path, newline="", encoding=encoding) as file:
            while file.read(1 << 20):
                pass
    except UnicodeError:
        return False
    return True
