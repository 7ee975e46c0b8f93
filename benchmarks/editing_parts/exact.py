"""A distribution whose counterfactuals are known: labelled mixtures and the exact transport between their labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from beeline import Batch, Flow, Rng, integrate
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.solvers.runge_kutta import RK4

STEPS = 200  # of RK4 in either direction; doubling them changes no coordinate by 1e-4
LABELLED = GaussianMixture(
    ((-3.0, -1.5), (-2.5, 2.0), (2.5, -2.0), (3.0, 1.0), (1.5, 3.5), (0.0, -4.0), (0.5, 0.0)),
    (0.4, 0.6, 0.5, 0.3, 0.5, 0.4, 0.4),
    weights=(2.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0),
    labels=(0, 0, 1, 1, 1, 2, 2),
)
"""Labels with two or three modes of different widths and weights, so that no edit by a translation is right."""


@dataclass(frozen=True)
class Exact:
    """A mixture with labels, its exact flow, and what data would be under another label.

    The counterfactual of (x, old, new) is that of the exact flow: the noise of x under ``old``, sampled under ``new``.
    """

    mixture: GaussianMixture = LABELLED

    @property
    def flow(self) -> Flow:
        """The exact velocities; the condition is a label [B] int64."""
        return Flow(self.mixture.field())

    @property
    def labels(self) -> int:
        """The number of labels, 0 and above."""
        return self.mixture.classes

    def data(self, n: int, rng: Rng) -> Batch:
        """Data [n,D] float32 with their labels."""
        return self.mixture.batch(n, rng, dtype=torch.float32)

    def counterfactual(self, x: Tensor, old: Tensor, new: Tensor, steps: int = STEPS) -> Tensor:
        """The exact counterfactuals [B,D] of data [B,D] with the labels ``old`` [B], under the labels ``new`` [B]."""
        v, times = self.mixture.field(), torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        with torch.no_grad():
            source = integrate(lambda y, t: v(y, t, old), x.double(), times.flip(0), RK4)
            return integrate(lambda y, t: v(y, t, new), source, times, RK4).to(x)

    def likelihood(self, x: Tensor, label: Tensor) -> Tensor:
        """Probabilities [B] of the labels of data [B,D] by the exact classifier."""
        logs = torch.stack([self._log_prob(x, k) for k in range(self.labels)], 1)
        return logs.softmax(1).gather(1, label[:, None])[:, 0]

    def _log_prob(self, x: Tensor, k: int) -> Tensor:
        one = torch.ones(len(x), dtype=torch.float64)
        return self.mixture.marginal(x.double(), one, 0 * one, torch.full((len(x),), k)).log_density


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [B]."""
    return (a.double() - b.double()).flatten(1).norm(dim=1)
