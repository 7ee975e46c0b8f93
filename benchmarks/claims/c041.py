"""The ring after one reflow, four Euler steps, led to the mode in the direction of (1, 1) by the exact classifier of
its eight modes. The figure is -log p of the samples under that mode. Guidance of every step takes as many evaluations,
with a size of its gradient that is searched. The last row has an anchor of strength 3; its control repeats x1 <-
reference - strength grad energy(x1) without one."""

from __future__ import annotations

from dataclasses import replace

import torch

import beeline as bl
from beeline.sampling.anchored import Anchored
from beeline.sampling.steering.energies.labels import Label
from beeline.sampling.steering.gradients.fit import fit_guidance
from beeline.sampling.steering.gradients.training_free import TFG
from benchmarks.claims.toys import RING, finding, learn, network, noise, points, sample
from benchmarks.claims.verdict import Finding

METHOD = "RectifID: anchored classifier guidance"
CLAIM = "An anchored fixed point on a straight flow guides stably by a classifier of clean data."
STEPS, STRENGTH = 4, 3.0


def logits(x1: torch.Tensor) -> torch.Tensor:
    """The exact classifier of the modes."""
    return -torch.cdist(x1, torch.tensor(RING.means, dtype=x1.dtype)).square() / (2 * 0.3**2)


WANTED = Label(logits, label=1)


def unlikely(x: torch.Tensor) -> float:
    """The mean -log p under the wanted mode."""
    mode = bl.distributions.GaussianMixture([RING.means[1]], 0.3)
    return float(-mode.log_prob(x.double()).mean())


def repeated(x1: torch.Tensor, rounds: int = 20) -> torch.Tensor:
    """The formula of the fixed point, put into itself."""
    x = x1
    for _ in range(rounds):
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(WANTED(leaf, torch.ones(len(x))).sum(), leaf)
        x = x1 - STRENGTH * slope
    return x


def measure(rng: bl.Rng) -> list[Finding]:
    data = points(rng)
    first = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("first"))
    ends = rng.fork("ends").normal(data.x1)
    pairs = bl.Batch(sample(first, ends, 25, solver=bl.solvers.HEUN), ends)
    paired = bl.objectives.FlowMatching(coupling=bl.couplings.Paired())
    net = learn(network(rng), paired, pairs, rng.fork("second"))
    flow, x0 = bl.Flow(net, independent=False), noise(rng)
    plain = sample(net, x0, STEPS)
    base = Anchored(STEPS, solver=bl.solvers.EULER, energy=WANTED)
    made, anchored = base(flow, x0), replace(base, strength=STRENGTH, rate=0.1, iterations=100)(flow, x0)
    x = noise(rng.fork("search"), 128)
    dps = TFG(WANTED, mu=0.0)

    def guided(controller: TFG, x0: torch.Tensor) -> torch.Tensor:
        steps = base.evaluations
        return bl.Sampler(steps, solver=bl.solvers.EULER, controllers=(controller,))(flow, x0)

    best = fit_guidance(
        lambda one: unlikely(guided(one, x)), dps, ("rho",), rounds=8, beam=4, start={"rho": 0.001}
    ).best
    names = {"no guidance": unlikely(plain), "guidance of every step": unlikely(guided(best, x0))}
    rows = [finding(f"-log p under the mode: moved trajectories (figure) against {name}", value, unlikely(made),
                    unlikely(plain), "no guidance") for name, value in names.items()]  # fmt: skip
    naive = unlikely(repeated(plain))
    rows.append(finding("-log p under the mode: anchored (figure) against no guidance", unlikely(plain),
                        unlikely(anchored), naive, "repeated without an anchor"))  # fmt: skip
    return rows
