"""Exponential integrators: the semilinear form of a flow, clocks, and the weights of multistep methods.

On an affine path x = a D + b E, with D the expected datum and E the expected source point,

    x_s = (b_s/b_t) x_t + b_s integral of D d(a/b)        (exact for constant D)
    x_s = (a_s/a_t) x_t + a_s integral of E d(b/a)        (exact for constant E)

A multistep method replaces D or E by the polynomial through its last values as a function of a clock.  The weights
depend on the times alone.  They are computed in float64 on the CPU for all steps of a run at once: times, nodes and
weights are arrays of one shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Array, Clock, Number
from beeline.core.ranges import dataclass
from beeline.core.types import expand_time
from beeline.paths.affine import AffinePath


def _gauss(points: int) -> list[tuple[float, float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


_FINE, _EXACT = _gauss(12), _gauss(3)  # the second is exact for polynomials up to degree five


def run_times(times: Tensor) -> Array:
    """The times of a run in float64, [N+1] if all samples share them, else [N+1,B] or [N+1,B,F]."""
    values = host_times(times).detach().double().numpy()
    if values.ndim > 1:
        first = values.reshape(len(values), -1)[:, 0]
        if (values == first.reshape(-1, *(1,) * (values.ndim - 1))).all():
            return first
    return values


def coefficient_rows(columns: Sequence[Array], times: Tensor) -> list[tuple[Number, ...]]:
    """The coefficients of each step from those of all steps [N,...]: floats if the samples share their times.

    Otherwise they are moved to the device and dtype of ``times`` once.
    """
    if columns[0].ndim == 1:
        return list(zip(*(column.tolist() for column in columns), strict=True))
    moved = torch.from_numpy(np.stack(columns, 1)).to(times.device, times.dtype)
    return [tuple(row.unbind(0)) for row in moved.unbind(0)]


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


def path_coefficients(path: AffinePath, t: Array | float) -> tuple[Array, Array]:
    """a(t) and b(t)."""
    at = torch.as_tensor(t, dtype=torch.float64)
    return path.a(at).numpy(), path.b(at).numpy()


def end_weights(path: AffinePath, t: Array, noise: bool) -> tuple[Array, Array]:
    """(p, q) with p x + q v the data end of the state x with velocity v at ``t``, or its source end with ``noise``."""
    at = torch.as_tensor(t, dtype=torch.float64)
    one, zero = torch.ones_like(at), torch.zeros_like(at)
    end = path.noise if noise else path.data
    return end(one, zero, at).numpy(), end(zero, one, at).numpy()


def ddim_weights(path: AffinePath, t: Array, s: Array) -> tuple[Array, Array]:
    """(p, q) with x_s = p x + q v for the ends estimated at t: the step of DDIM, Euler's on the straight path."""
    a, b = path_coefficients(path, s)
    (p0, q0), (p1, q1) = end_weights(path, t, True), end_weights(path, t, False)
    return a * p1 + b * p0, a * q1 + b * q0


def earlier(t: Array, count: int) -> list[Array]:
    """``t`` [N,...] and the times of the ``count - 1`` steps before each step, NaN where there are none."""
    none = np.full_like(t, np.nan)
    return [t, *(np.concatenate([none[:k], t[:-k]])[: len(t)] for k in range(1, count))]


def correction_weights(
    path: AffinePath, clock: Clock, noise: bool, t: Array, s: Array, nodes: Sequence[Array]
) -> list[Array]:
    """Weights of the past estimates in the change to a step with a constant estimate; those of ``nodes`` sum to zero.

    Where the clock is infinite at a node, or a node is NaN, fewer nodes are used.
    """
    if len(nodes) == 1:
        return [np.zeros_like(t)]
    with np.errstate(all="ignore"):
        most = clock.weights(path, noise, t, s, nodes)
    most = [-np.sum(most[1:], 0), *most[1:]]
    fewer = [*correction_weights(path, clock, noise, t, s, nodes[:-1]), np.zeros_like(t)]
    good = np.isfinite(most).all(0)
    return [np.where(good, a, b) for a, b in zip(most, fewer, strict=True)]


