"""A run that is killed, or that finds the disk full, at any file operation can be resumed bit for bit."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from beeline.config import build as config
from beeline.core import files
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.point_files import DistributionData
from beeline.runs.averaging import export_averages
from beeline.runs.live import page
from beeline.runs.run import Run, train
from beeline.training.config import Training
from beeline.training.distributed import writer
from beeline.training.logs.run_log import read_log
from beeline.training.optim.ema import EMA, PowerEMA
from beeline.training.optim.learning_rate import Constant


@pytest.fixture(scope="module", autouse=True)
def two_versions_of_the_live_page():
    """The first and the last one, so that the number of file operations does not depend on the speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "OFTEN", math.inf)
        yield


def recipe(**more: Any) -> Run:
    training = Training(
        steps=4, batch_size=8, lr=Constant(1e-2), ema=(PowerEMA(0.1), EMA(3.0)), checkpoint_every=2, snapshot_every=2
    )
    data = DistributionData(GaussianMixture(((2.0, 1.0),), 0.3), n=24, kept=8)
    run = Run(data, {"is": "networks.MLP", "width": 8, "depth": 1}, training=training)
    return config.change(run, {"sampler.steps": 1, **more})


def quiet(entry: dict[str, Any]) -> None:
    """A log function that does nothing."""


def work(out: Path) -> None:
    """Start or resume a run, then export its averages."""
    train(recipe(), out, resume=(out / "run.yaml").is_file(), log=quiet)
    export_averages(out)


def contents(out: Path) -> dict[str, bytes]:
    """The contents of all files of a run but those with times of day."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    log = [{k: v for k, v in e.items() if k in ("step", "loss", "terms")} for e in read_log(out / "log.jsonl")]
    return {k: v for k, v in found.items() if k not in ("log.jsonl", "live.html")} | {"log": json.dumps(log).encode()}


@contextlib.contextmanager
def failing(at: int, fail: Callable[[], None]) -> Iterator[list[int]]:
    """Count file operations that write; operation number ``at`` fails before or during the write."""
    count = [0]

    def met() -> bool:
        count[0] += 1
        return count[0] == at

    def wrapped(module: Any, name: str, writes: Callable[..., bool] = lambda *a, **k: True) -> tuple[Any, str, Any]:
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if writes(*args, **kwargs) and met():
                fail()
            return real(*args, **kwargs)

        setattr(module, name, call)
        return module, name, real

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> bool:
        return any(c in mode for c in "wa+x")

    real_save = safetensors.torch.save_file

    def save(tensors: Any, path: Any, *args: Any) -> None:
        if met():
            Path(path).write_bytes(b"half")
            fail()
        real_save(tensors, path, *args)

    every = [wrapped(os, n) for n in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir", "chmod")]
    every += [wrapped(builtins, "open", opened)]
    import io

    every += [wrapped(io, "open", opened)]
    for module in (files, writer):
        module.save_file = save  # type: ignore[attr-defined]
    try:
        yield count
    finally:
        for module, name, real in every:
            setattr(module, name, real)
        for module in (files, writer):
            module.save_file = real_save  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The contents of an uninterrupted run, and its number of file operations."""
    work(tmp_path_factory.mktemp("first") / "run")  # modules that are imported late write their bytecode now
    out = tmp_path_factory.mktemp("whole") / "run"
    with failing(0, lambda: None) as count:
        work(out)
    return contents(out), count[0]


def killed(out: Path, at: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            with failing(at, lambda: os._exit(9)):
                work(out)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_kills(whole: tuple[dict[str, bytes], int], where: Path, points: range) -> None:
    wanted, count = whole
    assert count > 80
    for at in points:
        out = where / str(at) / "run"
        assert killed(out, at) == 9, at
        work(out)
        found = contents(out)
        assert set(found) == set(wanted), (at, set(found) ^ set(wanted))
        assert [k for k in wanted if found[k] != wanted[k]] == [], at


def test_a_kill_at_some_file_operations_leaves_a_resumable_run(whole, tmp_path):
    check_kills(whole, tmp_path, range(3, whole[1] + 1, 31))


@pytest.mark.slow
def test_a_kill_at_every_file_operation_leaves_a_resumable_run(whole, tmp_path):
    check_kills(whole, tmp_path, range(1, whole[1] + 1))


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_reported_with_the_file_and_leaves_a_resumable_run(whole, tmp_path):
    wanted, count = whole
    for at in range(2, count + 1, 43):
        out = tmp_path / str(at) / "run"
        try:
            with failing(at, full):
                work(out)
        except BeelineError as error:
            assert str(out) in str(error) and "No space left" in str(error), (at, error)
        work(out)
        assert contents(out) == wanted, at
