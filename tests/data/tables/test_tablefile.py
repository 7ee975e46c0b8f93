"""Tables from files, a row group at a time, and back to files."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch

from beeline.config.build import build, describe
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.tables.files import TableFile, TableStream
from beeline.data.tables.writing import save, save_parts
from tests.data.tables.test_schema import mixed


def test_a_file_is_read_parted_and_described(tmp_path) -> None:
    raw = mixed(200)
    raw.to_csv(tmp_path / "t.csv", index=False)
    data = TableFile(str(tmp_path / "t.csv"), held_out=0.2, exclude=("row_id",), corrections={"age": {"high": 99}})
    assert build(describe(data)) == data
    assert "whole, 20 to 99" in data.summary()
    train, held = data.load()
    assert len(train) + len(held) == 200 and 30 <= len(held) <= 40 and "row_id" not in train.columns
    again, _ = data.load()
    assert train.equals(again)
    table = data.modality().fit(train)
    assert table.columns["age"].high == 99  # type: ignore[attr-defined]
    assert len(table.encode(held).x1) == len(held)


def test_a_level_that_occurs_once_stays_in_training(tmp_path) -> None:
    raw = pd.DataFrame({"a": ["x", "y"] * 50, "n": np.arange(100) % 7})
    raw.loc[::10, "a"] = [f"rare {i}" for i in range(10)]
    raw.to_csv(tmp_path / "t.csv", index=False)
    train, held = TableFile(str(tmp_path / "t.csv"), held_out=0.5).load()
    assert set(held["a"]) <= {"x", "y"} and {f"rare {i}" for i in range(10)} <= set(train["a"])


def test_corrections_come_from_a_yaml_file(tmp_path) -> None:
    mixed().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.yaml").write_text("age: {kind: category}\n")
    data = TableFile(str(tmp_path / "t.csv"), schema=str(tmp_path / "s.yaml"), corrections={"pet": {"missing": True}})
    assert data.modality().schema["age"]["kind"] == "category" and "pet" in data.modality().schema
    with pytest.raises(BeelineError, match="there is no schema file"):
        TableFile("t.csv", schema=str(tmp_path / "none.yaml")).modality()


def test_a_column_to_leave_out_must_be_there(tmp_path) -> None:
    mixed().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BeelineError, match="did you mean 'age'"):
        TableFile(str(tmp_path / "t.csv"), exclude=("agee",)).load()


def test_what_was_written_is_what_was_read(tmp_path) -> None:
    raw = mixed(80)
    raw.to_csv(tmp_path / "t.csv", index=False)
    first = TableFile(str(tmp_path / "t.csv")).read()
    table = TableFile(str(tmp_path / "t.csv")).modality().fit(first)
    table.save(table.decode(table.encode(first).x1).assign(row_id=first["row_id"]), tmp_path / "made.csv")
    a, b = (pd.read_csv(tmp_path / name, dtype=str).drop(columns="ratio") for name in ("t.csv", "made.csv"))
    whole = a["income"].dropna().index
    assert (a.drop(columns="income").fillna("") == b.drop(columns="income").fillna("")).all(axis=None)
    assert (a.loc[whole, "income"].astype(float).astype(int).astype(str) == b.loc[whole, "income"]).all()


def test_rows_are_saved_by_their_ending(tmp_path) -> None:
    raw = mixed(5)
    table = TableFile("x.csv").modality().fit(mixed(60))
    for name in ("t.csv", "t.tsv", "t.parquet", "t.html"):
        table.save(raw, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    assert pd.read_parquet(tmp_path / "t.parquet").equals(raw)
    with pytest.raises(BeelineError, match="neither .csv, .tsv, .parquet nor .npz"):
        save(raw, tmp_path / "t.xls")


def test_parts_become_one_file_of_row_groups(tmp_path) -> None:
    raw = mixed(90)
    for name in ("t.parquet", "t.csv"):
        assert save_parts((raw.iloc[i : i + 30] for i in range(0, 90, 30)), tmp_path / name) == 90
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    assert pd.read_parquet(tmp_path / "t.parquet").equals(raw)
    assert len(pd.read_csv(tmp_path / "t.csv")) == 90
    with pytest.raises(BeelineError, match="neither .parquet nor .csv"):
        save_parts(iter([raw]), tmp_path / "t.tsv")


def test_a_stream_gives_every_row_once_an_epoch(tmp_path) -> None:
    raw = pd.DataFrame({"n": np.arange(100) * 3 % 101, "c": np.array(["a", "b", "c"])[np.arange(100) % 3]})
    raw.to_parquet(tmp_path / "t.parquet", row_group_size=30)
    stream = TableStream(str(tmp_path / "t.parquet"), corrections={"n": {"kind": "category"}})
    assert build(describe(stream)) == stream
    table = stream.modality().fit(raw)
    microbatches = stream.microbatches(table, Rng(0))
    assert len(microbatches) == 100
    made = [table.decode(microbatches.microbatch(k, 40).x1)["n"].tolist() for k in range(5)]
    rows = sum(made, [])
    assert sorted(rows[:100]) == sorted(raw["n"]) == sorted(rows[100:]) and rows[:100] != rows[100:]
    assert torch.equal(microbatches.microbatch(3, 40).x1, stream.microbatches(table, Rng(0)).microbatch(3, 40).x1), (
        "the number alone decides"
    )
    assert len(microbatches.microbatch(1, 250).x1) == 250, "a microbatch may be larger than an epoch"


def test_a_stream_learns_its_schema_from_a_part_of_every_group(tmp_path) -> None:
    raw = pd.DataFrame({"n": np.arange(400) % 50, "c": np.repeat(["a", "b", "c", "d"], 100)})
    raw.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    train, held = TableStream(str(tmp_path / "t.parquet"), first=80).load()
    assert "4 levels" in TableStream(str(tmp_path / "t.parquet"), first=80).summary()
    assert len(train) + len(held) == 80 and set(train["c"]) == {"a", "b", "c", "d"}


def test_what_cannot_be_streamed(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(BeelineError, match="only Parquet can be read in parts"):
        TableStream(str(tmp_path / "t.csv")).load()
    with pytest.raises(BeelineError, match="there is no file"):
        TableStream(str(tmp_path / "t.parquet")).load()
    with pytest.raises(BeelineError, match="give 1 or more"):
        TableStream("t.parquet", first=0)
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(BeelineError, match="no rows"):
        TableStream(str(tmp_path / "e.parquet")).load()


@pytest.mark.parametrize(
    ("sep", "decimal", "encoding"),
    [(";", ",", "utf-8-sig"), (";", ".", "utf-8"), ("\t", ",", "utf-16"), (",", ".", "cp1252"), ("|", ".", "utf-8")],
)
def test_a_file_comes_out_in_the_dialect_in_which_it_went_in(tmp_path, sep: str, decimal: str, encoding: str) -> None:
    frame = pd.DataFrame({"by": ["Tromsø", "Århus"] * 20, "pris": np.arange(40) / 8 + 1, "antall": [3.0, np.nan] * 20})
    text = frame.assign(antall=frame["antall"].astype("Int64")).to_csv(sep=sep, decimal=decimal, index=False)
    (tmp_path / "in.csv").write_bytes(text.encode(encoding))
    file = TableFile(str(tmp_path / "in.csv"))
    raw = file.read()
    pd.testing.assert_frame_equal(raw, frame, check_dtype=False)
    table = file.modality().fit(raw)
    table.save(raw, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "in.csv").read_bytes()
    save_parts(iter([raw.head(25), raw.tail(15)]), tmp_path / "parts.csv", table.dialect)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "in.csv").read_bytes()


def test_a_compressed_csv_is_the_same_table(tmp_path: Path) -> None:
    text = "age,city\n3,Bern\n4,Oslo\n5,Bern\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(text.replace(",", "\t").encode()))
    plain = TableFile(str(tmp_path / "a.csv")).read()
    pd.testing.assert_frame_equal(TableFile(str(tmp_path / "a.csv.gz")).read(), plain)
    pd.testing.assert_frame_equal(TableFile(str(tmp_path / "b.tsv.gz")).read(), plain)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode())[:-9])
    (tmp_path / "no.csv.gz").write_text(text)
    for name in ("cut.csv.gz", "no.csv.gz"):
        with pytest.raises(ValueError, match="cannot be decompressed"):
            TableFile(str(tmp_path / name)).read()
