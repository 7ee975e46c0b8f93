"""Pairs of a teacher as a job: its speed beside bare sampling, two processes beside two threads, and kills.

    python -m benchmarks.pairs [--pairs 1024] [--repeats 3] [--kills 20] [--output FILE]

The teacher is an untrained small transformer for digits of 8 x 8 pixels, whose cost is that of a trained one, with 10
steps of Heun.  Runs that are compared alternate, so that the load of other programs falls on both; ratios are those of
medians, of wall time and of processor time.  Bare sampling is a loop over batches of the same size into one tensor.
Kills are SIGKILLs of two processes that fill one store, after random times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.images import Image
from beeline.distillation.store.making import absent, fill
from beeline.distillation.store.manifest import read_manifest
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT
from beeline.runs.bundle import Bundle
from beeline.runs.pairs.job import Job, prepared
from beeline.sampling.sampler import Sampler
from benchmarks import report

SHAPE = (1, 8, 8)
BATCH = 256


def teacher() -> Bundle:
    """A bundle with a network whose weights are random."""
    with Rng(0).ambient():
        net = DiT(SHAPE, width=64, depth=2, heads=2, conditions={"label": {"classes": 10}})
        for p in net.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.02)
    return Bundle(Flow(Network(net), null={"label": 10}), Sampler(10), Image(SHAPE, classes=10))


def job(bundle: Bundle, count: int, folder: Path, shard_size: int = BATCH) -> Job:
    """The job of so many pairs with labels in turn; a shard is a batch."""
    labels = list(range(10))
    return prepared(bundle, count, folder, cond={"label": labels}, shard_size=shard_size, batch_size=BATCH)


def clocks(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def store(bundle: Bundle, count: int, root: Path) -> Callable[[], None]:
    """Everything that a process does for a store but the plan: manifest, conditions, pairs, files."""

    def work() -> None:
        made = job(bundle, count, root / "store")
        made.begin()
        fill(made.folder, made.manifest, made.make)
        shutil.rmtree(root / "store")

    return work


def bare(bundle: Bundle, count: int) -> Callable[[], None]:
    """Sampling in batches of the same size, on the same threads, without files."""

    def work() -> None:
        x0 = Rng(0).normal(torch.empty(count, *SHAPE))
        bundle.draw(x0, {"label": torch.arange(count) % 10}, batch_size=BATCH)

    return work


def speed(count: int, repeats: int) -> dict[str, Any]:
    """Pairs a second of the job and of bare sampling, by turns."""
    torch.set_num_threads(1)
    bundle = teacher()
    bare(bundle, BATCH)()
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "store": []}
    with tempfile.TemporaryDirectory() as folder:
        works = {"bare": bare(bundle, count), "store": store(bundle, count, Path(folder))}
        for _ in range(repeats):
            for name, work in works.items():
                found[name].append(clocks(work))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return {
        "pairs": count,
        "store_pairs_per_second": count / medians["store"][0],
        "bare_samples_per_second": count / medians["bare"][0],
        "ratio_wall": medians["bare"][0] / medians["store"][0],
        "ratio_processor": medians["bare"][1] / medians["store"][1],
        "runs": {name: [[round(t, 3) for t in row] for row in rows] for name, rows in found.items()},
    }


def child(work: Callable[[], None], threads: int) -> int:
    """A forked process that does ``work`` with so many threads; its number."""
    made = os.fork()
    if made == 0:
        try:
            torch.set_num_threads(threads)
            work()
        finally:
            os._exit(0)
    return made


def sharing(count: int, repeats: int) -> dict[str, Any]:
    """Wall time of one process with two threads and of two processes with one, by turns, for the same store."""
    torch.set_num_threads(1)
    bundle = teacher()
    found: dict[str, list[float]] = {"two_threads": [], "two_processes": []}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "store"

        def work() -> None:
            made = job(bundle, count, folder)
            made.begin()
            fill(made.folder, made.manifest, made.make, wait=0.02)

        for _ in range(repeats):
            for name, threads in (("two_threads", (2,)), ("two_processes", (1, 1))):
                begun = time.perf_counter()
                for number in [child(work, n) for n in threads]:
                    os.waitpid(number, 0)
                found[name].append(time.perf_counter() - begun)
                assert not absent(folder, read_manifest(folder))
                shutil.rmtree(folder)
    middle = {name: statistics.median(times) for name, times in found.items()}
    return {
        "pairs": count,
        "ratio": middle["two_threads"] / middle["two_processes"],
        "runs": {name: [round(t, 3) for t in times] for name, times in found.items()},
    }


def kills(number: int, seed: int) -> dict[str, Any]:
    """How the store is after ``number`` kills of both processes, beside one that was not disturbed."""
    torch.set_num_threads(1)
    bundle, times, count = teacher(), random.Random(seed), 2048
    with tempfile.TemporaryDirectory() as root:
        whole, folder = Path(root) / "whole", Path(root) / "killed"

        def work(where: Path) -> None:
            made = job(bundle, count, where, shard_size=count // 64)
            made.begin()
            fill(made.folder, made.manifest, made.make, wait=0.02)

        begun = time.perf_counter()
        work(whole)
        seconds = time.perf_counter() - begun
        running = 0
        for _ in range(number):
            both = [child(lambda: work(folder), 1) for _ in range(2)]
            time.sleep(times.uniform(0.2, 1.0) * seconds / number)
            for one in both:
                os.kill(one, signal.SIGKILL)
            running += sum(os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) == -signal.SIGKILL for one in both)
        work(folder)
        wanted, found = contents(whole), contents(folder)
        pairs = list(stored(folder))
        return {
            "kills": number,
            "killed_while_running": running,
            "shards": len(wanted) - 2,
            "equal_files": sum(found.get(name) == content for name, content in wanted.items()),
            "files": len(wanted),
            "lost": count - len(set(pairs)),
            "doubled": len(pairs) - len(set(pairs)),
        }


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a store."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def stored(folder: Path) -> list[bytes]:
    """The data of all pairs of a store, each as bytes."""
    from beeline.runs.pairs.opening import open_pairs

    made: Batch = open_pairs(folder).head(1 << 30)
    return [row.numpy().tobytes() for row in made.x1]


def main() -> None:
    parser = report.parser("pairs", __doc__)
    parser.add_argument("--pairs", type=int, default=1024, help="pairs of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--kills", type=int, default=20, help="number of kills of each of two processes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    chosen = parser.parse_args()
    figures = {
        "speed": speed(chosen.pairs, chosen.repeats),
        "sharing": sharing(chosen.pairs, chosen.repeats),
        "kills": kills(chosen.kills, chosen.seed),
    }
    print(json.dumps(figures, indent=2))
    settings = {"batch_size": BATCH, "repeats": chosen.repeats, "shape": list(SHAPE)}
    report.write("pairs", figures, [chosen.seed], chosen.output, **settings)
    broken = figures["kills"]
    sys.exit(broken["lost"] + broken["doubled"] + broken["files"] - broken["equal_files"] != 0)


if __name__ == "__main__":
    main()
