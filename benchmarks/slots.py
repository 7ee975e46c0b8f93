"""What every coupling and every target costs in training, against plain flow matching on the U-Net for MNIST.

    python -m benchmarks.slots             a step at batch 128, and exact transport at batch 256

The steps of all choices take turns, so that a busy machine burdens all alike; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.cli.memory import keep_memory
from beeline.core.types import stack
from beeline.couplings.basic import assign
from beeline.couplings.transport import assign_dataset
from beeline.networks.unet import UNet
from benchmarks import report

FM = bl.objectives.FlowMatching
DROP = bl.objectives.Drop(0.1, {"label": 10})
PLAIN = FM(drop=DROP)
OT: dict[str, Any] = {"biased": True}


class Twice:
    """Plain flow matching on the batch and the batch again: what two passes cost where nothing else is done."""

    def __call__(self, field: Any, batch: bl.Batch, rng: bl.Rng) -> Any:
        return PLAIN(field, stack([batch, batch]), rng)


# objective -> network passes in units of plain training (a pass without gradient is a third)
CHOICES: dict[str, tuple[Any, float]] = {
    "exact transport": (FM(coupling=bl.couplings.MinibatchOT(**OT), drop=DROP), 1),
    "exact transport within labels": (FM(coupling=bl.couplings.MinibatchOT(by="label"), drop=DROP), 1),
    "condition-aware transport": (FM(coupling=bl.couplings.ConditionalOT(by="label"), drop=DROP), 1),
    "entropic transport": (FM(coupling=bl.couplings.Sinkhorn(**OT), drop=DROP), 1),
    "unbalanced transport": (FM(coupling=bl.couplings.Unbalanced(**OT), drop=DROP), 1),
    "stable matching": (FM(coupling=bl.couplings.StableMatching(**OT), drop=DROP), 1),
    "immiscible": (FM(coupling=bl.couplings.Immiscible(**OT), drop=DROP), 1),
    "data prediction": (FM(prediction=bl.predictions.Data(), drop=DROP), 1),
    "noise prediction": (FM(prediction=bl.predictions.Noise(), drop=DROP), 1),
    "bridge": (FM(bl.paths.Bridge(0.5), times=bl.times.LogitNormal(), drop=DROP), 1),
    "pseudo-Huber": (FM(distance=bl.objectives.Huber(), drop=DROP), 1),
    "direction term": (FM(distance=bl.objectives.Direction(), drop=DROP), 1),
    "plain, twice the batch": (Twice(), 2),
    "latent noise, both signs": (bl.objectives.LatentNoise(), 2),
    "solver error penalty": (bl.objectives.SmoothSteps(PLAIN), 2),
    "self-rectified": (bl.objectives.SelfRectified(PLAIN), 4 / 3),
    "model guidance": (bl.objectives.ModelGuidance(PLAIN), 4 / 3),
    "anticipating guidance": (bl.objectives.Anticipating(PLAIN), 4 / 3),
}


def milliseconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000


def steps(rounds: int, microbatch: int, width: int) -> dict[str, Any]:
    """A step of every choice: forward, backward, no optimizer (the same for all)."""
    with bl.Rng(0).ambient():
        net: nn.Module = bl.Network(UNet((1, 28, 28), width=width, conditions={"label": {"classes": 10}}))
    x = bl.Rng(0).fork("data").normal(torch.empty(microbatch, 1, 28, 28)).clamp(-1, 1)
    batch = bl.Batch(x, cond={"label": torch.arange(microbatch) % 10})
    last = next(iter(net.stacks.values()))[-1]
    block = next(name for name, module in net.named_modules() if module is last)
    todo = {"plain": (PLAIN, 1.0)} | CHOICES | {"dispersed features": (bl.objectives.Dispersed(PLAIN, block), 1.0)}

    def step(objective: Any, n: int) -> None:
        for weight in net.parameters():
            weight.grad = None
        objective(net, batch, bl.Rng(n)).value.backward()

    step(PLAIN, 0)
    spent: dict[str, list[float]] = {name: [] for name in todo}
    for n in range(rounds):
        for name, (objective, _) in todo.items():
            spent[name].append(milliseconds(lambda o=objective, n=n: step(o, n)))
    base = min(spent["plain"])
    made = {}
    for name, (_, passes) in todo.items():
        best = min(spent[name])
        made[name] = {
            "ms": round(best, 1),
            "over plain": round(best / base, 3),
            "passes": round(passes, 2),
            "over its passes": round(best / base / passes, 3),
        }
        print(f"{name:32s} {best:9.1f} ms   x {best / base:.3f}   passes {passes:.2f}", flush=True)
    return made


def couplings(rounds: int) -> dict[str, float]:
    """Processor milliseconds of the couplings alone, on data of MNIST's size."""
    made = {}
    for n in (128, 256, 512):
        x1 = bl.Rng(0).fork("x1", n).normal(torch.empty(n, 1, 28, 28)).clamp(-1, 1)
        batch = bl.Batch(x1, x0=bl.Rng(0).fork("x0", n).normal(x1))
        for name, work in {
            "exact assignment": lambda b=batch: assign(b.x0, b.x1),
            "entropic plan": lambda b=batch: bl.couplings.Sinkhorn()(b, bl.Rng(0)),
            "stable matching": lambda b=batch: bl.couplings.StableMatching()(b, bl.Rng(0)),
        }.items():
            work()
            made[f"{name}, batch {n}"] = round(statistics.median(milliseconds(work) for _ in range(rounds)), 2)
            print(f"{name}, batch {n}: {made[f'{name}, batch {n}']} ms", flush=True)
    kept = assign_dataset(bl.Rng(0).normal(torch.empty(2048, 784)), bl.Rng(0))
    batch = bl.Batch(torch.zeros(128, 784), cond={"index": torch.arange(128)})
    made["remembered assignment, batch 128"] = round(milliseconds(lambda: kept(batch, bl.Rng(0))), 2)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of every choice; the best counts")
    parser.add_argument("--width", type=int, default=32, help="of the U-Net; 32 is the recipe's")
    parser.add_argument("--microbatch", type=int, default=128)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the result goes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as the command line does; without, two passes cost three times one
    made = {"couplings alone, ms": couplings(7), "steps": steps(chosen.rounds, chosen.microbatch, chosen.width)}
    report.write("slots", made, [0], chosen.out, batch_size=chosen.microbatch, width=chosen.width, rounds=chosen.rounds)


if __name__ == "__main__":
    main()
