"""The report of a table: metrics with baselines, and plots of every column."""

import re

import pandas as pd
import pytest

from beeline.core.rng import Rng
from beeline.data.tables.table import Table
from beeline.estimators.tabular_report import correlations, histograms, report, scores
from tests.data.tables.test_schema import mixed
from tests.data.tables.test_tablemetrics import people


def test_every_metric_has_its_baseline() -> None:
    real, made, hold = people(600, 0), people(600, 1), people(300, 2)
    table = Table().fit(real)
    found = {f["name"]: f for f in scores(table, real, made, Rng(0), holdout=hold, target="tall")}
    assert set(found) == {
        "shape error", "trend error", "c2st score", "alpha-precision", "beta-recall", "duplicates", "violations",
        "closest record error", "downstream", "missing rate error",
    }  # fmt: skip
    for name in ("shape error", "trend error"):
        assert 0 < found[name]["value"] < 2 * found[name]["baseline"]
    assert found["closest record error"]["baseline"] == 0 and found["closest record error"]["value"] < 0.1
    assert found["downstream"]["value"] == pytest.approx(found["downstream"]["baseline"], abs=0.06)


def test_the_page_is_one_file_with_every_column() -> None:
    real = mixed(120).assign(pet=lambda f: f["pet"].replace("eel", "<b>eel"))
    made = real.sample(120, replace=True, random_state=0).reset_index(drop=True)
    page = report(Table().fit(real), real, made, Rng(0), title="Pets & ages")
    assert "Pets &amp; ages" in page and "<b>eel" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    assert page.count("data:image/png;base64") == 2


def test_bars_stand_over_the_names_of_their_levels() -> None:
    real = pd.DataFrame({"pet": ["cat"] * 5 + [None] * 3 + ["zebra"] * 2, "x": range(10)})
    made = pd.DataFrame({"pet": ["zebra"] * 9 + [float("nan")], "x": range(10)})
    axes = histograms(Table().fit(real).columns, real, made).axes[0]
    heights = dict(
        zip([t.get_text() for t in axes.get_xticklabels()], [bar.get_height() for bar in axes.patches], strict=True)
    )
    assert heights == {"cat": 0.5, "(empty)": 0.3, "zebra": 0.2}


def test_pictures_have_a_panel_per_learned_column() -> None:
    real = mixed(60)
    schema = Table().fit(real).columns
    learned = [c.name for c in schema.columns if c.kind not in ("constant", "identifier")]
    page = histograms(schema, real, real)
    assert [axes.get_title().split()[0] for axes in page.axes] == learned
    squares = correlations(schema, real, real)
    assert [axes.get_title() for axes in squares.axes[:1]] == ["real"]
    only = pd.DataFrame({"a": ["x", "y"] * 10})
    correlations(Table().fit(only).columns, only, only)  # no number at all
