"""The recipe of tables from file to file: a run, its bundle, and rows drawn from it."""

import dataclasses

import pandas as pd
import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.tables.files import StreamMicrobatches, TableStream
from beeline.distillation.students import OneStep
from beeline.objectives.tables import RowMatching
from beeline.recipes.tables import table
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, Run, prepare, train
from beeline.sampling.sampler import Sampler
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.early_stopping import EarlyStopping
from beeline.training.logs.run_log import read_log
from beeline.training.optim.learning_rate import Constant
from tests.data.tables.test_schema import mixed


def quick(path: str) -> Run:
    run = table(path)
    small = {"is": "networks.TabularMLP", "width": 16, "depth": 1}
    return dataclasses.replace(run, network=small, training=Training(steps=3, batch_size=16))


def test_a_run_learns_a_file_and_draws_rows_in_its_form(tmp_path) -> None:
    mixed(120).to_csv(tmp_path / "t.csv", index=False)
    run = quick(str(tmp_path / "t.csv"))
    assert config.build(config.describe(run)) == run
    train(run, tmp_path / "run", log=lambda entry: None)
    bundle = load(tmp_path / "run")
    made = bundle.sample(30)
    assert list(made.columns) == list(mixed().columns) and (made["place"] == "here").all()
    cond = bundle.sample(5, cond={"pet": "eel", "age": 41})
    assert (cond["pet"] == "eel").all() and (cond["age"] == 41).all()
    bundle.modality.save(made, tmp_path / "made.csv")
    assert list(pd.read_csv(tmp_path / "made.csv").columns) == list(made.columns)
    with pytest.raises(BeelineError, match="did you mean 'pet'"):
        bundle.sample(2, cond={"pets": "eel"})


def test_a_run_ends_by_its_held_out_rows_and_its_log_has_every_step_once(tmp_path) -> None:
    mixed(120).to_csv(tmp_path / "t.csv", index=False)
    hasty = Training(steps=300, batch_size=64, lr=Constant(0.05), early_stopping=EarlyStopping(1, every=5))
    run = dataclasses.replace(quick(str(tmp_path / "t.csv")), training=hasty)
    train(run, tmp_path / "run", log=lambda entry: None)
    log = read_log(tmp_path / "run" / "log.jsonl")
    end = checkpoint.number(checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert [entry["step"] for entry in log] == list(range(1, end + 1)) and end < 300
    weights = load(tmp_path / "run").weights
    train(run, tmp_path / "run", resume=True, log=lambda entry: None)  # there is nothing left to do
    assert load(tmp_path / "run").weights == weights


def test_a_run_is_distilled_to_one_evaluation_and_still_knows_its_cells(tmp_path) -> None:
    mixed(120).to_csv(tmp_path / "t.csv", index=False)
    train(quick(str(tmp_path / "t.csv")), tmp_path / "run", log=lambda entry: None)
    how = Training(steps=2, batch_size=16)
    train(Distilled(str(tmp_path / "run"), OneStep(Sampler(2)), how), tmp_path / "one", log=lambda entry: None)
    one = load(tmp_path / "one")
    assert one.sampler.evaluations == 1 and isinstance(OneStep().objective(one.flow), RowMatching)
    assert (one.sample(5, cond={"pet": "eel"})["pet"] == "eel").all()
    pairs = OneStep(one.sampler).data(one.flow, Batch(one.modality.encode(mixed(120)).x1), Rng(0))
    mask = pairs.cond["mask"]
    assert 0 < mask.mean() < 1 and set(pairs.cond) == {"known", "mask"}
    wide = mask.repeat_interleave(torch.tensor([sum(group) for group in one.modality.groups]), 1) > 0
    assert torch.equal(pairs.x1[wide], pairs.cond["known"][wide])  # known cells are carried to their place


def test_a_stream_is_learned_in_parts(tmp_path) -> None:
    mixed(120).drop(columns=["row_id", "seen"]).to_parquet(tmp_path / "t.parquet", row_group_size=50)
    run = dataclasses.replace(quick(""), data=TableStream(str(tmp_path / "t.parquet"), first=60))
    work = prepare(run)
    assert isinstance(work.data, StreamMicrobatches) and len(work.data) == 120
    train(run, tmp_path / "run", log=lambda entry: None)
    assert len(load(tmp_path / "run").sample(4)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,a\n1,2\n", "more than one column named 'a'"),
        ("a,b\n1,2\n", "too few rows to learn|cannot be split|held out"),
    ],
)
def test_bad_files_are_refused_before_anything_is_written(tmp_path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BeelineError, match=message):
        train(quick(str(tmp_path / "t.csv")), tmp_path / "run", log=lambda entry: None)
    assert not (tmp_path / "run" / "bundle").exists() and not (tmp_path / "run" / "run.yaml").exists()
