"""Schemas: what is inferred from cells, what is refused, and how a file corrects it."""

import numpy as np
import pandas as pd
import pytest

from beeline.core.errors import BeelineError
from beeline.data.tables.infer import infer
from beeline.data.tables.reading import read
from beeline.data.tables.schema import Boolean, Category, Constant, Datetime, Identifier, Number, Schema


def mixed(n: int = 60) -> pd.DataFrame:
    """Columns of every kind; the numbers are fixed."""
    i = np.arange(n)
    return pd.DataFrame(
        {
            "row_id": 100 + i,
            "age": 20 + (i * 7) % 50,
            "height": np.round(1.5 + ((i * 13) % 40) / 100, 2),
            "ratio": np.exp(((i * 17) % 23) / 3.0),
            "pet": np.array(["dog", "cat", "eel"])[(i * 5 + i // 7) % 3],
            "happy": (i % 3) == 0,
            "born": [f"19{60 + k % 30}-0{1 + k % 9}-1{k % 10}" for k in i],
            "seen": pd.to_datetime("2024-03-01") + pd.to_timedelta((i * 31) % 97, unit="h"),
            "place": "here",
            "income": [None if k % 5 == 0 else float(1000 + 10 * (k % 11)) for k in i],
            "visits": ["?" if k % 7 == 0 else str(k % 4) for k in i],
        }
    )


def test_every_kind_is_told_from_its_cells() -> None:
    schema = infer(mixed())
    kinds = {c.name: type(c) for c in schema.columns}
    assert kinds == {
        "row_id": Identifier, "age": Number, "height": Number, "ratio": Number, "pet": Category, "happy": Boolean,
        "born": Datetime, "seen": Datetime, "place": Constant, "income": Number, "visits": Number,
    }  # fmt: skip
    age, height, income, visits = (schema[n] for n in ("age", "height", "income", "visits"))
    assert isinstance(age, Number) and age.integer and (age.low, age.high) == (20, 69) and not age.missing
    assert isinstance(height, Number) and height.decimals == 2 and not height.integer
    assert isinstance(income, Number) and income.missing and income.integer and income.na_token is None
    assert isinstance(visits, Number) and visits.na_token == "?" and visits.missing
    born, seen = schema["born"], schema["seen"]
    assert isinstance(born, Datetime) and born.format == "%Y-%m-%d" and born.unit == "D"
    assert isinstance(seen, Datetime) and seen.format is None and seen.unit == "h"


def test_a_shown_schema_names_every_column_and_what_to_check() -> None:
    text = infer(mixed()).summary()
    for part in (
        "height",
        "2 decimals, 1.5 to 1.89",
        "yes, as '?'",
        "3 levels",
        "always here",
        "fresh numbers",
        "in hours",
    ):
        assert part in text


def test_yaml_and_back_is_the_same_schema() -> None:
    schema = infer(mixed())
    assert Schema.parse(schema.yaml()) == schema


def test_corrections_change_a_kind_or_a_setting() -> None:
    schema = infer(mixed()).change({"age": {"kind": "category"}, "height": {"high": 2}, "row_id": {"replace": False}})
    assert schema["age"] == Category("age", dtype="int64")
    assert schema["height"] == Number("height", "float64", decimals=2, low=1.5, high=2.0)
    assert not schema["row_id"].replace  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("corrections", "message"),
    [
        ({"agee": {}}, "did you mean 'age'"),
        ({"age": {"kind": "numbre"}}, "did you mean 'number'"),
        ({"age": {"lo": 3}}, "did you mean 'low'"),
        ({"age": {"low": "three"}}, "it takes float"),
        ({"age": 3}, "give settings"),
    ],
)
def test_a_wrong_correction_names_what_is_right(corrections: dict, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        infer(mixed()).change(corrections)


def test_yaml_that_is_no_schema() -> None:
    with pytest.raises(BeelineError, match="is no schema"):
        Schema.parse("- a\n- b\n")
    with pytest.raises(BeelineError, match="valid names: boolean"):
        Schema.parse("age: {kind: zzz}")


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame(), "no columns"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column named 'a'"),
        (pd.DataFrame([[1, 2]], columns=["a", " "]), "column 2 of the table has no name"),
        (frame(a=[1.0, np.inf, 2.0, -np.inf]), "infinite numbers in rows 2, 4"),
        (frame(a=[1j, 2j]), "complex numbers"),
        (frame(a=[1, "x", 2, 3]), "mixes int and str: rows 2 hold str"),
        (frame(a=[(1,), (2,)]), "tuple objects"),
        (frame(a=[str(i) for i in range(40)] + ["12a"]), "rows 41 hold '12a'"),
        (frame(a=[str(i) for i in range(40)] + ["?", "NA"]), "in 2 ways"),
        (frame(a=[f"text {i % 80}" for i in range(120)]), "80 different values in 120 rows"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused_by_rows_and_columns(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        infer(table)


def test_a_list_is_no_table() -> None:
    with pytest.raises(BeelineError, match="got list, which is no table"):
        infer([1, 2])


def test_codes_that_are_mostly_numbers_are_a_category() -> None:
    found = infer(frame(a=["1", "2", "3", "A"] * 10))["a"]
    assert isinstance(found, Category) and set(found.levels) == {"1", "2", "3", "A"}


def test_an_identifier_is_told_from_numbers_that_happen_to_differ() -> None:
    assert isinstance(infer(frame(a=np.arange(50) ** 2))["a"], Number)
    assert isinstance(infer(frame(user_id=np.arange(50) ** 2))["user_id"], Identifier)
    assert isinstance(infer(frame(a=[f"key{i}" for i in range(50)]))["a"], Identifier)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "a header but no rows"),
        ("a,a\n1,2\n", "more than one column named 'a'"),
        ("a,,c\n1,2,3\n", "column 2 of .* has no name"),
    ],
)
def test_an_unfit_file_is_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BeelineError, match=message):
        read(tmp_path / "t.csv")


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(BeelineError, match="there is no file"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.doc").write_text("x")
    with pytest.raises(BeelineError, match="neither CSV nor Parquet"):
        read(tmp_path / "t.doc")


def test_semicolons_tabs_and_parquet_are_read_alike(tmp_path) -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["x,y", "z"]})
    table.to_csv(tmp_path / "t.csv", sep=";", index=False)
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        assert (read(tmp_path / name) == table).all(axis=None)
