"""Figures of tables: closed forms, equality with sdmetrics, and what copies and fresh draws must give."""

import warnings

import numpy as np
import pandas as pd
import pytest

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.tables.metrics.pairs import closest
from beeline.data.tables.metrics.privacy import ClosestRecord, Duplicates
from beeline.data.tables.metrics.scores import (
    Downstream,
    MissingError,
    OnTable,
    Precision,
    Recall,
    ShapeError,
    TrendError,
    TwoSample,
    Violations,
    usual,
)
from beeline.data.tables.schema import Schema
from beeline.data.tables.table import Table


def people(n: int, seed: int, shift: float = 0.0, pets: tuple[float, ...] = (0.5, 0.3, 0.2)) -> pd.DataFrame:
    """Two numbers that hang together, a category, and a boolean that depends on a number."""
    rng = np.random.default_rng(seed)
    size = rng.standard_normal(n) + shift
    return pd.DataFrame(
        {
            "size": np.round(size, 3),
            "weight": np.round(0.8 * size + 0.6 * rng.standard_normal(n), 3),
            "pet": np.array(["dog", "cat", "eel"])[rng.choice(3, n, p=pets)],
            "tall": size + 0.5 * rng.standard_normal(n) > 0.3,
            "group": rng.integers(0, 5, n),
        }
    )


@pytest.fixture(scope="module")
def table() -> Table:
    return Table().fit(people(2000, 0))


@pytest.fixture(scope="module")
def schema(table: Table) -> Schema:
    return table.columns


def test_the_same_rows_have_no_error(schema: Schema) -> None:
    a = people(500, 0)
    assert ShapeError()(schema, a, a, Rng(0)) == 0
    assert TrendError()(schema, a, a, Rng(0)) == 0
    assert Duplicates()(schema, a, a, Rng(0)) == 1
    assert Violations()(schema, a, a, Rng(0)) == 0


def test_shape_and_trend_of_closed_forms(schema: Schema) -> None:
    a = people(4000, 1)
    moved = ShapeError().each(schema, a, a.assign(size=a["size"] + 100, pet="dog"))
    assert moved["size"] == 1
    assert moved["pet"] == pytest.approx(1 - (a["pet"] == "dog").mean())
    assert moved["weight"] == moved["tall"] == 0
    turned = TrendError().each(schema, a, a.assign(weight=-a["weight"]))
    assert turned["size", "weight"] == pytest.approx(a["size"].corr(a["weight"]))
    mixed = a.assign(pet=a["pet"].to_numpy()[Rng(0).permutation(len(a)).numpy()])
    assert ShapeError().each(schema, a, mixed)["pet"] == 0


