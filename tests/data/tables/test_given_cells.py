"""Given cells stand in the rows exactly as they were given, whatever the coordinates can hold."""

import pandas as pd
import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.tables.table import Table


def ledger(n: int = 400) -> pd.DataFrame:
    i = pd.Series(range(n))
    return pd.DataFrame(
        {
            "account": 100_000_000 + (i * 7_919_317) % 899_999_999,
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta((i * 86_413) % 31_000_000, unit="s"),
            "amount": ((i * 104_729) % 1_000_003) / 100,
            "gain": (i % 7 == 0) * ((i * 13) % 50) * 100.0,  # mostly zero
            "grade": (i % 5).map({0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}),
            "number": i % 5,  # determined by the grade
            "weight": ((i * 31) % 97 + 0.5).where(i % 11 != 0),
        }
    )


@pytest.fixture(scope="module")
def table() -> Table:
    return Table().fit(ledger())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account", 123_456_789),
        ("account", 997_654_321),
        ("when", pd.Timestamp("2020-07-05 11:22:33")),
        ("amount", 1234.56),
        ("gain", 300.0),
        ("grade", "c"),
        ("number", 3),
        ("weight", 17.5),
        ("weight", None),
    ],
)
def test_a_value_for_all_rows(table: Table, name: str, value: object) -> None:
    made = table.decode(Rng(0).normal(torch.empty(20, *table.shape)))
    given = table.with_condition(made, {name: value})
    assert list(given.columns) == list(made.columns) and (given.dtypes == made.dtypes).all()
    assert given[name].isna().all() if value is None else (given[name] == value).all()
    tied = {"grade", "number"} if name in ("grade", "number") else {name}
    for other in set(made.columns) - tied:
        pd.testing.assert_series_equal(given[other], made[other])
    if name in tied & {"grade", "number"}:
        assert (given["grade"].map("abcde".index) == given["number"]).all()


def test_partial_rows(table: Table) -> None:
    made = table.decode(Rng(1).normal(torch.empty(4, *table.shape)))
    asked = pd.DataFrame({"account": [123_456_789, None, 987_654_321, None], "grade": [None, "a", "b", None]})
    given = table.with_condition(made, asked)
    assert given["account"].tolist()[::2] == [123_456_789, 987_654_321]
    assert given["account"].tolist()[1::2] == made["account"].tolist()[1::2]
    assert given["grade"].tolist()[1:3] == ["a", "b"] and given["number"].tolist()[1:3] == [0, 1]
    assert given["grade"][0] == made["grade"][0] and (given.dtypes == made.dtypes).all()
