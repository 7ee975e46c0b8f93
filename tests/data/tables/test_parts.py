"""Tables in several files."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from beeline.data.tables.files import TableFile
from beeline.recipes.automatic import recipe_for

ROWS = "age,city\n3,Bern\n4,Oslo\n"


def test_parts_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ROWS)
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("age;city\n5,5;Rome\n")  # another separator and decimal sign
    (tmp_path / "c.csv").write_text("city,age\nParis,\n")  # another order of the columns, and a gap
    (tmp_path / "README.md").write_text("not a part")
    run = recipe_for(str(tmp_path))
    assert isinstance(run.data, TableFile)
    found = run.data.read()
    assert found["city"].tolist() == ["Bern", "Oslo", "Rome", "Paris"]
    assert found["age"].iloc[2] == 5.5
    assert found["age"].isna().tolist() == [False, False, False, True]


def test_numbers_are_typed_over_all_parts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,code\n1,7\n")
    (tmp_path / "b.csv").write_text("x,code\n2.5,007\n")
    found = TableFile(str(tmp_path)).read()
    assert found["x"].tolist() == [1.0, 2.5] and found["code"].tolist() == ["7", "007"]


def test_the_file_that_differs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ROWS)
    (tmp_path / "b.csv").write_text("age,town\n3,Bern\n")
    with pytest.raises(ValueError, match=r"b.csv has other columns than .*a.csv; it lacks 'city'; it also has 'town'"):
        TableFile(str(tmp_path)).read()


def test_parquet_parts(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}).to_parquet(tmp_path / "0.parquet")
    pd.DataFrame({"y": ["c", None], "x": [3.5, 4.0]}).to_parquet(tmp_path / "1.parquet")
    found = TableFile(str(tmp_path)).read()
    assert found["x"].tolist() == [1.0, 2.0, 3.5, 4.0] and found["y"].iloc[2] == "c"
    assert isinstance(recipe_for(str(tmp_path)).data, TableFile)
    pd.DataFrame({"x": ["text"], "y": ["c"]}).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2.parquet: column 'x' holds (large_)?string, and int64 in .*0.parquet"):
        TableFile(str(tmp_path)).read()
    (tmp_path / "3.csv").write_text(ROWS)
    with pytest.raises(ValueError, match="of one kind"):
        TableFile(str(tmp_path)).read()
