"""Batches of 256 of the ring. Few-step samples are W2 distances after equal training; the variance is that of the
gradient of the loss between batches, at the weights of a network trained for 100 steps on independent pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Multisample flow matching: minibatch optimal transport"
CLAIM = "Lower variance of the gradient and better samples at few evaluations."


@dataclass(frozen=True)
class Shuffled:
    """The pairs of batch transport, with the noises exchanged by chance."""

    independent = True

    def __call__(self, batch: bl.Batch, rng: bl.Rng) -> bl.Batch:
        made = bl.couplings.MinibatchOT()(batch, rng)
        assert made.x0 is not None
        return bl.Batch(made.x1, made.x0[rng.fork("shuffle").permutation(len(made.x0))])


def variance(net: bl.Network, coupling: object, data: bl.Batch, rng: bl.Rng, batches: int = 40) -> float:
    """The trace of the covariance of the gradient over batches."""
    objective, grads = bl.objectives.FlowMatching(coupling=coupling), []  # type: ignore[arg-type]
    for i in range(batches):
        rows = rng.fork("rows", i).integers(len(data.x1), 256)
        loss = objective(net, bl.Batch(data.x1[rows]), rng.fork("loss", i)).value
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    return float(torch.stack(grads).var(0).sum())


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    couplings = bl.couplings.Independent(), bl.couplings.MinibatchOT(), Shuffled()
    young = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("young"), steps=100)
    spread = [variance(young, c, data, rng.fork("gradient")) for c in couplings]
    nets = [
        learn(network(rng), bl.objectives.FlowMatching(coupling=c), data, rng.fork("net"), steps=500)
        for c in couplings[:2]
    ]
    nets.append(network(rng))
    return [
        finding("variance of the gradient: optimal (figure) against independent pairs", *spread, "shuffled pairs"),
        *(finding(f"W2, {n} Euler steps: optimal (figure) against independent pairs",
                  *(w2(sample(f, x0, n), real) for f in nets)) for n in (2, 4)),
    ]  # fmt: skip