def polynomial_weights(nodes: Sequence[Array], t: Array, s: Array) -> list[Array]:
    """Adams weights: the integral over [t, s] of every Lagrange polynomial through ``nodes`` (at most six)."""
    return [
        (s - t) * sum(w * lagrange(nodes, j, t + z * (s - t)) for z, w in _EXACT)  # type: ignore[misc]
        for j in range(len(nodes))
    ]


def lagrange(nodes: Sequence[Array], j: int, at: Array) -> Array:
    """The j-th Lagrange polynomial through ``nodes``, at ``at``."""
    value = np.ones_like(at)
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
    >>> round(float(LogSNR().weights(Linear(), False, 0.25, 0.75, [0.25])[0]), 9)
    0.666666667
    """

    def weights(self, path: AffinePath, noise: bool, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]:
        start, end, *clock = (self.at(path, node) for node in (t, s, *nodes))
        span, front = end - start, path_coefficients(path, s)[noise]  # a_s sigma_s = b_s, and b_s rho_s = a_s
        backs = [(w, span * (z - 1.0)) for z, w in _FINE]  # lambda - lambda_s
        sign = -1.0 if noise else 1.0
        return [
            sign * front * span * sum(w * np.exp(sign * back) * lagrange(clock, j, end + back) for w, back in backs)
            for j in range(len(clock))
        ]

    def at(self, path: AffinePath, t: Array) -> Array:
        """ln(a/b), infinite at the ends."""
        a, b = path_coefficients(path, t)
        return np.log(a / b)


@dataclass(frozen=True)
class Time:
    """The clock of DEIS: the time itself, finite everywhere.

    t
    Assumes an affine path.
    Source: Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator" (arXiv 2204.13902).

    >>> from beeline.paths.affine import Linear
    >>> [float(w) for w in Time().weights(Linear(), False, 0.5, 1.0, [0.5, 0.25])]
    [3.0, -2.0]
    """

    def weights(self, path: AffinePath, noise: bool, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]:
        # the integrand is steep where the divided coefficient vanishes, at t = 1 for b and t = 0 for a; nodes are
        # geometric in the distance to that end, and at the end itself the integral equals the value there
        far = 0.0 if noise else 1.0
        t, s = np.asarray(t, dtype=np.float64), np.asarray(s, dtype=np.float64)
        limit = [lagrange(nodes, j, s) for j in range(len(nodes))]
        inside = np.where(s == far, (s + t) / 2, s)
        front, scale = path_coefficients(path, inside)[not noise], np.log((inside - far) / (t - far))
        total = [np.zeros_like(t) for _ in nodes]
        for z, w in _FINE:
            tau = far + (t - far) * np.exp(scale * z)
            measure = front * w * scale * (tau - far) * _ratio_slope(path, tau, noise)
            total = [part + measure * lagrange(nodes, j, tau) for j, part in enumerate(total)]
        return [np.where(t == far, np.nan, np.where(s == far, a, b)) for a, b in zip(limit, total, strict=True)]


@dataclass(frozen=True)
class Ratio:
    """The clock of rhoAB, in which the method is plain Adams-Bashforth: a/b for the datum, b/a (sigma) for the noise.

    rho = a/b, or sigma = b/a
    Assumes an affine path; infinite at t = 1, or at t = 0.
    Source: Zhang and Chen 2023 (arXiv 2204.13902), rhoAB.

    >>> from beeline.paths.affine import Linear
    >>> [round(float(w), 9) for w in Ratio().weights(Linear(), True, 0.5, 1.0, [0.5])]
    [-1.0]
    """

    def weights(self, path: AffinePath, noise: bool, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]:
        start, end, *clock = (self.at(path, node, noise) for node in (t, s, *nodes))
        front = path_coefficients(path, s)[not noise]
        return [front * w for w in polynomial_weights(clock, start, end)]

    def at(self, path: AffinePath, t: Array, noise: bool) -> Array:
        """a/b, or b/a with ``noise``; infinite at an end."""
        a, b = path_coefficients(path, t)
        return b / a if noise else a / b


def _ratio_slope(path: AffinePath, t: Array, noise: bool) -> Array:
    """d(a/b)/dt, or d(b/a)/dt with ``noise``."""
    a, b, da, db = (part.numpy() for part in path.coefficients(torch.as_tensor(t, dtype=torch.float64)))
    return (db * a - b * da) / a**2 if noise else (da * b - a * db) / b**2
