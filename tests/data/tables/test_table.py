"""The modality of tables: exact round trips, normal coordinates, conditions, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from beeline.config.build import build, describe
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.tables.codec.codes import Code, Quantile, Standard
from beeline.data.tables.schema import Constant, Identifier
from beeline.data.tables.table import Table
from tests.data.tables.test_schema import mixed


@pytest.fixture(scope="module")
def fitted() -> Table:
    return Table().fit(mixed(200))


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return bool(((a == b) | (a.isna() & b.isna())).all(axis=None))


def test_decode_gives_back_what_was_encoded(fitted: Table) -> None:
    raw = mixed(200)
    made = fitted.decode(fitted.encode(raw, Rng(3)).x1)
    exact = [c for c in raw.columns if c not in ("row_id", "ratio")]
    assert same(made[exact], raw[exact])
    assert np.allclose(made["ratio"], raw["ratio"], rtol=1e-6)
    assert list(made.columns) == list(raw.columns) and (made.dtypes == raw.dtypes).all()
    assert list(made["row_id"]) == list(range(1, 201)), "an identifier is fresh, not copied"


def test_another_draw_within_ranks_decodes_to_the_same(fitted: Table) -> None:
    raw = mixed(200)
    a, b = (fitted.encode(raw, Rng(seed)).x1 for seed in (1, 2))
    assert not torch.equal(a, b)
    assert same(fitted.decode(a).drop(columns="ratio"), fitted.decode(b).drop(columns="ratio"))
    assert torch.equal(a, fitted.encode(raw, Rng(1)).x1)


def test_a_fitted_table_is_plain_data(fitted: Table) -> None:
    data = json.loads(json.dumps(describe(fitted)))
    again = build(data)
    assert again.shape == fitted.shape and again.groups == fitted.groups
    x = fitted.encode(mixed(200)).x1
    assert same(again.decode(x), fitted.decode(x))


def test_numbers_become_normal_whatever_repeats_they_have() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.9, 0.0, np.round(np.exp(3 * rng.standard_normal(4000)), 1))
    table = Table().fit(pd.DataFrame({"gain": values, "other": rng.integers(0, 9, 4000)}))
    x = table.encode(pd.DataFrame({"gain": values, "other": rng.integers(0, 9, 4000)}), Rng(0)).x1
    for column in x.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 0.01


def test_the_quantiles_of_many_values_are_kept_with_their_tails_and_atoms() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.standard_t(2, 5000), np.full(500, 1.25)])
    q = Quantile.fit(values)
    span = q.span(np.array([1.25]))[0]
    assert span[1] - span[0] == pytest.approx(500 / 5500)
    assert (q.value(np.array([0.0, 1.0])) == [values.min(), values.max()]).all()
    grid = np.linspace(0.001, 0.999, 777)
    assert (
        np.abs((values[:, None] <= q.value(grid)).mean(0) - grid)[~((grid > span[0]) & (grid < span[1]))].max() < 2e-3
    )
    some = values[:200]
    ranks = q.span(some).mean(1)
    assert np.allclose(q.value(ranks), some, rtol=1e-9)


def test_the_slope_of_quantiles_is_the_density_of_the_data() -> None:
    values = np.random.default_rng(2).uniform(10, 30, 20000)
    q = Quantile.fit(values)
    assert np.abs(q.log_slope(np.array([12.0, 20.0, 28.0])) - np.log(1 / 20)).max() < 0.2
    assert Quantile.fit(np.array([1.0, 2.0, 2.0, 2.0])).log_slope(np.array([2.0]))[0] == pytest.approx(np.log(0.75))


def test_standardised_numbers_go_on_beyond_the_data() -> None:
    raw = mixed(60)
    table = Table(schema={"ratio": {"standard": True, "low": -1e9, "high": 1e9}}).fit(raw)
    x = table.encode(raw).x1.clone()
    code = table.coded["ratio"]
    assert isinstance(code.number, Standard)
    assert np.allclose(table.decode(x)["ratio"], raw["ratio"], rtol=1e-5)
    at = sum(c.width for n, c in table.coded.items() if list(table.coded).index(n) < list(table.coded).index("ratio"))
    x[:, at] = 10.0
    assert np.allclose(table.decode(x)["ratio"], raw["ratio"].mean() + 10 * raw["ratio"].std(ddof=0), rtol=1e-5)


def test_ten_thousand_categories_take_fourteen_bits() -> None:
    names = [f"item {i}" for i in range(10_000)]
    raw = pd.DataFrame({"item": names * 3, "n": np.arange(30_000) % 7})
    table = Table().fit(raw)
    assert table.coded["item"].bits and table.shape == (15,)
    x = table.encode(raw).x1
    assert (table.decode(x)["item"] == raw["item"]).all()
    lost = torch.ones(3, 15)  # the bits of no level: the nearest level is taken
    assert table.decode(lost)["item"].isin(names).all()


def test_too_many_categories_are_refused() -> None:
    raw = pd.DataFrame({"item": [f"item {i}" for i in range(20_001)] * 3})
    with pytest.raises(BeelineError, match="20001 different values"):
        Table().fit(raw)


def test_columns_without_a_choice_are_kept_as_they_are(fitted: Table) -> None:
    assert isinstance(fitted.columns["place"], Constant) and isinstance(fitted.columns["row_id"], Identifier)
    assert "place" not in fitted.coded and "row_id" not in fitted.coded
    assert (fitted.decode(torch.zeros(4, *fitted.shape))["place"] == "here").all()


def test_only_categories_and_only_numbers() -> None:
    for raw in (
        pd.DataFrame({"a": ["x", "y", "z", "x"] * 5, "b": [True, False] * 10}),
        pd.DataFrame({"a": np.linspace(0, 1, 20) ** 2, "b": np.arange(20) % 3}),
    ):
        table = Table().fit(raw)
        assert same(table.decode(table.encode(raw).x1).round(9), raw.round(9))


def test_a_moment_with_a_zone_comes_back_in_it() -> None:
    raw = pd.DataFrame(
        {"at": pd.date_range("2024-01-01", periods=30, freq="37min", tz="Europe/Zurich"), "n": range(30)}
    )
    raw["n"] = raw["n"] % 4
    table = Table().fit(raw)
    made = table.decode(table.encode(raw).x1)
    assert (made["at"] == raw["at"]).all() and made["at"].dtype == raw["at"].dtype


def test_a_column_that_another_determines_is_written_from_it() -> None:
    names = np.array(["low", "mid", "high", "top"])
    level = np.arange(80) * 7 % 4
    raw = pd.DataFrame({"grade": level + 1, "name": names[level], "x": np.arange(80) % 9})
    table = Table().fit(raw)
    assert list(table.functional_dependencies) == ["grade"] and "grade" not in table.coded
    assert same(table.decode(table.encode(raw).x1), raw)
    noise = table.decode(Rng(0).normal(torch.empty(500, *table.shape)))
    assert same(
        noise[["grade"]], pd.DataFrame({"grade": noise["name"].map(dict(zip(names, range(1, 5), strict=True)))})
    )
    cond = table.condition({"grade": 3}, 2)
    assert same(pd.DataFrame({"n": table.decode(cond["known"])["name"]}), pd.DataFrame({"n": ["high"] * 2}))
    with pytest.raises(BeelineError, match="never occur together"):
        table.condition({"grade": 3, "name": "low"}, 1)
    with pytest.raises(BeelineError, match="holds whole numbers"):
        table.condition({"grade": 2.5}, 1)


def test_a_condition_fills_the_coordinates_of_its_columns(fitted: Table) -> None:
    cond = fitted.condition({"pet": "eel", "age": 41, "visits": None}, 3)
    columns = list(fitted.coded)
    assert cond["mask"].shape == (3, len(columns))
    assert {columns[i] for i in cond["mask"][0].nonzero().flatten()} == {"pet", "age", "visits"}
    made = fitted.decode(cond["known"])
    assert (made["pet"] == "eel").all() and (made["age"] == 41).all() and (made["visits"] == "?").all()
    wide = cond["mask"].repeat_interleave(torch.tensor([c.width for c in fitted.coded.values()]), 1)
    assert not cond["known"][wide == 0].any()


def test_partial_rows_are_conditions_of_their_own(fitted: Table) -> None:
    rows = pd.DataFrame({"pet": ["cat", None], "age": [None, 30]})
    cond = fitted.condition(rows, 2)
    assert cond["mask"].sum(1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"pets": "cat"}, "did you mean 'pet'"),
        ({"pet": "cta"}, "did you mean 'cat'"),
        ({"age": 500}, "outside the bounds 20 to 69"),
        ({"born": "1800-01-01"}, "outside the bounds"),
        ({"born": "yesterday"}, "no datetime written as %Y-%m-%d"),
        ({"age": "old"}, "no finite number"),
        ({"age": None}, "empty in row 1, but was not in training"),
        ({}, "give columns and their values"),
        (pd.DataFrame({"age": [30, 31, 32]}), "3 partial rows were given for 2 samples"),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(fitted: Table, condition: object, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        fitted.condition(condition, 2)


@pytest.mark.parametrize(
    ("table", "schema", "message"),
    [
        (pd.DataFrame({"a": [1, 1], "b": ["x", "x"]}), {}, "every column of the table is constant"),
        (pd.DataFrame({str(k): [1, 2] for k in range(3)}), {}, "2 rows but 3 columns"),
        (mixed(), {"row_id": {"replace": False}}, "'row_id' identifies the rows"),
        (mixed(), {"pet": {"kind": "number"}}, "no finite number"),
        (
            pd.DataFrame({"a": [1.0, None] * 4, "b": range(8)}),
            {"b": {"kind": "datetime"}},
            "convert them with pandas.to_datetime",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: pd.DataFrame, schema: dict, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        Table(schema=schema).fit(table)


def test_rows_that_training_never_saw(fitted: Table) -> None:
    raw = mixed(5)
    with pytest.raises(BeelineError, match="'ox' in row 3, which never occurred in training"):
        fitted.encode(raw.assign(pet=["cat", "dog", "ox", "cat", "dog"]))
    with pytest.raises(BeelineError, match="lacks the column 'age'"):
        fitted.encode(raw.drop(columns="age"))
    with pytest.raises(BeelineError, match="is empty in row 2, but was not in training"):
        fitted.encode(raw.assign(height=[1.6, None, 1.6, 1.6, 1.6]))
    beyond = fitted.decode(fitted.encode(raw.assign(age=[1, 20, 30, 69, 900])).x1)
    assert beyond["age"].tolist() == [20, 20, 30, 69, 69], "numbers beyond the bounds take the outermost rank"


def test_a_table_must_be_fitted() -> None:
    with pytest.raises(BeelineError, match="is not fitted"):
        Table().shape  # noqa: B018


def test_coordinates_of_another_width(fitted: Table) -> None:
    with pytest.raises(BeelineError, match="to be read as rows of"):
        fitted.decode(torch.zeros(2, 3))


def test_a_column_that_is_empty_everywhere_is_constant() -> None:
    raw = pd.DataFrame({"a": [None] * 10, "b": np.arange(10) % 3})
    assert same(Table().fit(raw).decode(Table().fit(raw).encode(raw).x1), raw)


def test_microbatches_hold_every_row_once_per_epoch() -> None:
    raw = mixed(50).drop(columns=["row_id"])
    table = Table().fit(raw)
    microbatches = table.microbatches(raw, Rng(0))
    rows = pd.concat([table.decode(microbatches.microbatch(k, 20).x1) for k in range(5)])
    counts = rows.groupby(["age", "seen"], dropna=False).size()
    assert (counts == 2).all() and len(counts) == 50
    assert torch.equal(microbatches.microbatch(3, 20).x1, microbatches.microbatch(3, 20).x1)
    assert not torch.equal(microbatches.microbatch(3, 20).x1, microbatches.microbatch(4, 20).x1)


def test_codes_know_their_blocks() -> None:
    assert Code(("a", "b", "c")).blocks == (3,)
    assert Code(tuple(range(70)), bits=True).blocks == (1,) * 7
    assert Code(("given", None), Standard(0.0, 1.0)).blocks == (2, 1)


def test_a_preview_is_a_table_of_escaped_cells(fitted: Table) -> None:
    made = fitted.preview(pd.DataFrame({"a<b": ["<script>", None]})).decode()
    assert "&lt;script&gt;" in made and "<script>" not in made and made.count("<tr>") == 3


def test_numbers_that_are_mostly_one_value_are_states() -> None:
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(2000) < 0.9, 0, rng.choice([114, 7298, 99999], 2000))
    loss = np.where(gain > 0, np.nan, 5.0 * (rng.random(2000) < 0.5))
    raw = pd.DataFrame({"gain": gain, "loss": loss, "x": rng.random(2000)})
    table = Table().fit(raw)
    assert table.groups == [[4], [3], [1]]
    made = table.decode(table.encode(raw).x1)
    assert same(made[["gain", "loss"]], raw[["gain", "loss"]]) and (made.dtypes == raw.dtypes).all()
    near = table.decode(table.encode(raw.head(2).assign(gain=[120, 50_000], loss=[1.0, 4.0])).x1)
    assert near["gain"].tolist() == [114, 7298] and near["loss"].tolist() == [0.0, 5.0]


@pytest.mark.parametrize("bits", [False, True])
def test_a_cell_that_must_not_be_empty_gets_the_likeliest_other_state(bits: bool) -> None:
    code = Code(("a", "b", "c", None), bits=bits)
    empty = code.coordinates(torch.full((2,), 3), torch.zeros(2, 2), torch.zeros(2))
    near = empty + (torch.tensor([0.0, -2.5]) if bits else torch.tensor([0.0, 0.5, 0.0, 0.0]))  # next is "b"
    assert code.read(empty)[0].tolist() == [3, 3] and code.read(near, full=True)[0].tolist() == [1, 1]


def test_numbers_keep_the_sign_that_stands_beside_them() -> None:
    share, price = (np.arange(60) * 7) % 100, np.round(np.linspace(1, 9, 60), 2)
    cells = {"share": [f"{v} %" for v in share], "price": [f"${v:.2f}" for v in price]}
    frame = pd.DataFrame(cells | {"code": [f"A{v % 5}" for v in share]})
    frame.loc[3, "share"] = None
    table = Table().fit(frame)
    assert [c.kind for c in table.columns.columns] == ["number", "number", "category"]
    assert "written $..." in table.summary() and table.columns["share"].after == " %"
    pd.testing.assert_frame_equal(table.decode(table.encode(frame).x1), frame, check_dtype=False)
    known = table.condition({"share": "14 %", "price": 5}, 2)
    assert known["mask"].tolist() == [[1, 1, 0]] * 2