def test_equal_to_sdmetrics(schema: Schema) -> None:
    reports = pytest.importorskip("sdmetrics.reports.single_table")
    a, b = people(800, 2), people(700, 3, shift=0.2, pets=(0.3, 0.3, 0.4))
    kinds = {"size": "numerical", "weight": "numerical", "group": "numerical", "pet": "categorical", "tall": "boolean"}
    metadata = {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reports.QualityReport()
        found.real_correlation_threshold = found.real_association_threshold = 0  # no pair is left out
        found.generate(a[list(kinds)], b[list(kinds)], metadata, verbose=False)
    scores = found.get_properties().set_index("Property")["Score"]
    plain = Table().fit(a).columns
    assert 1 - ShapeError()(plain, a, b, Rng(0)) == pytest.approx(scores["Column Shapes"], abs=1e-9)
    each = found.get_details("Column Pair Trends").set_index(["Column 1", "Column 2"])["Score"]
    own = TrendError().each(plain, a, b)
    for pair, score in each.items():
        mine = own[pair] if pair in own else own[pair[::-1]]
        assert 1 - mine == pytest.approx(score, abs=1e-9), pair


def test_the_two_sample_score_is_that_of_sdmetrics(schema: Schema) -> None:
    single = pytest.importorskip("sdmetrics.single_table")
    a, b = people(1500, 4), people(1500, 5, shift=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = single.LogisticDetection.compute(a.copy(), b.copy())
    assert TwoSample()(schema, a, b, Rng(0)) == pytest.approx(score, abs=0.03)  # both draw their folds


def test_a_classifier_tells_what_differs_and_not_what_is_equal(schema: Schema) -> None:
    a = people(1500, 6)
    assert TwoSample()(schema, a, people(1500, 7), Rng(0)) > 0.93
    assert TwoSample()(schema, a, people(1500, 7, shift=3.0), Rng(0)) < 0.2


def test_training_on_made_rows_is_judged_on_real_ones(schema: Schema) -> None:
    a, hold = people(1500, 8), people(1500, 9)
    judge = Downstream("tall", hold)
    good, bad = judge(schema, a, a, Rng(0)), judge(schema, a, a.assign(tall=a["tall"].to_numpy()[::-1]), Rng(0))
    assert good > 0.85 and abs(bad - 0.5) < 0.1
    assert 0.5 < Downstream("weight", hold)(schema, a, a, Rng(0)) < 0.75  # R^2 of the distribution is 0.64
    assert judge(schema, a, a.assign(tall=True), Rng(0)) == 0.5
    assert abs(Downstream("pet", hold)(schema, a, a, Rng(0)) - 0.5) < 0.08  # nothing tells the pet


def test_precision_and_recall_tell_narrow_from_wide(schema: Schema) -> None:
    a, b = people(1500, 10), people(1500, 11)
    assert Precision()(schema, a, b, Rng(0)) > 0.95 and Recall()(schema, a, b, Rng(0)) > 0.95
    narrow = b.assign(size=b["size"] * 0.1, weight=b["weight"] * 0.1)
    assert Precision()(schema, a, narrow, Rng(0)) < 0.9 and Recall()(schema, a, narrow, Rng(0)) < 0.8
    with pytest.raises(BeelineError, match="too few for the 5 neighbours"):
        Recall()(schema, a.head(8), b, Rng(0))


def test_the_closest_record_gives_copies_away(schema: Schema) -> None:
    train, hold, fresh = people(1200, 12), people(1200, 13), people(1200, 14)
    judge = ClosestRecord(hold)
    assert judge.share(schema, train, train, Rng(0)) > 0.99
    assert judge.share(schema, train, hold, Rng(0)) < 0.01
    for copies in (train, hold):  # either is far from 1/2, which is ideal
        assert judge(schema, train, copies, Rng(0)) > 0.49
    assert judge(schema, train, fresh, Rng(0)) < 0.05 and judge.better == "lower"


def test_rates_of_missing_cells_are_measured() -> None:
    a = people(1000, 2)
    a.loc[:99, "weight"] = np.nan
    table = Table().fit(a.assign(pet=a["pet"].where(a.index >= 200, None)))
    a = a.assign(pet=a["pet"].where(a.index >= 200, None))
    b = a.assign(weight=a["weight"].where(a.index % 2 == 0), pet=a["pet"].fillna("dog"))
    each = MissingError().each(table.columns, a, b)
    assert each["weight"] == pytest.approx(b["weight"].isna().mean() - 0.1) and each["pet"] == pytest.approx(0.2)
    assert MissingError()(table.columns, a, b, Rng(0)) == pytest.approx(sum(each.values()) / 5)
    assert MissingError()(table.columns, a, a, Rng(0)) == 0
    shape = ShapeError().each(table.columns, a, b)
    assert shape["weight"] > each["weight"] - 1e-9 and shape["pet"] == pytest.approx(0.2)
    emptied = a.assign(weight=np.nan)  # no number left to compare
    assert ShapeError().each(table.columns, a, emptied)["weight"] == pytest.approx(0.9)
    assert ShapeError().each(table.columns, emptied, emptied)["weight"] == 0


def test_distance_to_the_nearest_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 3)), rng.standard_normal((60, 3))
    every = np.sort(np.linalg.norm(a[:, None] - b[None], axis=2), axis=1)
    assert np.allclose(closest(a, b), every[:, 0]) and np.allclose(closest(a, b, 4), every[:, 3])


def test_violations_count_rows_not_cells(schema: Schema) -> None:
    a = people(100, 0)
    bad = a.assign(group=a["group"].where(a.index >= 10, 0.5), pet=a["pet"].where(a.index >= 20, "ox"))
    assert Violations()(schema, a, bad, Rng(0)) == pytest.approx(0.2)
    assert Violations(("group >= 0", "size < -100"))(schema, a, a, Rng(0)) == 1
    with pytest.raises(BeelineError, match="names 'siz'; did you mean 'size'"):
        Violations(("siz > 0",))(schema, a, a, Rng(0))


def test_figures_on_coordinates_decode_first(table: Table) -> None:
    a, b = people(600, 15), people(600, 16)
    x, y = table.encode(a, Rng(1)).x1, table.encode(b, Rng(2)).x1
    for metric, plain in zip(table.metrics(), usual(table), strict=True):
        assert isinstance(metric, OnTable) and metric.name == plain.name
        assert metric(x, y, Rng(3)) == pytest.approx(plain(table.columns, table.decode(x), table.decode(y), Rng(3)))
        assert metric.interval(0.5, 10) is None
