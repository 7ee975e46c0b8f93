"""Captions and other columns that describe the images of a folder."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError, require
from beeline.data.described.descriptions import TEXT, Columns
from beeline.data.pictures.listing import Listing

METADATA = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"  # the column with the name of the image; others that end so name files beside it
CAPTIONS = (TEXT, "caption", "prompt", "description")  # usual names of the column of captions, the first one preferred


def has_captions(files: Listing) -> bool:
    """Whether most images of a folder have a caption, in a text file beside each or in its metadata."""
    beside = {name for name in files.skipped if name.endswith(".txt")}
    if 2 * sum(os.path.splitext(name)[0] + ".txt" in beside for name in files.names) > len(files):
        return True
    try:
        return any(TEXT in row for row in _rows(files.root))
    except BeelineError:
        return False  # a run that wants captions says what is wrong


def columns_of(files: Listing) -> Columns:
    """The columns of the metadata of a folder, and as the column "text" the text files beside the images.

    metadata.csv or metadata.jsonl in the folder has a row for every image with its ``file_name``, relative to it; a
    column whose name ends in file_name holds names of files, which become paths.  A caption in a text file replaces
    that of the metadata.  Raises BeelineError, which names the file and the line, for rows that cannot be read, and for
    images that are not there.
    """
    place = {name: i for i, name in enumerate(files.names)}
    values: dict[str, list[Any]] = {}
    for i, row in _numbered(files.root):
        where = f"{files.root / METADATA[0]} or {METADATA[1]}, row {i}"
        name = str(row.pop(FILE, ""))
        require(name, f"{where} has no {FILE}; it names the image that the row describes: give it in every row")
        if name not in place:
            known = (files.root / name).exists()
            require(known, f"{where} describes {name}, which is not there; correct {FILE}, or remove the row")
            continue  # of a part of the folder that is not read
        for key, value in row.items():
            named = key.endswith(FILE) and isinstance(value, str) and value
            values.setdefault(key, [None] * len(files))[place[name]] = str(files.root / value) if named else value
    beside = set(files.skipped)
    for i, image in enumerate(files.names):
        own = os.path.splitext(image)[0] + ".txt"
        if own in beside:
            values.setdefault(TEXT, [None] * len(files))[i] = _text(files.root / own)
    return Columns(values)


def _rows(root: Path) -> Iterable[dict[str, Any]]:
    return (row for _, row in _numbered(root))


def _numbered(root: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """The rows of the metadata of a folder with their lines; the captions are in the column "text"."""
    for name in METADATA:
        path = root / name
        if path.is_file():
            for i, row in _csv(path) if path.suffix == ".csv" else _jsonl(path):
                usual = next((known for known in CAPTIONS if row.get(known)), TEXT)
                yield i, row | ({TEXT: row[usual]} if usual in row else {})


def _csv(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    for row in reader:
        require(
            None not in row,
            f"{path}, line {reader.line_num} has more cells than the header; put quotes around text with commas",
        )
        yield reader.line_num, {key: value or None for key, value in row.items()}


def _jsonl(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for i, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BeelineError(f"{path}, line {i} is not JSON ({error}); give one object in every line") from None
        require(isinstance(row, dict), f"{path}, line {i} is {type(row).__name__}; give one object in every line")
        yield i, row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BeelineError(f"{path} is not text in UTF-8; captions are: save it again in that encoding") from None
