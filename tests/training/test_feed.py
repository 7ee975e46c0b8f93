"""Workers, cache of encoded data, and previews."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError, require
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.objectives.matching import FlowMatching
from beeline.training.callbacks import Previews
from beeline.training.config import Training
from beeline.training.feed import cache
from beeline.training.feed.microbatches import FeedBase
from beeline.training.feed.workers import Prefetched, microbatch_numbers
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x, t, cond=None):
        return self.out(torch.cat([x, t[:, None]], 1))


def losses(**more):
    with Rng(0).ambient():
        net = Field()
    entries = []
    training = Training(
        **{"steps": 6, "microbatches": 2, "batch_size": 4, "lr": Constant(0.01), "ema": EMA(2.0)} | more
    )
    fit(net, FlowMatching(), Rng(1).normal(torch.empty(20, 2)), training, rng=Rng(0), log=entries.append)
    return [e["loss"] for e in entries if "loss" in e]


# workers


def test_workers_do_not_change_the_losses():
    state = torch.get_rng_state()
    assert losses() == losses(workers=2)
    assert torch.equal(state, torch.get_rng_state())


def test_microbatch_numbers_of_a_process_and_access_out_of_order():
    numbers = microbatch_numbers(4, 1, 2)(9)
    assert [next(numbers) for _ in range(5)] == [9, 11, 13, 15, 17]

    class Numbers(FeedBase):
        def microbatch(self, number, size):
            return Batch(torch.full((size, 1), float(number)))

    feed = Prefetched(Numbers(), 3, 1, microbatch_numbers(2, 0, 1))
    assert [float(feed.microbatch(n, 3).x1[0]) for n in (4, 5, 6, 2, 3)] == [4, 5, 6, 2, 3]
    assert len(feed.microbatch(0, 5).x1) == 5  # another size is not prefetched


def test_a_dead_worker_gives_one_message():
    class Deadly:
        def microbatch(self, number, size):
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return Batch(torch.zeros(size, 2))

    with pytest.raises(BeelineError, match="a data worker died while it prepared microbatch .*training.workers=0"):
        fit(
            Field(),
            FlowMatching(),
            Deadly(),
            Training(steps=9, batch_size=4, workers=1),
            rng=Rng(0),
            log=lambda e: None,
        )


def test_an_error_in_a_worker_is_raised_unchanged():
    class Damaged:
        def microbatch(self, number, size):
            require(number < 3, f"microbatch {number} is damaged; repair the file")
            return Batch(torch.zeros(size, 2))

    with pytest.raises(BeelineError, match="^microbatch 3 is damaged; repair the file$"):
        fit(
            Field(),
            FlowMatching(),
            Damaged(),
            Training(steps=9, batch_size=4, workers=2),
            rng=Rng(0),
            log=lambda e: None,
        )


def test_workers_exit_with_a_killed_main_process(tmp_path):
    program = """
import os, sys
from pathlib import Path
import torch
from beeline.core.types import Batch
from beeline.training.feed.microbatches import FeedBase
from beeline.training.feed.workers import Prefetched, microbatch_numbers
class Named(FeedBase):
    def microbatch(self, number, size):
        Path(sys.argv[1], str(os.getpid())).touch()
        return Batch(torch.zeros(size, 2))
feed = Prefetched(Named(), 4, 2, microbatch_numbers(1, 0, 1))
for n in range(20):
    feed.microbatch(n, 4)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60)
    workers = [int(file.name) for file in tmp_path.iterdir()]
    assert workers

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    for _ in range(100):
        if not any(map(alive, workers)):
            return
        time.sleep(0.1)
    raise AssertionError(f"workers {workers} are still running")


# cache


def batch():
    x = Rng(0).normal(torch.empty(6, 2))
    return Batch(x, x0=-x, cond={"label": torch.arange(6), "deep": {"v": x[:, :1]}}, weight=torch.ones(6))


def test_an_entry_is_built_once_and_read_back_unchanged(tmp_path):
    built = []
    inputs = {"data": np.arange(5), "encoder": EMA(3.0), "size": 8}

    def build():
        built.append(1)
        return batch()

    for _ in range(2):
        found = cache.encoded(tmp_path, inputs, build)
        assert torch.equal(found.x1, batch().x1) and torch.equal(found.x0, -found.x1)
        assert torch.equal(found.cond["label"], torch.arange(6)) and found.cond["deep"]["v"].shape == (6, 1)
        assert found.weight is not None
    assert built == [1]
    for name, other in (("data", np.arange(6)), ("encoder", EMA(4.0)), ("size", 9)):
        cache.encoded(tmp_path, inputs | {name: other}, build)
    assert len(built) == 4
    assert cache.encoded(tmp_path, {"x": 1}, lambda: Batch(torch.ones(2, 1), cond=torch.ones(2))).cond.shape == (2,)


def test_the_address_depends_on_the_content_of_files(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    first, folder = cache.address({"file": file}), cache.address({"file": tmp_path})
    file.write_text("two")
    assert cache.address({"file": file}) != first and cache.address({"file": tmp_path}) != folder
    with pytest.raises(BeelineError, match="does not exist"):
        cache.address({"file": tmp_path / "gone"})


def test_a_damaged_entry_is_reported_and_rebuilt(tmp_path):
    cache.encoded(tmp_path, {"a": 1}, batch)
    file = next(tmp_path.glob("*/data.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    warnings = []
    found = cache.encoded(tmp_path, {"a": 1}, batch, warnings.append)
    assert torch.equal(found.x1, batch().x1) and "data.safetensors is damaged" in warnings[0]


def test_concurrent_builders_build_once(tmp_path):
    built, found = [], []

    def build():
        built.append(1)
        time.sleep(0.2)
        return batch()

    threads = [
        threading.Thread(target=lambda: found.append(cache.encoded(tmp_path, {"a": 1}, build))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1] and len(found) == 3 and all(torch.equal(f.x1, batch().x1) for f in found)


def test_a_failed_build_leaves_no_entry(tmp_path):
    def build():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        cache.encoded(tmp_path, {"a": 1}, build)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    assert torch.equal(cache.encoded(tmp_path, {"a": 1}, batch).x1, batch().x1)


# previews


def test_previews_are_written_for_raw_and_averaged_weights(tmp_path):
    seen = []

    def render(network):
        seen.append(network.training)
        return json.dumps([round(float(p.detach().sum()), 6) for p in network.parameters()]).encode()

    callback = Previews(render, tmp_path / "samples", every=2, suffix="json")
    entries = []
    training = Training(steps=4, batch_size=4, lr=Constant(0.1), ema=EMA(5.0, 0))
    with Rng(0).ambient():
        net = Field()
    fit(net, FlowMatching(), torch.ones(8, 2), training, rng=Rng(0), log=entries.append, callbacks=[callback])
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == [f"step-{n:08d}-{k}.json" for n in (2, 4) for k in ("ema", "raw")]
    raw, ema = ((tmp_path / "samples" / f"step-00000004-{k}.json").read_text() for k in ("raw", "ema"))
    assert raw != ema and seen == [False] * 4 and net.training
    assert entries[1]["previews"] == {"raw": names[1], "ema": names[0]}
    with pytest.raises(BeelineError, match="Previews got every=0"):
        Previews(render, tmp_path, every=0)
