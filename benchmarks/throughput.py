"""What the engine and the sampler cost on top of the network.

    python -m benchmarks.throughput [--rounds 15] [--json FILE]

Training: seconds a step of ``fit`` over seconds a step of a bare torch loop with the same network, batch, optimizer
and average; aim 1.05 at most.  Sampling: seconds over evaluations x one forward pass of the DiT at batch 64; aim 1.05
at most.  The two sides take turns, round by round, so that a busy machine slows both; the figure is the median over
the rounds of the ratio within a round.  ``cpu`` is the same with seconds of the processor in place of the clock's,
which a neighbour on the machine disturbs less; ``best`` compares the fastest rounds of the two sides.  Sampling has
also ``inside``: seconds of a run over the seconds that the same run spent in its forward passes; it cannot be below 1,
and a busy machine slows both parts of it alike.  A ratio far below 1 among the others is noise: look at low and high.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT
from beeline.networks.unet import UNet
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW
from benchmarks.report import write

SEED = 0
SHAPE = (1, 8, 8)
LABEL = {"label": {"classes": 10}}
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "DiT": lambda: DiT(SHAPE, conditions=LABEL),
    "UNet": lambda: UNet(SHAPE, conditions=LABEL),
}


def network(name: str) -> Network:
    """A network whose output is not zero, so that no product is."""
    rng = Rng(SEED).fork("network")
    with rng.ambient():
        backbone = BACKBONES[name]()
        for p in backbone.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.02)
    return Network(backbone)


def data(n: int) -> Batch:
    """Numbers in place of digits: the cost does not depend on what they show."""
    rng = Rng(SEED).fork("data")
    return Batch(rng.normal(torch.empty(n, *SHAPE)), cond={"label": rng.fork("label").integers(10, n)})


def bare(net: nn.Module, batch: Batch, microbatch: int, steps: int) -> None:
    """Training as one would write it by hand, with an average of the weights."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in net.parameters()]
    weights = [p.detach() for p in net.parameters()]
    assert isinstance(batch.cond, dict)
    for _ in range(steps):
        index = torch.randint(len(batch.x1), (microbatch,))
        x1, label = batch.x1[index], batch.cond["label"][index]
        x0, t = torch.randn_like(x1), torch.rand(microbatch)
        x = torch.lerp(x0, x1, t[:, None, None, None])
        loss = (net(x, t, {"label": label}) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, weights, 0.001)


def engine(net: nn.Module, batch: Batch, microbatch: int, steps: int) -> None:
    """The same through ``fit``."""
    training = Training(steps=steps, batch_size=microbatch, optimizer=AdamW(), lr=Constant(1e-3), ema=EMA(), clip=1.0)
    fit(net, FlowMatching(), batch, training, rng=Rng(SEED).fork("training"), log=lambda entry: None)


def clocks(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def versus(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of both by turns, and their ratio."""
    pairs = []
    for i in range(rounds + 1):
        turns = {"ours": ours, "theirs": theirs} if i % 2 else {"theirs": theirs, "ours": ours}
        seen = {name: clocks(work) for name, work in turns.items()}
        if i:  # the first round warms up
            pairs.append((seen["ours"], seen["theirs"]))
    made: dict[str, Any] = {}
    for k, clock in enumerate(("wall", "cpu")):
        ratios = [a[k] / b[k] for a, b in pairs]
        made[clock] = {
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "best": min(a[k] for a, _ in pairs) / min(b[k] for _, b in pairs),
            "ours_seconds": statistics.median(a[k] for a, _ in pairs),
            "theirs_seconds": statistics.median(b[k] for _, b in pairs),
        }
    return made


def training(name: str, rounds: int, steps: int, microbatch: int) -> dict[str, Any]:
    """``fit`` against the bare loop."""
    batch, net = data(2048), network(name)
    ours, theirs = copy.deepcopy(net), copy.deepcopy(net)

    def by_hand() -> None:
        with Rng(SEED).ambient():
            bare(theirs, batch, microbatch, steps)

    made = versus(lambda: engine(ours, batch, microbatch, steps), by_hand, rounds)
    seconds = made["wall"]["ours_seconds"]
    return {
        "network": name,
        "parameters": count(net),
        "samples_per_second": microbatch * steps / seconds,
        "aim": 1.05,
        **made,
    }


def sampling(rounds: int, steps: int, n: int) -> dict[str, Any]:
    """The sampler against as many forward passes."""
    net, sampler = network("DiT").eval(), Sampler(steps=steps)
    batch = data(n)
    flow, times = Flow(net), torch.full((n,), 0.5)
    evaluations = sampler.evaluations
    assert evaluations is not None

    @torch.no_grad()
    def passes() -> Tensor:
        for _ in range(evaluations):
            out: Tensor = net(batch.x1, times, batch.cond)
        return out

    def inside() -> float:
        spent = 0.0

        def watched(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            nonlocal spent
            start = time.perf_counter()
            v: Tensor = net(x, t, cond)
            spent += time.perf_counter() - start
            return v

        return clocks(lambda: sampler(Flow(watched), batch.x1, batch.cond))[0] / spent

    made = versus(lambda: sampler(flow, batch.x1, batch.cond), passes, rounds)
    row = {"network": "DiT", "parameters": count(net), "batch": n, "evaluations": evaluations, "aim": 1.05}
    return {**row, "inside": statistics.median(inside() for _ in range(rounds)), **made}


def count(net: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine and the sampler cost on top of the network.")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side")
    parser.add_argument("--json", type=Path, default=None, help="where to write instead of benchmarks/results")
    given = parser.parse_args()
    settings = {"rounds": given.rounds, "training_steps": 10, "batch_size": 64, "sampling_steps": 5, "batch": 64}
    figures: dict[str, Any] = {"sampling": sampling(given.rounds, settings["sampling_steps"], settings["batch"])}
    for name in BACKBONES:
        figures[f"training {name}"] = training(name, given.rounds, settings["training_steps"], settings["batch_size"])
    for name, row in figures.items():
        wall, cpu = row["wall"], row["cpu"]
        print(
            f"{name:16} ratio {wall['ratio']:.3f} ({wall['low']:.3f} to {wall['high']:.3f}), "
            f"processor {cpu['ratio']:.3f} ({cpu['low']:.3f} to {cpu['high']:.3f}), best {wall['best']:.3f}, "
            f"aim {row['aim']}"
        )
        if "inside" in row:
            print(f"{'':16} inside {row['inside']:.4f}")
    print(write("throughput", figures, [SEED], given.json, **settings))


if __name__ == "__main__":
    main()
