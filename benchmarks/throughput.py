"""Overhead of the training engine and of the sampler over the network alone.

    python -m benchmarks.throughput [--rounds 15] [--device cuda] [--only NETWORK ...] [--output FILE]

Training: seconds per step of ``fit`` over those of a plain torch loop with the same network, batch, optimizer and
average; aim: at most 1.05.  Sampling: seconds over evaluations x one forward pass of the DiT at batch size 64; aim: at
most 1.05.  On CUDA also a DiT-B/2 and a U-Net in bfloat16, and the peak memory of training.  The two programs
alternate, so that a busy machine slows both; the figure is the median ratio over the rounds.  ``cpu`` uses processor
time instead of wall time, which other processes affect less; ``best`` compares the fastest rounds.  For sampling,
``inside`` is the seconds of a run over those of its own forward passes; it is at least 1 and hardly affected by a busy
machine.  The other ratios can be below 1 by noise; see low and high.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.modes import moved
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT
from beeline.networks.unet import UNet
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.training.compute import Compute
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW
from benchmarks import report

SEED = 0


@dataclass(frozen=True)
class Setup:
    """A network, the shape of a datum, and the settings of both programs."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int = 64
    compute: Compute = field(default_factory=Compute)
    device: torch.device = torch.device("cpu")

    def network(self) -> Network:
        """A network with non-zero output layers, as after training."""
        rng = Rng(SEED).fork("network")
        with rng.ambient():
            backbone = self.build()
            for p in backbone.parameters():
                if not p.any():
                    nn.init.normal_(p, std=0.02)
        return Network(backbone).to(self.device)

    def data(self, n: int = 2048) -> Batch:
        """Random data, since the cost does not depend on the values."""
        rng = Rng(SEED).fork("data")
        data = Batch(rng.normal(torch.empty(n, *self.shape)), cond={"label": rng.fork("label").integers(10, n)})
        return moved(data, self.device)


LABEL = {"label": {"classes": 10}}
DIGITS, LATENTS, PIXELS = (1, 8, 8), (4, 32, 32), (3, 32, 32)
SMALL = {
    "DiT": Setup(lambda: DiT(DIGITS, conditions=LABEL), DIGITS),
    "UNet": Setup(lambda: UNet(DIGITS, conditions=LABEL), DIGITS),
}
BF16 = Compute(bf16=True)
LARGE = {
    "DiT-B/2": Setup(lambda: DiT(LATENTS, width=768, depth=12, heads=12, conditions=LABEL), LATENTS, 256, BF16),
    "UNet 128": Setup(lambda: UNet(PIXELS, width=128, conditions=LABEL), PIXELS, 256, BF16),
}


def plain(net: nn.Module, batch: Batch, setup: Setup, steps: int) -> None:
    """A plain torch training loop with an average of the weights."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in net.parameters()]
    weights = [p.detach() for p in net.parameters()]
    assert isinstance(batch.cond, dict)
    for _ in range(steps):
        index = torch.randint(len(batch.x1), (setup.batch_size,), device=setup.device)
        x1, label = batch.x1[index], batch.cond["label"][index]
        x0, t = torch.randn_like(x1), torch.rand(setup.batch_size, device=setup.device)
        x = torch.lerp(x0, x1, t[:, None, None, None])
        with setup.compute.autocast(setup.device):
            v = net(x, t, {"label": label})
        loss = (v.float() - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, weights, 0.001)


def engine(net: nn.Module, batch: Batch, setup: Setup, steps: int) -> None:
    """The same through ``fit``."""
    training = Training(
        steps=steps,
        batch_size=setup.batch_size,
        optimizer=AdamW(),
        lr=Constant(1e-3),
        ema=EMA(),
        clip=1.0,
        compute=setup.compute,
    )
    rng = Rng(SEED).fork("training")
    fit(net, FlowMatching(), batch, training, rng=rng, log=lambda entry: None, device=setup.device)


def clocks(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - wall, time.process_time() - cpu


def wait() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(work: Callable[[], Any]) -> int:
    """Largest number of bytes allocated on the accelerator while ``work`` runs."""
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


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


def training(name: str, setup: Setup, rounds: int, steps: int) -> dict[str, Any]:
    """``fit`` compared with the plain loop."""
    batch, net = setup.data(), setup.network()
    ours, theirs = copy.deepcopy(net), copy.deepcopy(net)

    def program() -> None:
        engine(ours, batch, setup, steps)

    def baseline() -> None:
        with Rng(SEED).ambient():
            plain(theirs, batch, setup, steps)

    ratios = versus(program, baseline, rounds)
    row = {
        "network": name,
        "parameters": count(net),
        "batch_size": setup.batch_size,
        "bf16": setup.compute.bf16,
        "samples_per_second": setup.batch_size * steps / ratios["wall"]["ours_seconds"],
        "aim": 1.05,
        **ratios,
    }
    if setup.device.type == "cuda":
        row["peak_bytes"] = {"ours": peak(program), "theirs": peak(baseline)}
    return row


def sampling(name: str, setup: Setup, rounds: int, steps: int) -> dict[str, Any]:
    """The sampler compared with the same number of forward passes."""
    sampler, n = Sampler(steps=steps), 64
    backbone = setup.network().backbone.eval()
    net = Network(backbone.to(setup.compute.dtype or torch.float32))
    batch = setup.data(n)
    flow, times = Flow(net), torch.full((n,), 0.5, device=setup.device)
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
            wait()
            spent += time.perf_counter() - start
            return v

        return clocks(lambda: sampler(Flow(timed), batch.x1, batch.cond))[0] / spent

    ratios = versus(lambda: sampler(flow, batch.x1, batch.cond), passes, rounds)
    row = {"network": name, "parameters": count(net), "batch_size": n, "evaluations": evaluations, "aim": 1.05}
    return {**row, "inside": statistics.median(inside() for _ in range(rounds)), **ratios}


def count(net: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = report.parser("throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each program")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=[*SMALL, *LARGE], metavar="NETWORK", help="measure these")
    options = parser.parse_args()
    device = torch.device(options.device)
    usual = SMALL if device.type == "cpu" else SMALL | LARGE
    chosen = {k: replace((SMALL | LARGE)[k], device=device) for k in options.only or usual}
    name_of_result = "throughput" if device.type == "cpu" else f"throughput-{device.type}"
    settings = {"rounds": options.rounds, "training_steps": 10 if device.type == "cpu" else 40, "sampling_steps": 5}
    figures: dict[str, Any] = {}

    def keep(name: str, row: dict[str, Any]) -> None:
        figures[name] = row
        wall, cpu = row["wall"], row["cpu"]
        print(
            f"{name:17} ratio {wall['ratio']:.3f} ({wall['low']:.3f} to {wall['high']:.3f}), "
            f"processor {cpu['ratio']:.3f} ({cpu['low']:.3f} to {cpu['high']:.3f}), best {wall['best']:.3f}, "
            f"aim {row['aim']}" + (f", inside {row['inside']:.4f}" if "inside" in row else ""),
            flush=True,
        )
        report.write(name_of_result, figures, [SEED], options.output, device=options.device, **settings)

    for name, setup in chosen.items():
        if name in ("DiT", *LARGE):
            keep(f"sampling {name}", sampling(name, setup, options.rounds, settings["sampling_steps"]))
        keep(f"training {name}", training(name, setup, options.rounds, settings["training_steps"]))


if __name__ == "__main__":
    main()
