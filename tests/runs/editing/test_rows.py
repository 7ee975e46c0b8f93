"""Edits of rows of tables."""

import numpy as np
import pandas as pd
import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.tables.table import Table
from beeline.networks.tabular import TabularMLP
from beeline.sampling.editing.flow_edit import FlowEdit


def frame(n=64):
    draw = np.random.default_rng(0)
    age, city = draw.normal(40, 10, n).round(), draw.choice(["Oslo", "Rome"], n)
    return pd.DataFrame({"age": age, "income": 1000 * age + draw.normal(0, 777, n), "city": city})


def bundle():
    table = Table().fit(frame())
    with bl.Rng(0).ambient():
        net = TabularMLP(table.groups, conditions=table.conditions, width=16)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return bl.Bundle(bl.Flow(bl.Network(net, prediction=bl.predictions.Data(0.01))), bl.Sampler(4), table)


def test_equal_cells_move_nothing_and_others_are_edited_under_their_new_cell():
    rows = frame(8)
    same = bundle().edit(FlowEdit(), rows, to={"city": "Oslo"}, cond={"city": "Oslo"})
    kept = [name for name in rows if name != "city"]
    pd.testing.assert_frame_equal(same.samples[kept], rows[kept], check_dtype=False)
    assert same.outcome.evaluations == 0
    made = bundle().edit(FlowEdit(0.0), rows, to={"city": "Rome"}, cond={"city": "Oslo"})
    assert (made.samples["city"] == "Rome").all() and not np.allclose(made.samples["income"], rows["income"])


def test_cells_outside_of_a_region_are_those_that_were_given():
    rows, made = frame(8), bundle()
    income = [name == "income" for name in made.modality.columns.names for _ in range(made.modality.coded[name].width)]
    found = made.edit(FlowEdit(0.0), rows, to={"city": "Rome"}, cond={"city": "Oslo"}, region=np.float32(income))
    pd.testing.assert_series_equal(found.samples["age"], rows["age"], check_dtype=False)
    assert (found.samples["income"] != rows["income"]).any()


def test_rows_without_a_column_are_refused():
    with pytest.raises(BeelineError, match="lack the columns"):
        bundle().edit(FlowEdit(), frame(4).drop(columns="age"), to={"city": "Rome"}, cond={"city": "Oslo"})
