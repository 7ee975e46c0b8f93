"""Random numbers, synchronisations, parallel engines and predicted memory on a CUDA device.

    python -m benchmarks.gpu [random] [waits] [memory] [processes] [integers] [--output FILE]

random     seconds for 64 latents of 16x128x128, each with a seed of its own, and for as many numbers of torch.randn;
           largest difference from the numbers of the CPU
waits      synchronisations of one training step and of one run of each sampler, as counted by torch
processes  DDP and FSDP2 with NCCL in one process: samples per second over those without, and the largest difference of
           the loss over 20 steps
memory     predicted and measured peak memory of training
integers   an evaluation of a DiT-B/2 in bfloat16 over one with smaller weights, their bytes, and the change of outputs

Speed against plain loops: ``benchmarks.throughput --device cuda`` and ``benchmarks.hub_loop --device cuda``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from beeline.config.build import parse
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call, Probe
from beeline.objectives.matching import FlowMatching
from beeline.sampling.auto import auto_sampler
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import AdamsBashforth
from beeline.training.config import Training
from beeline.training.distributed.parallel import DDP, FSDP, SingleDevice, init_process_group
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant
from beeline.training.plan import plan
from benchmarks import report
from benchmarks.throughput import LARGE, SMALL, Setup

ENGINES = {"SingleDevice": SingleDevice, "DDP": DDP, "FSDP": FSDP}
STEPS = 20


def seconds(work: Callable[[], Any], rounds: int = 5) -> float:
    """Median wall time of ``work`` on the device."""
    found = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def random() -> dict[str, Any]:
    """Seconds of random numbers, and their difference from those of the CPU."""
    like = torch.empty(64, 16, 128, 128, device="cuda")
    small = torch.empty(64, 1000)
    difference = (Rng(0).rows(range(64), small.cuda()).cpu() - Rng(0).rows(range(64), small)).abs().max()
    return {
        "rows_seconds": seconds(lambda: Rng(0).rows(range(64), like)),
        "normal_seconds": seconds(lambda: Rng(0).normal(like)),
        "randn_seconds": seconds(lambda: torch.randn_like(like)),
        "difference_from_cpu": float(difference),
    }


def waits_of(work: Callable[[], Any]) -> int:
    """Synchronisations of ``work`` that torch reports, after one run without counting."""
    work()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)


def waits() -> dict[str, Any]:
    """Synchronisations of training and sampling."""
    setup = replace(SMALL["DiT"], device=torch.device("cuda"))
    flow, batch = Flow(setup.network().eval(), null={"label": 10}), setup.data(64)
    samplers = {
        "Euler, 20 steps": Sampler(20),
        "Euler, 20 steps, guided": Sampler(20, guidance=CFG(2.0)),
        "Adams-Bashforth, 20 steps": Sampler(20, solver=AdamsBashforth(2)),
        "auto_sampler(8)": auto_sampler(8),
    }

    def train(steps: int) -> None:
        fit(setup.network(), FlowMatching(), setup.data(), settings(setup, steps), rng=Rng(0), log=lambda entry: None)

    found = {name: waits_of(partial(sampler, flow, batch.x1, batch.cond)) for name, sampler in samplers.items()}
    long, short = waits_of(lambda: train(30)), waits_of(lambda: train(10))
    return found | {"a training step": (long - short) / 20}


def settings(setup: Setup, steps: int) -> Training:
    return Training(steps=steps, batch_size=setup.batch_size, lr=Constant(1e-4), compute=setup.compute)


def process(engine: str) -> dict[str, Any]:
    """Losses and samples per second of one engine in this process."""
    setup = replace(LARGE["DiT-B/2"], device=torch.device("cuda"))
    parallel = ENGINES[engine]()
    if engine != "SingleDevice":
        init_process_group()
    entries: list[dict[str, Any]] = []
    training = settings(setup, STEPS)
    net, data = setup.network(), setup.data()
    fit(net, FlowMatching(), data, training, rng=Rng(0), log=entries.append, parallel=parallel, device="cuda")
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    torch.cuda.synchronize()
    start = time.perf_counter()
    fit(net, FlowMatching(), data, training, rng=Rng(0), log=lambda e: None, parallel=parallel, device="cuda")
    torch.cuda.synchronize()
    rate = STEPS * setup.batch_size / (time.perf_counter() - start)
    backend = dist.get_backend() if dist.is_initialized() else None
    return {"losses": losses, "samples_per_second": rate, "backend": backend, "peak": torch.cuda.max_memory_allocated()}


def processes() -> dict[str, Any]:
    """Every engine in a process of its own."""
    runs = {}
    for engine in ENGINES:
        start = (
            ["-m", "torch.distributed.run", "--nproc-per-node=1", "--standalone"] if engine != "SingleDevice" else []
        )
        command = [sys.executable, *start, "-m", "benchmarks.gpu", "--engine", engine]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
        runs[engine] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    one = runs["SingleDevice"]
    return {
        name: {
            "backend": run["backend"],
            "samples_per_second": run["samples_per_second"],
            "rate_over_single": run["samples_per_second"] / one["samples_per_second"],
            "peak_bytes": run["peak"],
            "largest_difference_of_the_loss": max(
                abs(a - b) for a, b in zip(run["losses"], one["losses"], strict=True)
            ),
        }
        for name, run in runs.items()
    }


def memory(name: str) -> dict[str, Any]:
    """Predicted and measured peak memory of training."""
    setup = replace(LARGE[name], device=torch.device("cuda"))
    training = replace(settings(setup, 4), watch_every=2)
    net, data = setup.network(), setup.data()
    predicted = plan(net, FlowMatching(), data, training, rng=Rng(0), trial=0)
    torch.cuda.reset_peak_memory_stats()
    fit(net, FlowMatching(), data, training, rng=Rng(0), log=lambda e: None, device="cuda")
    measured = torch.cuda.max_memory_allocated()
    return {
        "network": name,
        "predicted": predicted.peak,
        "measured": measured,
        "predicted_over_measured": round(predicted.peak / measured, 4),
    }


SMALLER = ("int8()", "int8(kept=True)", "int4()", "TorchAO()", "TorchAO('Int8DynamicActivationInt8Weight()')",
           "TorchAO('Float8DynamicActivationFloat8Weight()')")  # fmt: skip


def integers() -> dict[str, Any]:
    """Seconds of an evaluation of 64 latents with smaller weights, in turn with those of the network as it was."""
    setup = replace(LARGE["DiT-B/2"], device=torch.device("cuda"))
    network, batch = setup.network().backbone.to(torch.bfloat16).eval().requires_grad_(False), setup.data(64)
    call = Call(batch.x1.bfloat16(), torch.linspace(0, 1, 64, device="cuda").bfloat16(), batch.cond)
    probe, found = Probe((call,)), {}
    before = stored_bytes(network)
    with torch.no_grad():
        wanted = network(*call.inputs).float()
        for name in SMALLER:
            method = parse(name, "compressors")
            try:
                smaller = method.apply(copy.deepcopy(network), method.plan(network, probe), probe, Rng(0)).eval()
                change = float((smaller(*call.inputs).float() - wanted).norm() / wanted.norm())
            except BeelineError as error:  # the library has no kernel for this device
                found[name] = {"error": str(error).splitlines()[0]}
                continue
            ratios = [
                seconds(lambda: network(*call.inputs)) / seconds(lambda net=smaller: net(*call.inputs))
                for _ in range(5)
            ]
            found[name] = {
                "speed": round(statistics.median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "share_of_bytes": round(stored_bytes(smaller) / before, 4),
                "change": round(change, 5),
            }
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "random": random,
    "waits": waits,
    "memory": lambda: [memory(name) for name in LARGE],
    "processes": processes,
    "integers": integers,
}


def main() -> None:
    parser = report.parser("gpu", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--engine", choices=list(ENGINES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA device, and torch sees none")
    if options.engine:
        print(json.dumps(process(options.engine)))
        return
    found: dict[str, Any] = {}
    for name in options.parts or PARTS:
        found[name] = PARTS[name]()
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        report.write("gpu", found, [0], options.output, device="cuda")


if __name__ == "__main__":
    main()
