"""Data that are read in order: exact resume, by the state of the stream or by counting."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.training.checks import Interrupted
from beeline.training.config import Training
from beeline.training.distributed.parallel import all_reduce_sum
from beeline.training.feed.streams import Part, StreamFeed, gathered, resumes
from beeline.training.fit import fit


class Numbers:
    """A stream of 0 .. n-1, which counts the records that it gives."""

    def __init__(self, n: int, first: int = 0, step: int = 1):
        self.values, self.at, self.start, self.given = range(first, n, step), 0, 0, 0

    def __iter__(self) -> Iterator[int]:
        self.at = self.start
        for value in self.values[self.start :]:
            self.at += 1
            self.given += 1
            yield value

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = self.at = state_dict["at"]


class Forgetful(Numbers):
    """A stream whose state is one record late."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = self.at = max(0, state_dict["at"] - 1)


class Feed(StreamFeed):
    def batch(self, records: Any, number: int) -> Batch:
        return Batch(torch.tensor(records, dtype=torch.float32)[:, None].repeat(1, 2))


def feed(
    n: int = 53, parts: int = 1, kind: type = Numbers, buffer: int = 7, skip: int = 2, counted: bool = False
) -> Feed:
    return Feed([kind(n, i, parts) for i in range(parts)], buffer, skip, Rng(0), counted)


def values(batch: Batch) -> list[float]:
    return batch.x1[:, 0].tolist()


@pytest.mark.parametrize(
    ("parts", "kind", "counted"), [(1, Numbers, False), (3, Numbers, False), (2, Forgetful, False), (1, Numbers, True)]
)
def test_a_resumed_feed_continues_with_the_next_record(parts: int, kind: type, counted: bool) -> None:
    whole = feed(parts=parts, kind=kind, counted=counted)
    every = [values(whole.microbatch(n, 4)) for n in range(60)]
    for cut in (1, 5, 13, 26, 40, 59):
        first = feed(parts=parts, kind=kind, counted=counted)
        for n in range(cut):
            first.microbatch(n, 4)
        state, tensors = first.state()
        second = feed(parts=parts, kind=kind, counted=counted)
        second.microbatch(0, 4)  # as the fingerprint of the data does
        second.load_state(json.loads(json.dumps(state)), tensors)
        assert [values(second.microbatch(n, 4)) for n in range(cut, 60)] == every[cut:]
    assert [values(whole.microbatch(n, 4)) for n in (3, 59, 30, 31)] == [every[n] for n in (3, 59, 30, 31)]


def test_every_record_once_an_epoch_without_those_held_out() -> None:
    data = feed()
    found = [v for n in range(51 * 3) for v in values(data.microbatch(n, 1))]
    for epoch in range(3):
        assert sorted(found[51 * epoch : 51 * (epoch + 1)]) == list(range(2, 53))
    assert found[:51] != found[51:102] != found[102:]  # shuffled anew
    assert found[:7] != sorted(found[:7])


def test_a_state_makes_resuming_cheap_and_counting_does_not() -> None:
    def read(counted: bool) -> int:
        first = feed(10_000, buffer=50, counted=counted)
        for n in range(0, 900):
            first.microbatch(n, 10)
        second = feed(10_000, buffer=50, counted=counted)
        stream = second.parts[0].stream
        assert isinstance(stream, Numbers)
        before = stream.given
        second.load_state(*first.state())
        second.microbatch(900, 10)
        return stream.given - before

    assert read(counted=False) <= 200 and read(counted=True) > 8900


def test_whether_a_state_is_exact_is_tried() -> None:
    assert resumes(Numbers(5)) and not resumes(Forgetful(5)) and not resumes(Numbers(2))
    part = Part(Numbers(3), 5, 3, Rng(0))
    with pytest.raises(ValueError, match="no records beyond the first 3, which are held out"):
        part.take(0, 1)


def run(folder: Path, steps: int, resume: bool = False, stop: int | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    net = MLP(2, width=16, depth=1)
    training = Training(steps=steps, batch_size=6, microbatches=2, checkpoint_every=5)

    def log(entry: dict[str, Any]) -> None:
        if entry.get("step") == stop and "loss" in entry:
            raise KeyboardInterrupt

    return fit(
        net, FlowMatching(), feed(parts=2), training, rng=Rng(3), device="cpu", log=log, checkpoint_dir=folder,
        resume=folder if resume else None,
    )  # fmt: skip


def test_an_interrupted_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 30)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(tmp_path / "parts", 30, stop=17)
    again = run(tmp_path / "parts", 30, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_threads_decode_and_no_processes_are_started(tmp_path: Path) -> None:
    data = feed()
    training = Training(steps=3, batch_size=4, workers=2)
    fit(MLP(2, width=8, depth=1), FlowMatching(), data, training, device="cpu", log=lambda entry: None)
    assert data.each(lambda a, b: a + b, [1, 2, 3], [10, 20, 30]) == [11, 22, 33]
    assert data._threads is not None and not multiprocessing.active_children()


def _process(rank: int, place: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    marks = {rank: [rank, "x" * (5 + 100 * rank)], 2: ["shared", rank]}
    found = gathered(marks, 4, all_reduce_sum)
    assert found == {0: [0, "x" * 5], 1: [1, "x" * 105], 2: ["shared", rank]}
    dist.destroy_process_group()


@pytest.mark.engine
def test_states_of_several_processes_are_gathered(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_process, (str(tmp_path / "store"),), nprocs=2, start_method="fork")
