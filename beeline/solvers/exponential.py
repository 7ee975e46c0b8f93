"""Exponential integrators: the semilinear form of a flow, clocks, and the weights of multistep methods.

On an affine path x = a D + b E, with D the expected datum and E the expected source point,

    x_s = (b_s/b_t) x_t + b_s integral of D d(a/b)        (exact for constant D)
    x_s = (a_s/a_t) x_t + a_s integral of E d(b/a)        (exact for constant E)

A multistep method replaces D or E by the polynomial through its last values as a function of a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from beeline.core.protocols.flows import Number
from beeline.core.ranges import dataclass
from beeline.core.types import expand_time
from beeline.paths.affine import AffinePath


def _gauss(points: int) -> list[tuple[float, float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


_FINE, _EXACT = _gauss(12), _gauss(3)  # the second is exact for polynomials up to degree five


def shared_time(t: Tensor) -> Number:
    """The time of a step as a float if all samples share it, else in float64."""
    first = t.flatten()[:1]
    return float(first) if bool((t == first).all()) else t.double()


def scale_by(weight: Number, x: Tensor) -> Tensor:
    """weight * x, for a float or a tensor with the shape of the time."""
    return x * weight if isinstance(weight, float) else expand_time(weight.to(x.dtype), x) * x


def linear_combination(parts: Sequence[tuple[Number, Tensor]]) -> Tensor:
    """Sum of weight * value; terms with weight 0.0 are skipped."""
    total: Tensor | None = None
    for weight, value in parts:
        if isinstance(weight, float):
            if weight == 0.0:
                continue
            total = value * weight if total is None else torch.add(total, value, alpha=weight)
        else:
            scaled = scale_by(weight, value)
            total = scaled if total is None else total + scaled
    return torch.zeros_like(parts[0][1]) if total is None else total


def path_coefficients(path: AffinePath, t: Number) -> tuple[Number, Number]:
    """a(t) and b(t), as floats if ``t`` is a float."""
    if isinstance(t, float):
        at = torch.tensor(t, dtype=torch.float64)
        return float(path.a(at)), float(path.b(at))
    return path.a(t), path.b(t)


def polynomial_weights(nodes: Sequence[Number], t: Number, s: Number) -> list[Number]:
    """Adams weights: the integral over [t, s] of every Lagrange polynomial through ``nodes`` (at most six)."""
    out: list[Number] = []
    for j in range(len(nodes)):
        total: Number = 0.0
        for z, w in _EXACT:
            total = total + w * lagrange(nodes, j, t + z * (s - t))
        out.append((s - t) * total)
    return out


def lagrange(nodes: Sequence[Number], j: int, at: Number) -> Number:
    """The j-th Lagrange polynomial through ``nodes``, at ``at``."""
    value: Number = 1.0
    for k, node in enumerate(nodes):
        if k != j:
            value = value * (at - node) / (nodes[j] - node)
    return value


@dataclass(frozen=True)
class LogSNR:
    """The clock of DPM-Solver, the log signal-to-noise ratio, which is infinite at both ends.

    lambda = ln(a/b)
    Assumes an affine path.
    Source: Lu et al. 2022, "DPM-Solver" (arXiv 2206.00927).

    >>> from beeline.paths.affine import Linear
    >>> round(LogSNR().weights(Linear(), False, 0.25, 0.75, [0.25])[0], 9)
    0.666666667
    """

    def weights(
        self, path: AffinePath, noise: bool, t: Number, s: Number, nodes: Sequence[Number]
    ) -> list[Number] | None:
        marks = [self.at(path, node) for node in (t, s, *nodes)]
        if any(not _finite(m) for m in marks):
            return None
        (start, end), clock = marks[:2], marks[2:]
        span = end - start
        front = (
            -path_coefficients(path, s)[1] if noise else path_coefficients(path, s)[0]
        )  # a_s sigma_s = b_s, and b_s rho_s = a_s
        out: list[Number] = []
        for j in range(len(clock)):
            total: Number = 0.0
            for z, w in _FINE:
                back = span * (z - 1.0)  # lambda - lambda_s
                total = total + w * _exp(-back if noise else back) * lagrange(clock, j, end + back)
            out.append(front * span * total)
        return out

    def at(self, path: AffinePath, t: Number) -> Number:
        a, b = path_coefficients(path, t)
        if isinstance(a, float) and isinstance(b, float):
            return math.log(a / b) if a > 0 and b > 0 else math.inf
        return torch.log(torch.as_tensor(a) / b)


@dataclass(frozen=True)
class Time:
    """The clock of DEIS: the time itself, finite everywhere.

    t
    Assumes an affine path.
    Source: Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator" (arXiv 2204.13902).

    >>> from beeline.paths.affine import Linear
    >>> Time().weights(Linear(), False, 0.5, 1.0, [0.5, 0.25])
    [3.0, -2.0]
    """

    def weights(
        self, path: AffinePath, noise: bool, t: Number, s: Number, nodes: Sequence[Number]
    ) -> list[Number] | None:
        # the integrand is steep where the divided coefficient vanishes, at t = 1 for b and t = 0 for a; nodes are
        # geometric in the distance to that end, and at the end itself the integral equals the value there
        far = 0.0 if noise else 1.0
        if _any(t == far):
            return None
        limit = [lagrange(nodes, j, s) for j in range(len(nodes))]
        if isinstance(s, float):
            if s == far:
                return limit
        elif bool((s == far).any()):
            inside = torch.where(s == far, (s + torch.as_tensor(t)) / 2, s)  # only some samples reach the end
            rest = self.weights(path, noise, t, inside, nodes) or []
            ends = zip(map(torch.as_tensor, limit), map(torch.as_tensor, rest), strict=True)
            return [torch.where(s == far, end, inner) for end, inner in ends]
        front = path_coefficients(path, s)[0 if noise else 1]
        scale = _log((s - far) / (t - far))
        taus = [far + (t - far) * _exp(scale * z) for z, _ in _FINE]
        out: list[Number] = [0.0] * len(nodes)
        for (_, w), tau, slope in zip(_FINE, taus, _ratio_slopes(path, taus, noise), strict=True):
            measure = front * w * scale * (tau - far) * slope
            out = [total + measure * lagrange(nodes, j, tau) for j, total in enumerate(out)]
        return out


@dataclass(frozen=True)
class Ratio:
    """The clock of rhoAB, in which the method is plain Adams-Bashforth: a/b for the datum, b/a (sigma) for the noise.

    rho = a/b, or sigma = b/a
    Assumes an affine path; infinite at t = 1, or at t = 0.
    Source: Zhang and Chen 2023 (arXiv 2204.13902), rhoAB.

    >>> from beeline.paths.affine import Linear
    >>> [round(w, 9) for w in Ratio().weights(Linear(), True, 0.5, 1.0, [0.5])]
    [-1.0]
    """

    def weights(
        self, path: AffinePath, noise: bool, t: Number, s: Number, nodes: Sequence[Number]
    ) -> list[Number] | None:
        marks = [self.at(path, node, noise) for node in (t, s, *nodes)]
        if any(not _finite(m) for m in marks):
            return None
        (start, end), clock = marks[:2], marks[2:]
        front = path_coefficients(path, s)[0 if noise else 1]
        return [front * w for w in polynomial_weights(clock, start, end)]

    def at(self, path: AffinePath, t: Number, noise: bool) -> Number:
        a, b = path_coefficients(path, t)
        top, bottom = (b, a) if noise else (a, b)
        if isinstance(bottom, float):
            return top / bottom if bottom > 0 else math.inf
        return top / bottom


def _ratio_slopes(path: AffinePath, times: Sequence[Number], noise: bool) -> list[Number]:
    """d(a/b)/dt at every time, or d(b/a)/dt with ``noise``."""
    many = [torch.as_tensor(t, dtype=torch.float64) for t in times]
    a, b, da, db = path.coefficients(torch.stack(many))
    slopes = (db * a - b * da) / a**2 if noise else (da * b - a * db) / b**2
    return slopes.tolist() if isinstance(times[0], float) else list(slopes.unbind(0))


def _exp(x: Number) -> Number:
    return math.exp(x) if isinstance(x, float) else torch.exp(x)


def _log(x: Number) -> Number:
    return math.log(x) if isinstance(x, float) else torch.log(x)


def _finite(x: Number) -> bool:
    return math.isfinite(x) if isinstance(x, float) else bool(x.isfinite().all())


def _any(x: bool | Tensor) -> bool:
    return x if isinstance(x, bool) else bool(x.any())
