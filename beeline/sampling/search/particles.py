"""Particles with weights, which make a steered distribution exact in the limit of many particles."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import check_values
from beeline.core.protocols.flows import Reference
from beeline.core.protocols.steering import Energy, Run
from beeline.core.ranges import Positive, Range, Share, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.guidance.dependence import FlowDependent, with_seeds
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.guidance.predictions import Predictions
from beeline.sampling.sampler import Call
from beeline.sampling.search.candidates import (
    StochasticSearch,
    at,
    pairs,
    picked,
    tiled_cond,
    transition,
)
from beeline.sampling.steering.controller import complete_controller, energies_of, score_weight
from beeline.solvers.process import process_of


class Population(NamedTuple):
    """The particles of every sample at the end of a run."""

    x: Tensor  # [n,B,*S]
    log_weights: Tensor  # [n,B], normalised over the particles

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [B,D] and covariance [B,D,D] of the weighted particles, with flattened coordinates."""
        x, w = self.x.flatten(2), self.log_weights.exp()
        mean = torch.einsum("nb,nbd->bd", w, x)
        return mean, torch.einsum("nb,nbd,nbe->bde", w, x - mean, x - mean)


class Move(NamedTuple):
    """The next step of every particle; the rows of all parts are exchanged together."""

    mean: Tensor  # [n*B,*S] of the next state
    spread: Tensor  # standard deviation of its noise, [n*B,1,...]
    potential: Tensor  # [n*B] logarithm of the weight at the start of the step
    gain: Tensor  # [n*B] growth of the log-weight in the step
    shift: Tensor  # [n*B,*S] (mean - mean of the unsteered step) / spread

    def picked(self, index: Tensor) -> Move:
        return Move(*(picked(part, index) for part in self))


Moves = Callable[[Tensor, Tensor, Tensor], Move]  # (x [n*B,*S], t, s) -> the step from t to s


