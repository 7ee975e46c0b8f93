"""A small network with dropout, twelve microbatches a step. The run starts with four processes, is killed in step 11,
continues from its last checkpoint with two, is killed in step 18, and ends with three after step 24. The figure is its
largest difference from the run of one process without a stop. The baseline is the same run with random numbers that are
seeded by the process, as is usual, and counted from the start of the process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

import beeline as bl
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.networks.mlp import MLP
from beeline.training.config import Training
from beeline.training.distributed import parallel
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ElasWave: elastic training"
CLAIM = "A run whose number of processes changes has the loss of a run without a change."
SEEDS = 3
STEPS, EVERY = 24, 4
CHAIN = ((4, 10), (2, 17), (3, STEPS))  # processes, and the completed steps after which all of them are killed


@dataclass
class Part:
    """What this process does; not a setting of the run, which a resumed run has to repeat."""

    file: Path
    seed: int | None  # of random numbers that belong to the process
    most: int  # microbatches, after which the process is killed; -1 for never
    count: int = 0


class Counted:
    """Flow matching that writes down the first random number of every microbatch, and kills its process on time."""

    part: ClassVar[Part]

    @property
    def spec(self) -> ObjectiveSpec:
        return ObjectiveSpec(static_graph=True)

    def __call__(self, field: Any, batch: bl.Batch, rng: bl.Rng) -> Any:
        part = self.part
        if part.count == part.most:
            os.kill(os.getpid(), signal.SIGKILL)
        if part.seed is not None:
            rng = bl.Rng(part.seed).fork(part.count)
        part.count += 1
        with part.file.open("a") as out:
            out.write(f"{float(rng.fork('first').uniform(1, torch.empty(0))[0])}\n")
        with rng.fork("dropout").ambient():
            return bl.objectives.FlowMatching()(field, batch, rng)


def train(out: Path, seed: int, engine: Any, resume: bool, by_rank: bool, steps: int) -> None:
    """One part of a run, until it ends or is killed."""
    rng, begin = bl.Rng(seed), max([0, *(int(p.name[5:]) for p in out.glob("step-*"))])
    with rng.fork("network").ambient():
        net = bl.Network(MLP(2, width=16, depth=2, dropout=0.1))
    data = rng.fork("data").normal(torch.empty(240, 2)) + torch.tensor([1.0, -1.0])
    most = (steps - begin) * 12 // engine.world if steps < STEPS else -1
    mine = None if not by_rank else 1000 * seed + engine.rank
    Counted.part = Part(out / f"numbers-{engine.world}-{engine.rank}.txt", mine, most)
    entries: list[dict[str, Any]] = []
    training = Training(STEPS, 24, microbatches=12, lr=Constant(5e-3), checkpoint_every=EVERY, ema=None)
    made = fit(net, Counted(), data, training, parallel=engine, rng=rng.fork("fit"), log=entries.append,
               checkpoint_dir=out, resume=out if resume else None)  # fmt: skip
    if engine.rank == 0:
        weights = torch.cat([p.detach().flatten() for p in made.parameters()]).tolist()
        loss = [entry["loss"] for entry in entries if "loss" in entry]
        (out / "end.json").write_text(json.dumps({"weights": weights, "loss": loss}))


def ranks(world: int, *rest: Any) -> None:
    """``train`` in ``world`` new processes, forked from this one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                parallel.init_process_group(timeout=60)
                train(rest[0], rest[1], parallel.DDP(), *rest[2:])
                parallel.destroy_process_group()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def chain(out: Path, seed: int, by_rank: bool) -> None:
    for k, (world, steps) in enumerate(CHAIN):
        ranks(world, out, seed, k > 0, by_rank, steps)


def runs(out: Path, seed: int, *parts: str) -> dict[str, dict[str, Any]]:
    """The ends of the run of one process, of the chain, of the chain seeded by rank, and of another seed."""
    names = parts or ("chain", "by rank", "one", "other")
    subprocess.run([sys.executable, "-m", "benchmarks.claims.c060", str(out), str(seed), *names], check=True)
    return {part.name: json.loads((part / "end.json").read_text()) for part in out.iterdir()}


def measure(rng: bl.Rng) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        found = runs(Path(folder), int(rng.fork("seed").integers(1000, 1)[0]))

    def apart(name: str, what: str) -> float:
        a, b = (
            torch.tensor(found[k][what][-(STEPS - 16) :] if what == "loss" else found[k][what]) for k in ("one", name)
        )
        return float((a - b).abs().max())

    return [
        finding(f"{text}: numbers by step (figure) against numbers by process", apart("by rank", what),
                apart("chain", what), apart("other", what), "one process with another seed")
        for text, what in (
            ("largest difference of the weights", "weights"), ("of the loss after the last change", "loss"))
    ]  # fmt: skip


if __name__ == "__main__":
    import torch._dynamo  # once, before the forks

    torch.set_num_threads(1)
    root, number = Path(sys.argv[1]), int(sys.argv[2])
    single = parallel.SingleDevice()
    acts = {  # chains first, before this process computes gradients: it is forked
        "chain": lambda out: chain(out, number, False),
        "by rank": lambda out: chain(out, number, True),
        "one": lambda out: train(out, number, single, False, False, STEPS),
        "other": lambda out: train(out, number + 1, single, False, False, STEPS),
    }
    for name, act in acts.items():
        if name in sys.argv[3:]:
            (root / name).mkdir()
            act(root / name)
