"""Damaged, cut, foreign and absurd files: one error that names the file, no hang, and nothing left on disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from beeline.core.errors import BeelineError
from beeline.data.labels import existing
from beeline.data.tables.files import TableFile, TableStream
from beeline.data.tables.schema import Schema
from beeline.data.tables.writing import save, save_parts


def rows(n: int = 60) -> pd.DataFrame:
    i = np.arange(n)
    return pd.DataFrame(
        {
            "a": i % 7,
            "b": np.array(["x", "y"])[i % 2],
            "c": i / 8,
            "d": pd.to_datetime("2020") + pd.to_timedelta(i % 9, "D"),
        }
    )


def harmed(content: bytes) -> Iterator[bytes]:
    """A file cut at every class of offset, with bytes flipped and put in, and other files under its name."""
    size = len(content)
    for cut in sorted({0, 1, 2, 4, 7, 8, 12, size // 4, size // 2, size - 9, size - 8, size - 5, size - 4, size - 1}):
        yield content[:cut]
    rng = np.random.default_rng(0)
    for k in range(60):
        at = int(rng.integers(size)) if k % 2 else size - 1 - int(rng.integers(min(size, 400)))
        yield content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    for _ in range(10):
        at = int(rng.integers(size))
        yield content[:at] + rng.bytes(16) + content[at:]
    yield content * 2
    yield b"PAR1" + b"\xff" * 40 + b"PAR1"
    yield b"PAR1" + b"\x00" * 8 + (2**31 - 1).to_bytes(4, "little") + b"PAR1"
    yield b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }\n"
    yield b"PK\x03\x04" + b"\x00" * 60
    yield b"\x00" * 100
    yield b'a,b\n1,"x\n2,3\n'
    yield b"a,b\n1,2\n3\n"
    yield b"\xff\xfe\x00"
    yield b"a\n" + b"9" * 5000 + b"\n1\n"
    yield b"a\n" + b'"' + b"x" * 200_000 + b'"\n1\n'
    yield "a,b\n2021-13-01,ä\n2021-12-01,ö\n".encode("latin-1")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv"])
def test_a_damaged_file_is_read_right_or_refused_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save(rows(), path)
    refused = 0
    for content in list(harmed(path.read_bytes())):
        path.write_bytes(content)
        readers = [lambda: TableFile(str(path)).load(), lambda: TableFile(str(path)).summary()]
        if name == "t.parquet":
            readers.append(lambda: TableStream(str(path)).load())
        for reader in readers:
            try:
                reader()
            except BeelineError as error:
                refused += 1
                assert len(str(error)) < 800 and ";" in str(error)
    assert refused >= (60 if name == "t.parquet" else 20)
    assert os.listdir(tmp_path) == [name], "nothing is left beside the file"


@pytest.mark.parametrize("reader", [TableFile, TableStream])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, reader: type, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(BeelineError, match="there is no file"):
        reader(str(path)).load()
    path.mkdir()
    with pytest.raises(BeelineError, match="is a directory"):
        reader(str(path)).load()
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(BeelineError, match="no regular file"):
        reader(str(path)).load()
    with pytest.raises(BeelineError, match="is a pipe, socket or device"):
        existing(str(path))


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "a: 2021-13-01", "a: {low: " + "9" * 5000 + "}", "a: *b", "- 1", "", "a: {kind: number, low: .nan}"],
)
def test_yaml_that_no_schema_can_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(BeelineError, match="schema"):
        Schema.parse(text)
    rows().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(BeelineError, match="schema"):
        TableFile(str(tmp_path / "t.csv"), schema=str(tmp_path / "s.yaml")).load()


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b\n1,2\n3,4,5\n", {}, "line 3: there are 3 cells where the header has 2"),
        ("a,b\n1,2\n3\n", {}, "line 3: there are 1 cells"),
        ("a,b\n1,2,3\n4,5,6\n", {}, "as R writes the names of its rows"),
        ('a,b\n1,"2\n3,4\n', {}, "line 2: .* a quote was opened and not closed"),
        ('a,b\n1,"2" x\n3,4\n', {}, "line 2"),
        ("# made by hand\na,b\n1,2\n", {"comment": "%"}, "comment='#'"),
        ("a,b\n1,2\n", {"sep": ",,"}, "it is one character"),
        ("a,b\n1,2\n", {"sep": ",", "decimal": ","}, "the comment character; change"),
        ("a,b\n1,2\n", {"skip": -1}, "integer of 0 or more"),
        ("a,b\n1,2\n", {"encoding": "utf-9"}, "'utf-9' is unknown"),
        ("a,b\n1,ä\n", {"encoding": "ascii"}, "bytes are not ascii"),
    ],
)
def test_a_csv_file_with_broken_rows_is_refused_with_its_line(
    tmp_path, text: str, settings: dict, message: str
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BeelineError, match=message):
        TableFile(str(tmp_path / "t.csv"), **settings).read()


@pytest.mark.parametrize(
    ("text", "settings", "wanted"),
    [
        ('"a,x,y";b\n1,5;2\n2;3\n', {}, {"a,x,y": [1.5, 2.0], "b": [2, 3]}),
        ("# c\na,b\n1,2\n# d\n3,4\n", {"comment": "#"}, {"a": [1, 3], "b": [2, 4]}),
        ("title;;;\na,b\n1,2\n3,4\n", {"skip": 1}, {"a": [1, 3], "b": [2, 4]}),
        ("a;b\n1.5;1\n2.5;2\n", {"sep": ";", "decimal": "."}, {"a": [1.5, 2.5], "b": [1, 2]}),
        ("a:b\n1:x\n2:y\n", {"sep": ":"}, {"a": [1, 2], "b": ["x", "y"]}),
        ("zip,n\n01001,1\n94110,2\n", {}, {"zip": ["01001", "94110"], "n": [1, 2]}),
        (
            "zip,n\n11001,1\n94110,2\n",
            {"corrections": {"zip": {"kind": "category"}}},
            {"zip": ["11001", "94110"], "n": [1, 2]},
        ),
        ('a,b\n"1,234",x\n"5,678",y\n', {}, {"a": ["1,234", "5,678"], "b": ["x", "y"]}),
        ("a,b\r\n\r\n1,2\r\n\r\n3,4\r\n", {}, {"a": [1, 3], "b": [2, 4]}),
        ("a\n18446744073709551615\n1\n", {}, {"a": [2**64 - 1, 1]}),
        ("a\n99999999999999999999999\n1\n", {}, {"a": ["99999999999999999999999", "1"]}),
    ],
)
def test_a_csv_file_is_read_as_it_is_written(tmp_path, text: str, settings: dict, wanted: dict) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert TableFile(str(tmp_path / "t.csv"), **settings).read().to_dict("list") == wanted


def test_the_plan_shows_how_a_csv_file_is_read(tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    shown = TableFile(str(tmp_path / "t.csv")).summary()
    assert "sep ';'" in shown and "decimal ','" in shown and "encoding 'utf-8'" in shown


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    save(rows(), tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def parts() -> Iterator[pd.DataFrame]:
        yield rows()
        raise OSError("No space left on device")

    with pytest.raises(BeelineError, match="what was there before is as it was"):
        save_parts(parts(), tmp_path / name)
    with pytest.raises(Exception):  # noqa: B017 - whatever the writer says of complex numbers or an unknown encoding
        save(rows().assign(a=1j), tmp_path / name, {"encoding": "none"})
    assert (tmp_path / name).read_bytes() == before and os.listdir(tmp_path) == [name]
