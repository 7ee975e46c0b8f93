"""Overhead of the training engine, agreement of its parallel modes, and accuracy of its memory estimates.

    python -m benchmarks.engine [overhead] [checks] [parallel] [memory] [--rounds 7] [--output FILE]

overhead  seconds of a step of fit over a step of a plain torch loop, for the digits DiT and for a DiT of 20 million
          parameters; both loops alternate, and the median of the ratios is reported
checks    seconds of the finite checks and norms of a step over the seconds of the step
parallel  largest difference of the loss over 25 steps from one process: DDP x 2, FSDP2 x 2 and x 4
memory    predicted and measured peak memory of three networks, each in a process of its own
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
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
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from beeline.objectives.matching import FlowMatching
from beeline.training.checks import check_state, check_step
from beeline.training.config import Training
from beeline.training.distributed.parallel import SingleDevice, local_norm
from beeline.training.fit import fit
from beeline.training.loop import Loop
from beeline.training.optim.ema import Average
from beeline.training.optim.learning_rate import Constant
from beeline.training.plan import plan
from benchmarks import report

LABEL = {"label": {"classes": 10}}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    # name: network, shape of a datum, batch size
    "digits DiT": (lambda: DiT((1, 8, 8), width=96, depth=3, heads=4, conditions=LABEL), (1, 8, 8), 128),
    "20M DiT": (lambda: DiT((4, 16, 16), width=352, depth=8, heads=8, conditions=LABEL), (4, 16, 16), 16),
    "UNet": (lambda: UNet((3, 32, 32), width=48, conditions=LABEL), (3, 32, 32), 64),
    "wide MLP": (lambda: MLP(shape=(64,), width=2048, depth=4), (64,), 1024),
}


def built(name: str) -> tuple[Network, Batch, int]:
    """A network, random data of its shape, and the batch size."""
    build, shape, batch_size = NETWORKS[name]
    with Rng(0).ambient():
        net = Network(build())
    x = Rng(1).normal(torch.empty(max(256, batch_size), *shape))
    labels = {"label": torch.arange(len(x)) % 10} if net.backbone.describe().get("conditions") else None
    return net, Batch(x, cond=labels), batch_size


def overhead(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of the engine over those of a plain loop with the same network and optimizer."""
    net, data, batch_size = built(name)
    other, _, _ = built(name)
    training = Training(steps=10**9, batch_size=batch_size, lr=Constant(1e-4), ema=None, clip=None)
    loop = Loop(
        {"network": net},
        FlowMatching(),
        data,
        training,
        SingleDevice(),
        Rng(0),
        lambda e: None,
        None,
        (),
        torch.device("cpu"),
    )
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def plain() -> None:
        rows = torch.randint(0, len(data.x1), (batch_size,))
        x1 = data.x1[rows]
        cond = None if data.cond is None else {k: v[rows] for k, v in data.cond.items()}  # type: ignore[union-attr]
        x0, t = torch.randn_like(x1), torch.rand(batch_size)
        wide = t.reshape(-1, *[1] * (x1.ndim - 1))
        loss = (other((1 - wide) * x0 + wide * x1, t, cond) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    averaged = Average(net, Training().profiles[0])

    def seconds(step: Callable[[], Any]) -> float:
        start = time.process_time()  # not affected by other processes
        for _ in range(steps):
            step()
        return (time.process_time() - start) / steps

    plain(), loop.step()
    pairs = [(seconds(plain), seconds(loop.step)) for _ in range(rounds)]
    count = [0]

    def average() -> None:
        count[0] += 1
        averaged.update(count[0])

    ratios = [b / a for a, b in pairs]
    base = statistics.median(a for a, _ in pairs)
    return {
        "network": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "batch_size": batch_size,
        "plain_seconds": round(base, 5),
        "engine_over_plain": round(statistics.median(ratios), 4),
        "spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "average_over_step": round(seconds(average) / base, 4),
    }


def checks(name: str, steps: int) -> dict[str, Any]:
    """Seconds of the checks of a step and of a checkpoint over those of the step."""
    net, data, batch_size = built(name)
    training = Training(steps=10**9, batch_size=batch_size, lr=Constant(1e-4), checkpoint_every=500)
    loop = Loop(
        {"network": net},
        FlowMatching(),
        data,
        training,
        SingleDevice(),
        Rng(0),
        lambda e: None,
        None,
        (),
        torch.device("cpu"),
    )
    loop.step()
    start = time.process_time()
    for _ in range(steps):
        loop.step()
    step = (time.process_time() - start) / steps
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    start = time.process_time()
    for _ in range(20):
        norm = local_norm(gradients)
        check_step(1.0, float(norm), 1, loop.state.networks)
    every = (time.process_time() - start) / 20
    start = time.process_time()
    check_state(1, loop.state.networks, loop.state.averages, SingleDevice())
    saving = (time.process_time() - start) / training.checkpoint_every
    return {"network": name, "step_seconds": round(step, 5), "checks_over_step": round((every + saving) / step, 5)}


def parallel() -> dict[str, Any]:
    """The same 25 steps with every engine: largest difference of the loss from one process."""
    here = Path(__file__).parent.parent / "tests" / "training"
    sys.path.insert(0, str(here))
    import workers  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        one = {
            o: workers.curve(SingleDevice(), o, checkpoint_dir=out / "single" if o == "flow" else None)
            for o in ("flow", "jvp")
        }
        path = os.pathsep.join([str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, str(here / "workers.py"), str(out), "equal:2", "equal:4"]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, check=True)
        found = {}
        for world in (2, 4):
            for name, run in json.loads((out / f"equal-{world}.json").read_text()).items():
                engine, objective = name.split()
                base = one["jvp" if objective == "jvp" else "flow"]["loss"][-len(run["loss"]) :]
                difference = max(abs(a - b) for a, b in zip(base, run["loss"], strict=True))
                found[f"{engine} x {world}, {objective}"] = difference
    return {"largest_difference_of_the_loss": found, "steps": 25}


def memory(name: str) -> dict[str, Any]:
    """Predicted and measured peak memory without the data, in this process."""
    net, data, batch_size = built(name)
    small, few, _ = built("digits DiT")  # libraries allocate memory in the first run
    fit(small, FlowMatching(), few, Training(steps=3, batch_size=8, watch_every=2), rng=Rng(0), log=lambda e: None)
    training = Training(steps=4, batch_size=batch_size, lr=Constant(1e-4), watch_every=2)
    predicted = plan(net, FlowMatching(), data, training, rng=Rng(0), trial=0)
    entries: list[dict[str, Any]] = []
    fit(net, FlowMatching(), data, training, rng=Rng(0), log=entries.append)
    measured = entries[-1]["peak_bytes"]
    return {
        "network": name,
        "parameters": predicted.parameters,
        "batch_size": batch_size,
        "predicted": predicted.peak,
        "measured": measured,
        "predicted_over_measured": round(predicted.peak / measured, 4),
    }


def main() -> None:
    parts = ("overhead", "checks", "parallel", "memory")
    parser = report.parser("engine", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of measurements of the overhead")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.parts or parts
    if unknown := sorted(set(chosen) - set(parts)):
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(parts)}")
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(memory(options.memory_of)))
        return
    found: dict[str, Any] = {}
    if "overhead" in chosen:
        sizes = (("digits DiT", 8), ("20M DiT", 2))
        found["overhead"] = [overhead(name, options.rounds, steps) for name, steps in sizes]
    if "checks" in chosen:
        found["checks"] = [checks("digits DiT", 10), checks("20M DiT", 3)]
    if "parallel" in chosen:
        found["parallel"] = parallel()
    if "memory" in chosen:
        found["memory"] = []
        for name in ("20M DiT", "UNet", "wide MLP"):
            command = [sys.executable, "-m", "benchmarks.engine", "--memory-of", name]
            # freed memory is returned at once, so that the peak is that of the tensors
            small = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=small)
            found["memory"].append(json.loads(done.stdout))
    print(json.dumps(found, indent=2))
    report.write("engine", found, [0], options.output, rounds=options.rounds)


if __name__ == "__main__":
    main()
