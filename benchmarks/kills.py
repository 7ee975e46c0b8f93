"""Kill a small training at random moments, resume it, and compare the end with the uninterrupted run, bit for bit.

    python -m benchmarks.kills --kills 200 --json benchmarks/results/kills.json

Every kill is a SIGKILL after a random time, so that steps, checkpoint writing and renames are all hit.  One worker
process imports torch once and forks the runs, so a kill costs little more than the run itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.objectives.matching import FlowMatching
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA, PowerEMA
from beeline.training.optim.learning_rate import WarmupConstantCooldown

STEPS = 60


class Field(nn.Module):
    """A field with dropout, so that every stream of random numbers is in play."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Dropout(0.1), nn.Linear(48, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        made: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return made


def work(keep: Path) -> None:
    """The run, from the beginning or from where it was."""
    with Rng(0).ambient():
        net = Field()
    data = Rng(1).normal(torch.empty(100, 2))
    training = Training(
        steps=STEPS,
        microbatches=2,
        batch_size=16,
        lr=WarmupConstantCooldown(5e-3, 10, 0.3),
        ema=(EMA(20.0), PowerEMA(0.1)),
        checkpoint_every=3,
        snapshot_every=20,
    )
    before = keep if checkpoint.steps(keep) else None
    fit(net, FlowMatching(), data, training, rng=Rng(4), log=lambda entry: None, checkpoint_dir=keep, resume=before)


def child(keep: Path, after: float | None) -> int:
    """One process of the run; killed after a time, or left to its end.  Its exit code, negative for a signal."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work(keep)
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def end(keep: Path) -> dict[str, Tensor]:
    """Every tensor of the last state."""
    saved = checkpoint.read(checkpoint.newest(keep))
    assert saved.step == STEPS
    return {f"{group}/{name}": t for group, tensors in saved.tensors.items() for name, t in tensors.items()}


def measure(kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill and resume; how many runs ended bitwise equal."""
    import torch._dynamo  # noqa: F401 - torch's optimizers load it: once, before the forks

    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        begin = time.perf_counter()
        assert child(root / "whole", None) == 0
        seconds = time.perf_counter() - begin
        wanted = end(root / "whole")
        equal = failed = killed = staged = 0
        first = None
        for i in range(kills):
            keep = root / f"run{i}"
            killed += child(keep, draw.uniform(0.0, 1.0) * seconds) == -signal.SIGKILL
            staged += keep.is_dir() and any(p.name.startswith(".writing") for p in keep.rglob(".*"))
            failed += child(keep, None) != 0
            made = end(keep)
            wrong = next((k for k in wanted if not torch.equal(wanted[k], made[k])), None)
            equal += wrong is None and made.keys() == wanted.keys()
            first = first or wrong
            for path in sorted(keep.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    return {
        "kills": kills,
        "still_at_work_when_killed": killed,
        "killed_while_writing_a_checkpoint": staged,
        "ended_bitwise_equal": equal,
        "needed_hand_work": failed,
        "first_different_tensor": first,
        "tensors": len(wanted),
        "seconds_of_one_run": round(seconds, 2),
        "seed": seed,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.kills, given.seed)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(found["ended_bitwise_equal"] != given.kills)


if __name__ == "__main__":
    main()
