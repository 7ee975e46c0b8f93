"""TabularFlow: exact distributions of rows, and the habits of scikit-learn on a small table."""

import math

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.tables.metrics.scores import ShapeError, TrendError
from beeline.data.tables.table import Table
from beeline.density.likelihood import Exact
from beeline.estimators import tabular_density as rowlaw
from beeline.estimators.tabular import TabularFlow
from beeline.fields.flow import Flow
from beeline.paths.affine import Linear
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import MIDPOINT

# --------------------------------------------------------------------------------- exact distributions of rows

PAIRS = {("x", "p"): 0.5, ("x", "q"): 0.1, ("y", "p"): 0.1, ("y", "q"): 0.3}


def exact_table() -> tuple[Table, Flow, pd.DataFrame]:
    """Two categories with a known joint distribution and an independent number, with their exact field."""
    rows = [pair for pair, p in PAIRS.items() for _ in range(round(100 * p))]
    raw = pd.DataFrame(rows, columns=["a", "b"])
    raw["n"] = np.linspace(-3, 3, 100)
    table = Table(schema={"n": {"standard": True, "low": -1e3, "high": 1e3}}).fit(raw)
    kinds = table.encode(raw[["a", "b", "n"]].drop_duplicates(["a", "b"])).x1[:, :4]
    mass = torch.tensor([PAIRS[tuple(r)] for r in raw.drop_duplicates(["a", "b"])[["a", "b"]].to_numpy()])

    def field(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        a, b = t[:, None], (1 - t)[:, None]
        far = ((x[:, None, :4] - a[..., None] * kinds.to(x)) ** 2).sum(-1)
        log_weight = mass.log().to(x) - far / (2 * b * b)
        if cond is not None:  # the first category is known
            log_weight = log_weight.masked_fill((kinds[:, :2].to(x)[None] != cond[:, None, :]).any(-1), -math.inf)
        mean = log_weight.softmax(1) @ kinds.to(x)
        number = (2 * t - 1)[:, None] / (a * a + b * b) * x[:, 4:]  # a standard normal number
        return torch.cat([Linear().velocity(x[:, :4], t, x1=mean), number], 1)

    return table, Flow(field), raw


def test_the_log_probability_of_rows_is_exact_for_an_exact_field() -> None:
    table, flow, raw = exact_table()
    rows = raw.drop_duplicates(["a", "b"]).reset_index(drop=True)
    found = rowlaw.log_prob(flow, table, rows, divergence=Exact(), rng=Rng(0), steps=60)
    number = table.coded["n"].number
    z = (rows["n"].to_numpy() - number.mean) / number.deviation
    density = -z * z / 2 - math.log(math.sqrt(2 * math.pi) * number.deviation)
    wanted = np.log([PAIRS[tuple(r)] for r in rows[["a", "b"]].to_numpy()]) + density
    assert np.abs(found.numpy() - wanted).max() < 0.02


def test_a_score_needs_a_gaussian_and_independent_flow() -> None:
    table, flow, raw = exact_table()
    with pytest.raises(BeelineError, match="coupling was not independent"):
        rowlaw.log_prob(Flow(flow.field, independent=False), table, raw, divergence=Exact(), rng=Rng(0))
    with pytest.raises(BeelineError, match="steps is at least 1"):
        rowlaw.descent(0, 0.1)


def test_a_counterfactual_under_the_same_condition_is_the_same_row() -> None:
    table, flow, raw = exact_table()
    x1 = table.encode(raw, Rng(1)).x1
    made = rowlaw.counterfactual(flow, x1, None, None, sampler=Sampler(60, solver=MIDPOINT), rng=Rng(2), steps=60)
    back = table.decode(made)
    assert (back[["a", "b"]] == raw[["a", "b"]]).all(axis=None)
    assert np.abs(back["n"] - raw["n"]).max() < 0.25, "a number keeps its place up to the noise that abduction adds"


def test_counterfactuals_follow_the_distribution_of_the_new_condition() -> None:
    """Rows with a = x, asked what they were with a = y: b is q in 3 of 4, and no row becomes less like q."""
    table, flow, raw = exact_table()
    some = pd.concat([raw[raw["a"] == "x"]] * 10, ignore_index=True)
    x1 = table.encode(some, Rng(1)).x1
    old = x1[:, :2]
    made = rowlaw.counterfactual(flow, x1, old, -old, sampler=Sampler(60, solver=MIDPOINT), rng=Rng(2), steps=60)
    found = table.decode(made)
    assert (found["a"] == "y").all()
    assert (found["b"] == "q").mean() == pytest.approx(0.75, abs=0.04)
    assert (found["b"][some["b"] == "q"] == "q").all()


# --------------------------------------------------------------------------------------- a small table, learned once


def people(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    size = np.round(np.array([0.0, 4.0, 8.0])[kind] + rng.standard_normal(n), 2)
    return pd.DataFrame(
        {
            "kind": np.array(["ant", "bee", "cat"])[kind],
            "size": size,
            "legs": np.array([6, 6, 4])[kind] + rng.integers(0, 2, n),
            "gift": np.where(rng.random(n) < 0.2, np.nan, np.round(np.exp(size / 4), 1)),
            "flies": kind == 1,
        }
    )


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return people(3000)


@pytest.fixture(scope="module")
def flow(frame: pd.DataFrame) -> TabularFlow:
    return TabularFlow(steps=600, batch=256, width=96, depth=2, lr=4e-3, known=0.5, dropout=0.0, half=False).fit(frame)


def test_samples_have_the_columns_types_and_distribution_of_real_rows(flow: TabularFlow, frame: pd.DataFrame) -> None:
    made = flow.sample(3000, random_state=0)
    assert list(made.columns) == list(frame.columns) and (made.dtypes == frame.dtypes).all()
    schema = flow.table_.columns
    assert ShapeError()(schema, frame, made, Rng(0)) < 0.04
    columns = {name: frame[name].sample(frac=1, random_state=k).to_numpy() for k, name in enumerate(frame)}
    assert TrendError()(schema, frame, pd.DataFrame(columns), Rng(0)) > 0.25, "independent columns"
    assert TrendError()(schema, frame, made, Rng(0)) < 0.12, "3,000 new rows of the same distribution give up to 0.08"
    assert (made["flies"] == (made["kind"] == "bee")).mean() > 0.97
    assert made["gift"].isna().mean() == pytest.approx(0.2, abs=0.05)
    assert made["size"].between(frame["size"].min(), frame["size"].max()).all()


def test_the_same_state_gives_the_same_rows_and_more_begin_alike(flow: TabularFlow) -> None:
    first = flow.sample(50, random_state=1)
    assert first.equals(flow.sample(50, random_state=1)) and not first.equals(flow.sample(50, random_state=2))
    assert first.equals(flow.sample(120, random_state=1).head(50))
    assert not flow.sample(50).equals(flow.sample(50)), "new rows without a seed"
    assert not flow.sample(50).equals(flow.sample(50, random_state=5))
    before = torch.get_rng_state()
    flow.sample(5)
    assert torch.equal(before, torch.get_rng_state())


def test_two_fits_with_one_state_are_one_flow(frame: pd.DataFrame) -> None:
    a, b = (
        TabularFlow(steps=5, width=16, depth=1, half=False).fit(frame.head(300)).sample(20, random_state=0)
        for _ in range(2)
    )
    assert a.equals(b)


def test_conditions_hold_and_the_rest_follows_them(flow: TabularFlow, frame: pd.DataFrame) -> None:
    made = flow.sample(600, conditions={"kind": "cat"})
    assert (made["kind"] == "cat").all() and (~made["flies"]).mean() > 0.9
    real = frame[frame["kind"] == "cat"]
    assert abs(made["size"].mean() - real["size"].mean()) < 1.2
    assert made["legs"].isin([4, 5]).mean() > 0.9
    rows = pd.DataFrame({"size": [0.0, 8.0] * 50})
    partial = flow.sample(conditions=rows)
    assert len(partial) == 100 and (partial["size"] == rows["size"]).all()
    assert (partial["kind"][::2] == "ant").mean() > 0.9 and (partial["kind"][1::2] == "cat").mean() > 0.6


def test_gaps_are_filled_from_the_other_cells(flow: TabularFlow, frame: pd.DataFrame) -> None:
    holes = people(200, 9)
    truth = holes["kind"].copy()
    holes["kind"] = holes["kind"].where(np.arange(200) % 2 == 0)
    a, b = flow.impute(holes, draws=2)
    assert not a.isna().any(axis=None), "cells that were empty in training too are filled"
    assert (a["kind"] == truth).mean() > 0.9
    kept = holes.notna()
    assert ((a == holes) | ~kept).all(axis=None)
    assert not a["gift"].equals(b["gift"]) and (a.dtypes == frame.dtypes).all()
    assert flow.impute(a).equals(a), "nothing to fill, nothing changed"


def test_strange_rows_have_a_low_probability(flow: TabularFlow) -> None:
    usual = people(60, 3)
    odd = usual.assign(flies=~usual["flies"])
    better = flow.log_prob(usual) > flow.log_prob(odd)
    assert better.mean() > 0.95
    assert np.abs(flow.log_prob(usual.head(8), exact=True) - flow.log_prob(usual.head(8), probes=64)).max() < 2.0
    assert flow.score_samples(usual).shape == (60,)


def test_a_counterfactual_changes_what_hangs_on_the_change(flow: TabularFlow) -> None:
    ants = people(300, 4).query("kind == 'ant'").reset_index(drop=True)
    bees = flow.counterfactual(ants, {"kind": "bee"})
    assert (bees["kind"] == "bee").all() and bees["flies"].mean() > 0.8
    assert bees["size"].mean() - ants["size"].mean() == pytest.approx(4, abs=1.2)
    assert np.corrcoef(bees["size"], ants["size"])[0, 1] > 0.8, "a large ant makes a large bee"


def test_one_evaluation_after_distillation(flow: TabularFlow, frame: pd.DataFrame) -> None:
    student = flow.distill(steps=250, pairs=4000, batch=256, lr=2e-3)
    assert student.sampler_.evaluations == 1 and flow.sampler_.evaluations == 16
    made = student.sample(2000, random_state=0)
    assert ShapeError()(student.table_.columns, frame, made, Rng(0)) < 0.08
    assert (student.sample(200, conditions={"kind": "cat"})["kind"] == "cat").all()
    assert (made.head(500)["kind"] == flow.sample(500, random_state=0)["kind"]).mean() > 0.85, (
        "the same noise gives the same row"
    )
    with pytest.raises(BeelineError, match="coupling was not independent"):
        student.log_prob(frame.head(2))


def test_saved_and_loaded_as_estimator_and_as_bundle(flow: TabularFlow, tmp_path) -> None:
    flow.save(tmp_path / "b")
    again = TabularFlow.load(tmp_path / "b")
    assert (
        again.sample(30, random_state=0).equals(flow.sample(30, random_state=0))
        and again.get_params() == flow.get_params()
    )
    from beeline.runs.bundle import load

    bundle = load(tmp_path / "b")
    made = bundle.sample(20, cond={"kind": "bee"})
    assert (made["kind"] == "bee").all() and bundle.sample(3).shape == (3, 5)


def test_rows_go_straight_to_a_file(flow: TabularFlow, tmp_path, monkeypatch) -> None:
    import beeline.estimators.tabular as module

    monkeypatch.setattr(module, "BLOCK", 16)
    flow.sample_to(tmp_path / "t.parquet", 1200, random_state=0)
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    assert pd.read_parquet(tmp_path / "t.parquet").equals(flow.sample(1200, random_state=0))


def test_scikit_learn_finds_its_way(frame: pd.DataFrame) -> None:
    base = TabularFlow(steps=30, width=16, depth=1, random_state=3)
    other = clone(base).set_params(width=24)
    assert other.get_params()["random_state"] == 3 and other.width == 24 and base.width == 16
    inputs, answer = frame[["size", "gift"]], frame["flies"]
    model = make_pipeline(base, LogisticRegression()).fit(inputs.head(400), answer.head(400))
    assert model.predict(inputs.head(10)).shape == (10,)
    assert list(model[0].feature_names_in_) == ["size", "gift"]
    scores = make_pipeline(TabularFlow(steps=5, width=16, depth=1)).fit(inputs.head(100)).score_samples(inputs.head(4))
    assert scores.shape == (4,)


def test_arrays_and_files_are_tables_too(frame: pd.DataFrame, tmp_path) -> None:
    quick = TabularFlow(steps=3, width=8, depth=1, exclude=("legs",))
    frame.head(200).to_csv(tmp_path / "t.csv", index=False)
    assert "legs" not in clone(quick).fit(tmp_path / "t.csv").sample(2).columns
    frame.head(200).to_parquet(tmp_path / "t.parquet")
    assert clone(quick).fit(str(tmp_path / "t.parquet")).sample(2).shape == (2, 4)
    made = TabularFlow(steps=3, width=8, depth=1).fit(np.random.default_rng(0).standard_normal((100, 2))).sample(4)
    assert list(made.columns) == ["x0", "x1"]


def test_a_file_larger_than_memory_is_learned_in_parts(frame: pd.DataFrame, tmp_path, monkeypatch) -> None:
    import beeline.estimators.tabular as module

    monkeypatch.setattr(module, "LARGE", 500)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=700)
    flow = TabularFlow(steps=20, batch=64, width=16, depth=1).fit(str(tmp_path / "t.parquet"))
    assert flow.sample(5).shape == (5, 5)


def test_a_transformer_over_columns(frame: pd.DataFrame) -> None:
    flow = TabularFlow(steps=10, batch=64, wide=True, width=16, depth=1).fit(frame.head(300))
    assert flow.sample(5, conditions={"kind": "bee"})["kind"].eq("bee").all()


def test_what_is_refused(flow: TabularFlow, frame: pd.DataFrame) -> None:
    with pytest.raises(BeelineError, match="is not fitted"):
        TabularFlow().sample(3)
    with pytest.raises(BeelineError, match="n=0 is no number of rows"):
        flow.sample(0)
    with pytest.raises(BeelineError, match="did you mean 'bee'"):
        flow.sample(2, conditions={"kind": "bees"})
    with pytest.raises(BeelineError, match="did you mean 'size'"):
        flow.sample(2, conditions={"sizes": 1})
    with pytest.raises(BeelineError, match="no column 'sizes'"):
        flow.impute(frame.rename(columns={"size": "sizes"}))
    with pytest.raises(BeelineError, match="it is a number of samples"):
        flow.impute(frame, draws=0)
    with pytest.raises(BeelineError, match="got str, which is no table"):
        flow.log_prob("t.csv")
    bare = TabularFlow(steps=2, width=8, depth=1, known=0.0).fit(frame.head(100))
    with pytest.raises(BeelineError, match="trained without known cells"):
        bare.sample(2, conditions={"kind": "bee"})
    with pytest.raises(BeelineError, match="which counterfactuals need"):
        bare.counterfactual(frame.head(2), {"kind": "bee"})


def test_another_kind_of_bundle_is_no_table(tmp_path) -> None:
    from beeline.data.points import Points, PointSet
    from beeline.fields.flow import Network
    from beeline.networks.mlp import MLP
    from beeline.runs.bundle import Bundle

    points = Points().fit(PointSet(np.zeros((4, 2)) + np.arange(4)[:, None], ("x", "y")))
    Bundle(Flow(Network(MLP(2, width=8))), modality=points).save(tmp_path / "p")
    with pytest.raises(BeelineError, match="a flow of Points, not of a table"):
        TabularFlow.load(tmp_path / "p")