@dataclass(frozen=True)
class WeightedParticles(StochasticSearch):
    """Base of particle samplers; a subclass gives the moves of a run and the potential of its end.

    Every sample has its own particles, which are resampled (systematically) when their effective number
    1 / sum_k W_k^2 falls below ``threshold`` n; one of them is returned, with probability W_k.  ``done`` gets the
    Population, whose weighted moments have less variance than single samples.
    """

    candidates: Annotated[int, Range(least=2)] = 64  # particles of every sample
    threshold: Share = 0.5  # 1 resamples in every step, 0 never

    def _search(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        path, n = self._checked(flow), self.candidates
        wide = tiled_cond(cond, n)
        x = self.first(self.starts(flow, x0))
        moves = self._moves(flow, path, x, wide)
        log_w, before = x.new_zeros(n, len(x0)), x.new_zeros(len(x))
        for i, t, s in pairs(self.times().tolist()):
            if call.watch is not None:
                call.watch(x, at(t, x))
            move = moves(x, at(t, x), at(s, x))
            log_w = log_w + (move.potential - before).view_as(log_w)
            index, log_w = self._resampled(log_w, self._uniform(x0, "resample", i))
            move = move.picked(index)
            z = self.normal(x0, n, "step", i)
            x = move.mean + move.spread * z
            ratio = (z * move.shift + move.shift.square() / 2).flatten(1).sum(1)
            log_w, before = log_w + (move.gain - ratio).view_as(log_w), move.potential
        log_w = log_w + (self._end(x, wide) - before).view_as(log_w)
        if call.watch is not None:
            call.watch(x, at(1.0, x))
        log_w = log_w.log_softmax(0)
        if call.done is not None:
            call.done(Population(x.unflatten(0, (n, -1)), log_w))
        return picked(x, systematic(log_w, self._uniform(x0, "choice"), 1)[0])

    def first(self, x0: Tensor) -> Tensor:
        """The states at t = 0 of particles with noise ``x0``."""
        return x0

    @abstractmethod
    def _moves(self, flow: Flow, path: AffinePath, x: Tensor, cond: Cond) -> Moves:
        """The moves of one run of particles ``x`` [n*B,*S] under a condition of their rows."""

    def _end(self, x: Tensor, cond: Cond) -> Tensor:
        """The potential [n*B] of samples."""
        return x.new_zeros(len(x))

    def _uniform(self, x0: Tensor, *names: int | str | float) -> Tensor:
        """A number in [0, 1) for every sample, [B]."""
        return torch.special.ndtr(self.normal(x0.new_empty(len(x0)), 1, *names)).clamp(max=1 - 1e-6)

    def _resampled(self, log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The particles [n,B] that continue and their log-weights, for those of the present ones."""
        n, log_w = len(log_w), log_w.log_softmax(0)
        poor = (2 * log_w).logsumexp(0) > -math.log(max(self.threshold, 1e-9) * n)
        same = torch.arange(n, device=log_w.device)[:, None].expand_as(log_w)
        return torch.where(poor, systematic(log_w, u, n), same), torch.where(poor, torch.zeros_like(log_w), log_w)

    @property
    def evaluations(self) -> int | None:
        return self.candidates * sum(self.calls(round(float(t), 6)) for t in self.times()[:-1])


@dataclass(frozen=True)
class Particles(WeightedParticles):
    """Particles whose weights make samples follow p(x1) exp(-E(x1)), a posterior for E = -log p(y | x1).

    potential phi_t = -E(D(x_t, t), t);  log W += phi_s - phi_t in every step, and with controllers
    += log N(x_s; plain step) - log N(x_s; steered step);  p is the distribution of the stochastic sampler
    Exact in the limit of particles for any potential before t = 1, which changes the variance alone; the bias is of
    order 1/n, and that of the sampler's step.  Controllers such as EnergyGuidance lead particles to low energies and
    thereby need fewer of them; their last step, which adds no noise, is not steered.  Without controllers the energy
    needs no gradient.  With guidance, p is that of guided sampling.
    Assumes a Gaussian source, an independent coupling, the affine path of the flow, and guidance and controllers that
    have no memory of single samples and do not correct states.
    Source: Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models"
    (arXiv 2306.17775); Singhal et al. 2025 (arXiv 2501.06848), black-box rewards.

    >>> search = Particles(2, energy=lambda x1, t, cond=None: x1.square().sum(1), candidates=4)
    >>> search(Flow(lambda x, t: 0 * x), torch.zeros(1, 2)).shape
    torch.Size([1, 2])
    """

    energy: Energy = field(kw_only=True)

    def _moves(self, flow: Flow, path: AffinePath, x: Tensor, cond: Cond) -> Moves:
        process, times, own = process_of(flow), self.times(), self._own(self.candidates)
        plain, _ = replace(own, controllers=())._steered(flow, process, x, cond, times)
        found: list[Tensor] = []

        def recorded(x: Tensor, t: Tensor) -> Tensor:
            found[:] = [plain(x, t)]
            return found[0]

        steering = [complete_controller(c).for_run(Run(flow, cond, times)) for c in own.controllers]
        steered: Dynamics = recorded
        for controller in steering:
            steered = controller.steer(steered, flow)

        def move(x: Tensor, t: Tensor, s: Tensor) -> Move:
            for controller in steering:
                same = (controller.correct(x, t) == x).all()
                check_values(
                    same,
                    lambda: (
                        "Particles got a controller that corrects states, for which there is no weight; use one that "
                        "steers the drift, such as EnergyGuidance, or another sampler"
                    ),
                )
            u = steered(x, t)
            v = (found[0] if self.extra(round(float(host_times(t)[0]), 6)) == 0 else plain(x, t)).detach()
            potential = -energies_of(self.energy, path.data(x, v, t), t, cond)
            mean, spread = transition(self.solver, x, v, t, s)
            if not steering:
                return Move(mean, spread, potential, torch.zeros_like(potential), torch.zeros_like(x))
            change = torch.where(spread > 0, transition(self.solver, x, u, t, s)[0] - mean, 0.0)
            shift = change / torch.where(spread > 0, spread, 1.0)
            return Move(mean + change, spread, potential, torch.zeros_like(potential), shift)

        return move

    def _end(self, x: Tensor, cond: Cond) -> Tensor:
        return -energies_of(self.energy, x, at(1.0, x), cond)

    def extra(self, t: float) -> int:
        """Evaluations of the plain drift beside those of the controllers."""
        return 0 if self.calls(t) == self.guidance.calls(t) else self.guidance.calls(t)

    @property
    def evaluations(self) -> int | None:
        times = [round(float(t), 6) for t in self.times()[:-1]]
        return self.candidates * sum(self.calls(t) + self.extra(t) for t in times)


@dataclass(frozen=True)
class FeynmanKac(WeightedParticles):
    """Feynman-Kac correctors: particles whose weights make samples follow a product of powers of distributions.

    q_t = prod_i p_i^(w_i), w = sum_i w_i;  x_0 ~ N(0, 1/w);  S = sum_i w_i s_i,  kappa = b (a' b - a b') / a;
    dx = [sum_i w_i v_i - (w - 1) (V'/(2 V) x + a kappa m / V) + g^2/2 S] dt + g dW,  V = b^2 + a^2 deviation^2;
    d log W = kappa (|S|^2 - sum_i w_i |s_i|^2 + (w - 1) S (x - a m) / V) dt,  m = E[x1] by the velocities at t = 0
    The first power is that of the flow under its condition, the others are those of ``references``.  Powers (c, 1 - c)
    with Unconditional() are guidance of scale c, of which classifier-free guidance samples another distribution;
    (beta,) is annealing to the temperature 1/beta; (1, 1) with Weak(field) is the product of two models, (0.5, 0.5)
    their geometric mean.  Exact in the limit of particles and steps; the variance of weights grows with the dimension.
    Assumes a Gaussian source, an independent coupling and the affine path of the flow, for all of the models.
    Source: Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion" (arXiv 2503.02819).  For w != 1 the drift has
    a linear term that is not in the paper: with it all is finite at t = 0, and the weights of powers of a Gaussian with
    that ``deviation`` are equal.

    >>> FeynmanKac(2, powers=(3.0,), candidates=4)(Flow(lambda x, t: 0 * x), torch.zeros(1, 2)).shape
    torch.Size([1, 2])
    """

    powers: tuple[float, ...] = (2.0, -1.0)  # of the flow and of the references
    references: tuple[Reference, ...] = field(kw_only=True, default=())
    deviation: Positive = 1.0  # of the data; it does not change the target, but another one needs many more particles

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.powers) == len(self.references) + 1 and sum(self.powers) > 0,
            f"FeynmanKac got powers={self.powers} and {len(self.references)} references; every model has a power, the "
            "flow the first, and their sum is above 0, else the product has no finite mass: give (c, 1 - c) and "
            "references=(Unconditional(),) for guidance, or (beta,) for annealing",
        )
        require(
            isinstance(self.guidance, Plain) and not self.controllers,
            f"FeynmanKac got guidance {type(self.guidance).__name__} and {len(self.controllers)} controllers, for "
            "which it has no weights; give guidance by its powers and references",
        )

    def first(self, x0: Tensor) -> Tensor:
        return x0 / sum(self.powers) ** 0.5

    def _moves(self, flow: Flow, path: AffinePath, x: Tensor, cond: Cond) -> Moves:
        keys = self.keys(self.candidates)
        own = [r.for_flow(flow) if isinstance(r, FlowDependent) else r for r in self.references]
        references = [with_seeds(reference, keys) if keys else reference for reference in own]
        field = process_of(flow).field_for_run(flow.field, x, self.times())
        predictions = Predictions(field, cond, references)
        total, centre = sum(self.powers), torch.zeros_like(x)

        def move(x: Tensor, t: Tensor, s: Tensor) -> Move:
            nonlocal centre
            velocities = predictions(x, t)
            v = _sum(self.powers, velocities)
            if float(host_times(t)[0]) == 0:
                data = _sum(self.powers, [path.data(x, one, t) for one in velocities]) / total
                grouped = data.unflatten(0, (self.candidates, -1))
                centre = grouped.mean(0, keepdim=True).expand_as(grouped).flatten(0, 1)
            scores = [path.score(x, one, t) for one in velocities]
            middle = _sum(self.powers, scores) / total
            apart = [(score - middle).square() for score in scores]
            a, b, da, db = (expand_time(c, x) for c in path.coefficients(path.finite_slope_time(t, 1e-3)))
            wide = b * b + (a * self.deviation) ** 2
            slope = expand_time(path.half_variance_slope(t), x) + a * da * self.deviation**2
            away = (x - a * centre) / wide
            density = total * (total - 1) * middle * (middle + away) - _sum(self.powers, apart)
            v = v - (total - 1) * (slope * x + b * (da * b - a * db) * centre) / wide
            g2 = torch.where(path.b(s) > 0, self.solver.diffusion(t), 0.0)
            drift = v + expand_time(g2 / 2, x) * total * middle
            return Move(
                torch.addcmul(x, expand_time(s - t, x), drift),
                expand_time((g2 * (s - t)).sqrt(), x),
                x.new_zeros(len(x)),
                score_weight(path, t, 1e-3) * (s - t) * density.flatten(1).sum(1),
                torch.zeros_like(x),
            )

        return move

    @property
    def evaluations(self) -> int | None:
        return self.candidates * self.steps * len(self.powers)


def systematic(log_weights: Tensor, u: Tensor, n: int) -> Tensor:
    """``n`` indices [n,B] of particles by systematic resampling, for normalised log-weights [K,B] and ``u`` [B].

    index_j = min {k: W_0 + ... + W_k > (j + u) / n};  particle k is taken floor(n W_k) or ceil(n W_k) times
    """
    total = log_weights.exp().cumsum(0)
    points = (torch.arange(n, device=u.device)[:, None] + u) / n * total[-1:]
    found = torch.searchsorted(total.T.contiguous(), points.T.contiguous(), right=True)
    return found.T.clamp(max=len(log_weights) - 1)


def _sum(powers: tuple[float, ...], parts: list[Tensor]) -> Any:
    return sum(power * part for power, part in zip(powers, parts, strict=True))
