"""The cost of the objectives of flow maps, in units of a step of flow matching with the same network.

python -m benchmarks.objective_costs [--rounds N] [--batch N] [--width N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.config import build as config
from beeline.config.entries import MAP_DISTILLATIONS
from beeline.core.progress import at_progress
from beeline.distillation.students import as_student_map
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP

# what exceeds two steps, and why
REASONS = {
    "MeanFlow": "a derivative along the flow (two passes forward) and the velocity of the teacher",
    "ImprovedMeanFlow": "a derivative, the velocity of the teacher and the map's own",
    "AlignYourFlow": "a derivative along the flow (two passes forward) and the velocity of the teacher",
    "AlignYourFlowLagrangian": "a derivative in the end of the jump, and the velocity of the teacher there",
    "LagrangianSelfDistillation": "a backward pass through a derivative",
    "TerminalVelocity": "a backward pass through a derivative",
    "ContinuousConsistency": "a derivative along the flow (two passes forward) and the velocity of the teacher",
    "DecoupledMeanFlow": "a derivative along the flow (two passes forward) and the velocity of the teacher",
    "FlowMapDistillation": "a derivative along the flow (two passes forward) and the velocity of the teacher",
    "Shortcut": "two jumps of the map without gradient, and the velocity of the teacher on the diagonal",
    "TruncatedConsistency": "jumps of the map and of the first stage without gradient",
    "TraFlow": "two velocities of the teacher, and two jumps to the data, one with gradient",
    "MarginalDataTransport": "two derivatives, two velocities of the teacher, and a second pass with gradient",
    "InductiveMomentMatching": "a pass without gradient",
    "Bootstrapping": "a derivative in the end of the jump, and the velocity of the teacher there",
}


def costs(
    teacher: Flow, batch: bl.Batch, methods: Mapping[str, Any], rounds: int = 5, share: float = 0.5
) -> dict[str, float]:
    """Processor seconds of loss and backward pass of the objective of every method, over those of flow matching.

    The methods are measured in turn, and the medians of ``rounds`` turns are compared, so that a busy machine slows
    all of them down.  ``share`` is the progress of the training, which some objectives depend on.
    """
    flows: dict[str, tuple[Any, nn.Module]] = {"": (bl.objectives.FlowMatching(), as_student_map(teacher))}
    for name, method in methods.items():
        flow = Flow(as_student_map(teacher)) if name == "TruncatedConsistency" else teacher
        flows[name] = (method.objective(flow), method.networks(flow)["student"])
    seconds: dict[str, list[float]] = {name: [] for name in flows}
    for turn in range(rounds + 1):
        for name, (objective, net) in flows.items():
            with at_progress(share):
                spent = step(objective, net, batch, turn)
            if turn:  # the first is a warm-up
                seconds[name].append(spent)
    plain = median(seconds.pop(""))
    return {name: median(values) / plain for name, values in seconds.items()}


def step(objective: Any, net: nn.Module, batch: bl.Batch, turn: int) -> float:
    """Processor seconds of a loss and its backward pass."""
    net.zero_grad()
    start = time.process_time()
    objective(net, batch, bl.Rng(turn)).value.backward()
    return time.process_time() - start


def teacher_of(width: int) -> Flow:
    """An untrained network of the size of the digits; costs do not depend on its weights."""
    with bl.Rng(0).ambient():
        return Flow(Network(MLP(64, width=width, depth=4)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objective_costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    methods = {name: config.build({"is": f"distillations.{name}"}) for name in MAP_DISTILLATIONS}
    paired = bl.Batch(*(bl.Rng(i).normal(torch.empty(chosen.batch, 64)) for i in range(2)))
    for name, cost in sorted(costs(teacher_of(chosen.width), paired, methods, chosen.rounds).items()):
        print(f"{name:28s} {cost:5.2f}   {REASONS.get(name, '') if cost > 2 else ''}")


if __name__ == "__main__":
    main()
