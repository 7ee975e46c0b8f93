"""Overhead of the training engine and of the sampler over the network alone.

    python -m benchmarks.throughput [--rounds 15] [--output FILE]

Training: seconds per step of ``fit`` over those of a plain torch loop with the same network, batch, optimizer and
average; aim: at most 1.05.  Sampling: seconds over evaluations x one forward pass of the DiT at batch size 64; aim: at
most 1.05.  The two programs alternate, so that a busy machine slows both; the figure is the median ratio over the
rounds.  ``cpu`` uses processor time instead of wall time, which other processes affect less; ``best`` compares the
fastest rounds.  For sampling, ``inside`` is the seconds of a run over those of its own forward passes; it is at least
1 and hardly affected by a busy machine.  The other ratios can be below 1 by noise; see low and high.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
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
from benchmarks import report

SEED = 0
SHAPE = (1, 8, 8)
LABEL = {"label": {"classes": 10}}
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "DiT": lambda: DiT(SHAPE, conditions=LABEL),
    "UNet": lambda: UNet(SHAPE, conditions=LABEL),
}


def network(name: str) -> Network:
    """A network with non-zero output layers, as after training."""
    rng = Rng(SEED).fork("network")
    with rng.ambient():
        backbone = BACKBONES[name]()
        for p in backbone.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.02)
    return Network(backbone)


def data(n: int) -> Batch:
    """Random data of the shape of digits, since the cost does not depend on the values."""
    rng = Rng(SEED).fork("data")
    return Batch(rng.normal(torch.empty(n, *SHAPE)), cond={"label": rng.fork("label").integers(10, n)})


def plain(net: nn.Module, batch: Batch, batch_size: int, steps: int) -> None:
    """A plain torch training loop with an average of the weights."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in net.parameters()]
    weights = [p.detach() for p in net.parameters()]
    assert isinstance(batch.cond, dict)
    for _ in range(steps):
        index = torch.randint(len(batch.x1), (batch_size,))
        x1, label = batch.x1[index], batch.cond["label"][index]
        x0, t = torch.randn_like(x1), torch.rand(batch_size)
        x = torch.lerp(x0, x1, t[:, None, None, None])
        loss = (net(x, t, {"label": label}) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, weights, 0.001)


def engine(net: nn.Module, batch: Batch, batch_size: int, steps: int) -> None:
    """The same through ``fit``."""
    training = Training(steps=steps, batch_size=batch_size, optimizer=AdamW(), lr=Constant(1e-3), ema=EMA(), clip=1.0)
    fit(net, FlowMatching(), batch, training, rng=Rng(SEED).fork("training"), log=lambda entry: None)


def clocks(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def versus(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of both, measured alternately, and their ratio."""
    pairs = []
    for i in range(rounds + 1):
        order = {"ours": ours, "theirs": theirs} if i % 2 else {"theirs": theirs, "ours": ours}
        seen = {name: clocks(work) for name, work in order.items()}
        if i:  # the first round warms up
            pairs.append((seen["ours"], seen["theirs"]))
    result: dict[str, Any] = {}
    for k, clock in enumerate(("wall", "cpu")):
        ratios = [a[k] / b[k] for a, b in pairs]
        result[clock] = {
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "best": min(a[k] for a, _ in pairs) / min(b[k] for _, b in pairs),
            "ours_seconds": statistics.median(a[k] for a, _ in pairs),
            "theirs_seconds": statistics.median(b[k] for _, b in pairs),
        }
    return result


def training(name: str, rounds: int, steps: int, batch_size: int) -> dict[str, Any]:
    """``fit`` compared with the plain loop."""
    batch, net = data(2048), network(name)
    ours, theirs = copy.deepcopy(net), copy.deepcopy(net)

    def baseline() -> None:
        with Rng(SEED).ambient():
            plain(theirs, batch, batch_size, steps)

    ratios = versus(lambda: engine(ours, batch, batch_size, steps), baseline, rounds)
    seconds = ratios["wall"]["ours_seconds"]
    return {
        "network": name,
        "parameters": count(net),
        "samples_per_second": batch_size * steps / seconds,
        "aim": 1.05,
        **ratios,
    }


def sampling(rounds: int, steps: int, n: int) -> dict[str, Any]:
    """The sampler compared with the same number of forward passes."""
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

        def timed(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            nonlocal spent
            start = time.perf_counter()
            v: Tensor = net(x, t, cond)
            spent += time.perf_counter() - start
            return v

        return clocks(lambda: sampler(Flow(timed), batch.x1, batch.cond))[0] / spent

    ratios = versus(lambda: sampler(flow, batch.x1, batch.cond), passes, rounds)
    row = {"network": "DiT", "parameters": count(net), "batch_size": n, "evaluations": evaluations, "aim": 1.05}
    return {**row, "inside": statistics.median(inside() for _ in range(rounds)), **ratios}


def count(net: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = report.parser("throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each program")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    settings = {
        "rounds": options.rounds, "training_steps": 10, "batch_size": options.batch_size, "sampling_steps": 5
    }  # fmt: skip
    figures: dict[str, Any] = {"sampling": sampling(options.rounds, settings["sampling_steps"], settings["batch_size"])}
    for name in BACKBONES:
        figures[f"training {name}"] = training(name, options.rounds, settings["training_steps"], settings["batch_size"])
    for name, row in figures.items():
        wall, cpu = row["wall"], row["cpu"]
        print(
            f"{name:16} ratio {wall['ratio']:.3f} ({wall['low']:.3f} to {wall['high']:.3f}), "
            f"processor {cpu['ratio']:.3f} ({cpu['low']:.3f} to {cpu['high']:.3f}), best {wall['best']:.3f}, "
            f"aim {row['aim']}"
        )
        if "inside" in row:
            print(f"{'':16} inside {row['inside']:.4f}")
    print(report.write("throughput", figures, [SEED], options.output, **settings))


if __name__ == "__main__":
    main()
