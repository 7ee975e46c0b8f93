"""Cost of couplings, predictions and objectives in training, relative to plain flow matching, on the U-Net for MNIST.

    python -m benchmarks.slots [--rounds 3] [--batch-size 128] [--output FILE]

Steps of all choices alternate, so that a busy machine affects all of them; times are processor times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
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
    """Plain flow matching on the batch twice: the cost of two passes."""

    def __call__(self, field: Any, batch: bl.Batch, rng: bl.Rng) -> Any:
        return PLAIN(field, stack([batch, batch]), rng)


# objective, and network passes relative to plain training (a pass without gradient is a third)
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
    """Processor time of one call, in milliseconds."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000


def steps(rounds: int, batch_size: int, width: int) -> dict[str, Any]:
    """A forward and backward pass of every choice, without the optimizer, which is the same for all."""
    with bl.Rng(0).ambient():
        net: nn.Module = bl.Network(UNet((1, 28, 28), width=width, conditions={"label": {"classes": 10}}))
    x = bl.Rng(0).fork("data").normal(torch.empty(batch_size, 1, 28, 28)).clamp(-1, 1)
    batch = bl.Batch(x, cond={"label": torch.arange(batch_size) % 10})
    last = next(iter(net.stacks.values()))[-1]
    block = next(name for name, module in net.named_modules() if module is last)
    choices = {"plain": (PLAIN, 1.0)} | CHOICES | {"dispersed features": (bl.objectives.Dispersed(PLAIN, block), 1.0)}

    def step(objective: Any, n: int) -> None:
        for weight in net.parameters():
            weight.grad = None
        objective(net, batch, bl.Rng(n)).value.backward()

    step(PLAIN, 0)
    spent: dict[str, list[float]] = {name: [] for name in choices}
    for n in range(rounds):
        for name, (objective, _) in choices.items():
            spent[name].append(milliseconds(lambda o=objective, n=n: step(o, n)))
    base = min(spent["plain"])
    result = {}
    for name, (_, passes) in choices.items():
        best = min(spent[name])
        result[name] = {
            "ms": round(best, 1),
            "over plain": round(best / base, 3),
            "passes": round(passes, 2),
            "over its passes": round(best / base / passes, 3),
        }
        print(f"{name:32s} {best:9.1f} ms   x {best / base:.3f}   passes {passes:.2f}", flush=True)
    return result


def couplings(rounds: int) -> dict[str, float]:
    """Processor milliseconds of the couplings alone, on data of MNIST's size."""
    result = {}
    for n in (128, 256, 512):
        x1 = bl.Rng(0).fork("x1", n).normal(torch.empty(n, 1, 28, 28)).clamp(-1, 1)
        batch = bl.Batch(x1, x0=bl.Rng(0).fork("x0", n).normal(x1))
        for name, work in {
            "exact assignment": lambda b=batch: assign(b.x0, b.x1),
            "entropic plan": lambda b=batch: bl.couplings.Sinkhorn()(b, bl.Rng(0)),
            "stable matching": lambda b=batch: bl.couplings.StableMatching()(b, bl.Rng(0)),
        }.items():
            work()
            result[f"{name}, batch {n}"] = round(statistics.median(milliseconds(work) for _ in range(rounds)), 2)
            print(f"{name}, batch {n}: {result[f'{name}, batch {n}']} ms", flush=True)
    stored = assign_dataset(bl.Rng(0).normal(torch.empty(2048, 784)), bl.Rng(0))
    batch = bl.Batch(torch.zeros(128, 784), cond={"index": torch.arange(128)})
    result["stored assignment, batch 128"] = round(milliseconds(lambda: stored(batch, bl.Rng(0))), 2)
    return result


def main() -> None:
    parser = report.parser("slots", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every choice; the fastest is reported")
    parser.add_argument("--width", type=int, default=32, help="width of the U-Net; 32 is that of the recipe")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as the command line does; otherwise two passes take three times as long as one
    settings = {"rounds": options.rounds, "batch_size": options.batch_size, "width": options.width}
    figures = {"couplings alone, ms": couplings(7), "steps": steps(**settings)}
    report.write("slots", figures, [0], options.output, **settings)


if __name__ == "__main__":
    main()
