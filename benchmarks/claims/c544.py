"""W2 distance to the ring of a network that is trained with low-rank gradients, and the numbers of the optimizer."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.protocols.training import Optimizer
from beeline.training.optim.optimizers import AdamW
from beeline.training.optim.sparse import LowRankGradients
from benchmarks.claims.toys import RING, even, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "projected gradients of low rank (GaLore, GradNormLoRP without its normalised rows)"
CLAIM = "89.5% less memory of the optimizer."
STEPS = 500


def measure(rng: bl.Rng) -> list[Finding]:
    real = even(RING, rng)[0]

    def trained(optimizer: Optimizer) -> float:
        net = learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng, steps=STEPS, optimizer=optimizer)
        return w2(sample(net, noise(rng), 20), real)

    full, low, sizes = trained(AdamW()), trained(LowRankGradients(4, every=50)), {}
    for name, how in (("full", AdamW()), ("low", LowRankGradients(4))):
        sizes[name] = states(how, rng)
    none = w2(sample(network(rng), noise(rng), 20), real)
    return [
        Finding(
            "numbers of the optimizer, against 0.105 of Adam",
            0.105 * sizes["full"],
            sizes["low"],
            sizes["full"],
            "Adam",
        ),
        Finding(
            "numbers of the optimizer, against half of Adam", 0.5 * sizes["full"], sizes["low"], sizes["full"], "Adam"
        ),
        Finding("W2 to the ring: rank 4 against Adam", full, low, none, "untrained network"),
        Finding("W2 to the ring: rank 4 against Adam, 25% worse", 1.25 * full, low, none, "untrained network"),
    ]


def states(how: Optimizer, rng: bl.Rng) -> float:
    """Numbers that an optimizer keeps after a step."""
    net: Any = network(rng)
    stepper = how.build(list(net.parameters()), 1e-3)
    for i, p in enumerate(net.parameters()):
        p.grad = rng.fork("gradient", i).normal(p.detach())
    stepper.step()
    tensors = (v for memory in stepper.state.values() for v in memory.values() if isinstance(v, torch.Tensor))
    return float(sum(v.numel() for v in tensors if v.ndim))
