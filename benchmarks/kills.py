"""Kills a small training at random times, resumes it, and compares the result with an uninterrupted run bit for bit.

    python -m benchmarks.kills [--kills 200] [--seed 0] [--output FILE]

Every kill is a SIGKILL after a random time, during steps, writes of checkpoints or renames.  The process imports torch
once and forks the runs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
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
from benchmarks import report

STEPS = 60


class Field(nn.Module):
    """A field with dropout, so that every source of random numbers is used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Dropout(0.1), nn.Linear(48, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        v: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return v


def train(folder: Path) -> None:
    """Start the run, or resume it."""
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
    resume = folder if checkpoint.steps(folder) else None
    fit(net, FlowMatching(), data, training, rng=Rng(4), log=lambda entry: None, checkpoint_dir=folder, resume=resume)


def child(folder: Path, after: float | None) -> int:
    """Run in a forked process, killed ``after`` seconds if given; the exit code, negative for a signal."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            train(folder)
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def final_state(folder: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint."""
    saved = checkpoint.read(checkpoint.newest(folder))
    assert saved.step == STEPS
    return {f"{group}/{name}": t for group, tensors in saved.tensors.items() for name, t in tensors.items()}


def measure(kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill and resume ``kills`` runs; how many of them ended bitwise equal."""
    import torch._dynamo  # noqa: F401 - imported by torch's optimizers; once, before the forks

    times = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        begin = time.perf_counter()
        assert child(root / "uninterrupted", None) == 0
        seconds = time.perf_counter() - begin
        expected = final_state(root / "uninterrupted")
        equal = failed = killed = staged = 0
        first = None
        for i in range(kills):
            run = root / f"run{i}"
            killed += child(run, times.uniform(0.0, 1.0) * seconds) == -signal.SIGKILL
            staged += run.is_dir() and any(p.name.startswith(".writing") for p in run.rglob(".*"))
            failed += child(run, None) != 0
            state = final_state(run)
            different = next((k for k in expected if not torch.equal(expected[k], state[k])), None)
            equal += different is None and state.keys() == expected.keys()
            first = first or different
            shutil.rmtree(run)
    return {
        "kills": kills,
        "killed_while_running": killed,
        "killed_while_writing_a_checkpoint": staged,
        "bitwise_equal": equal,
        "failed_to_resume": failed,
        "first_different_tensor": first,
        "tensors": len(expected),
        "seconds_of_one_run": round(seconds, 2),
    }


def main() -> None:
    parser = report.parser("kills", __doc__)
    parser.add_argument("--kills", type=int, default=200, help="number of killed runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    options = parser.parse_args()
    figures = measure(options.kills, options.seed)
    print(json.dumps(figures, indent=2))
    report.write("kills", figures, [options.seed], options.output, kills=options.kills)
    sys.exit(figures["bitwise_equal"] != options.kills)


if __name__ == "__main__":
    main()
