"""Objectives with other targets: latent noise, symbols, velocities of velocities, stages of a pyramid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from beeline.core.coupling import Coupling, Independent, assign
from beeline.core.field import bind
from beeline.core.integrate import integrate
from beeline.core.interpolant import Interpolant
from beeline.core.path import Linear, Path
from beeline.core.pyramid import Pyramid
from beeline.core.rng import Rng
from beeline.core.simplex import Dirichlet, Simplex, check_simplex
from beeline.core.solver import EULER, HEUN, Solver
from beeline.core.times import TimeSampler, Uniform
from beeline.core.types import Batch, Cond, Loss, map_cond, over, require
from beeline.learn.objective import Distance, Drop, FlowMatching, Weight, ask, one, squared


@dataclass(frozen=True)
class LatentNoise:
    """Regression of the latent noise of an interpolant: the denoiser, from which the score follows.

    E weight(t) distance(eta(x_t, t), z);  its minimum is E[z | x_t] = -g grad log p_t
    Assumes an Interpolant path.  The same draw with -z is used as well: the pair halves the variance.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> LatentNoise()(lambda x, t: x, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    path: Interpolant = field(default_factory=Interpolant)
    coupling: Coupling = field(default_factory=Independent)
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    distance: Distance = squared
    program: ClassVar[str] = "benchmarks/claims/c543.py"  # it learns a score, not a velocity

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        batch = self.coupling(batch, rng.fork("coupling"))
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        z = rng.fork("path").normal(batch.x1)
        plain = FlowMatching(weight=self.weight, distance=self.distance)
        both = []
        for sign in (1.0, -1.0):
            x = self.path.path.point(batch.x0, batch.x1, t).x + sign * over(self.path.latent.size(t), z) * z
            both.append(plain.reduce(ask(field, x, t, batch.cond), sign * z, t, batch))
        first, second = both
        value = (first.value + second.value) / 2
        terms = {name: (first.terms[name] + second.terms[name]) / 2 for name in first.terms}
        return Loss(value, terms, (first.per_sample + second.per_sample) / 2, t)


@dataclass(frozen=True)
class Classify:
    """Cross entropy of the symbol, from which the velocity on the simplex follows.

    E weight(t) (-log softmax(logits(x_t, t))[x1]), summed over symbols' positions and divided by their number
    Assumes one-hot data [B,*S,K], a simplex or token path, and a Posterior network (a field with ``logits``).
    Source: Stark et al. 2024 (arXiv 2402.05841); Gat et al. 2024 (arXiv 2407.15595).

    >>> from beeline.core.simplex import Dirichlet, Posterior
    >>> net = Posterior(lambda x, t: torch.zeros_like(x), Dirichlet())
    >>> Classify(Dirichlet())(net, Batch(torch.eye(2)), Rng(0)).value
    tensor(0.6931)
    """

    path: Path = field(default_factory=Dirichlet)
    coupling: Coupling = field(default_factory=lambda: Independent(Simplex()))  # with the source of the path
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    drop: Drop | None = None
    program: ClassVar[str] = "benchmarks/claims/c522.py"  # its data are one-hot symbols

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            hasattr(field, "logits"),
            f"Classify was given {type(field).__name__}, which has no logits; it learns what the symbol is: wrap the "
            "network in Posterior(network, path)",
        )
        check_simplex(batch.x1, "the datum")
        plain = FlowMatching(self.path, self.coupling, self.times, weight=self.weight, drop=self.drop)
        example = plain.examples(batch, rng)
        cond = example.batch.cond
        logits = field.logits(example.x, example.t) if cond is None else field.logits(example.x, example.t, cond)
        each = -(example.batch.x1 * torch.log_softmax(logits, -1)).sum(-1)
        error = each.flatten(1).mean(1) if each.ndim > 1 else each
        per_sample = self.weight(example.t) * error
        if batch.weight is not None:
            per_sample = per_sample * batch.weight
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), "error": error.detach().mean()}, per_sample.detach(), example.t)


@dataclass(frozen=True)
class Hierarchical:
    """A flow over velocities: at every state the whole law of the velocity is learned, not its mean.

    v1 = x1 - x0 is the datum of an inner flow from v0 ~ N(0, I), told (x_t, t);
    min E |a(v_tau, tau; x_t, t) - (v1 - v0)|^2
    Assumes a network a(y, tau, cond) that takes the conditions ``state`` (of the shape of the data) and ``time`` [B,1].
    ``coupling`` pairs the data; an inner coupling across states would change the law and is refused.
    Source: Zhang et al. 2025, "Towards Hierarchical Rectified Flow" (arXiv 2502.17436).

    >>> inner = lambda y, tau, cond: y * 0 + cond["time"]
    >>> Hierarchical()(inner, Batch(torch.zeros(3, 2)), Rng(0)).per_sample.shape
    torch.Size([3])
    """

    inner: FlowMatching = field(default_factory=FlowMatching)  # how the law of velocities is learned
    outer: FlowMatching = field(default_factory=FlowMatching)  # path, coupling and times of the states
    program: ClassVar[str] = "benchmarks/claims/c070.py"  # its network is told states, and draws by RandomVelocity

    def __post_init__(self) -> None:
        require(
            self.inner.coupling.independent or isinstance(self.inner.coupling, VelocityOT),
            f"Hierarchical got the inner coupling {type(self.inner.coupling).__name__}; pairing velocities of "
            "different states changes the law at each state: use Independent(), or VelocityOT(...), pairing within one",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.outer.examples(batch, rng.fork("outer"))
        told: dict[str, Any] = {"state": example.x, "time": example.t[:, None]}
        if example.batch.cond is not None:
            told["cond"] = example.batch.cond
        return self.inner(field, Batch(example.v, cond=told, weight=batch.weight), rng.fork("inner"))


@dataclass(frozen=True)
class RandomVelocity:
    """The velocity field of a hierarchical flow: every evaluation draws a velocity from the inner flow.

    v(x, t) = inner flow from fresh v0, told (x, t), in ``steps`` steps
    Assumes the network of Hierarchical.  Paths may cross, so there is no inverse; the costs multiply.
    Source: Zhang et al. 2025 (arXiv 2502.17436).

    >>> field = RandomVelocity(lambda y, tau, cond: 0 * y, Rng(0), steps=2)
    >>> field(torch.zeros(1, 2), torch.zeros(1)).shape
    torch.Size([1, 2])
    """

    inner: Any  # a(y, tau, cond)
    rng: Rng
    steps: int = 5  # of the inner flow
    solver: Solver = EULER

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        told: dict[str, Any] = {"state": x, "time": t[:, None]}
        if cond is not None:
            told["cond"] = cond
        v0 = self.rng.fork("velocity", float(t.flatten()[0])).normal(x)
        return integrate(bind(self.inner, told), v0, torch.linspace(0, 1, self.steps + 1, dtype=x.dtype), self.solver)


@dataclass(frozen=True)
class VelocityOT:
    """Optimal transport between inner noises and velocities drawn at one and the same state.

    at each state: ``draws`` velocities by the inner flow ``field``, assigned to ``draws`` noises; one pair is kept
    Assumes a trained inner field a(y, tau, cond); the velocities are its own, so its errors are learned.
    Source: Zhang et al. 2025, "Hierarchical Rectified Flow Matching with Mini-Batch Couplings" (arXiv 2507.13350).

    >>> ot = VelocityOT(lambda y, tau, cond: 0 * y, draws=4, steps=1)
    >>> ot(Batch(torch.zeros(3, 1), cond={"state": torch.zeros(3, 1)}), Rng(0)).x0.shape
    torch.Size([3, 1])
    """

    field: Any = None  # the inner field of a first stage
    draws: int = 8  # velocities per state; 8 to 32
    steps: int = 8  # of the inner flow
    independent = False

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        require(
            self.field is not None and batch.cond is not None,
            "VelocityOT pairs velocities that a trained inner flow draws at one state; it was given "
            f"{'no field' if self.field is None else 'no states'}: use it inside Hierarchical, with field=the "
            "inner flow of a first stage",
        )
        n, m = len(batch.x1), self.draws
        many = map_cond(lambda leaf: leaf.repeat_interleave(m, 0), batch.cond)
        v0 = rng.fork("velocities").normal(batch.x1.repeat_interleave(m, 0))
        with torch.no_grad():
            v1 = integrate(bind(self.field, many), v0, torch.linspace(0, 1, self.steps + 1, dtype=v0.dtype), HEUN)
        noise = rng.fork("noises").normal(v0)
        pick = rng.fork("kept").integers(m, n)
        x0, x1 = [], []
        for i in range(n):
            rows = slice(i * m, (i + 1) * m)
            order = assign(noise[rows], v1[rows])
            x0.append(noise[rows][order[pick[i]]])
            x1.append(v1[rows][pick[i]])
        return replace(batch, x0=torch.stack(x0), x1=torch.stack(x1).to(batch.x1.dtype))


@dataclass(frozen=True)
class PyramidMatching:
    """Flow matching over the stages of a pyramid of resolutions.

    a stage k for the whole batch, u ~ times:  E |v(x, clock_k(u)) - (end_k - start_k)|^2
    Assumes pictures [B,C,H,W] and one network for all resolutions.
    Source: Jin et al. 2024 (arXiv 2410.05954).

    >>> PyramidMatching()(lambda x, t: x, Batch(torch.zeros(2, 1, 8, 8)), Rng(0)).per_sample.shape
    torch.Size([2])
    """

    pyramid: Pyramid = field(default_factory=Pyramid)
    times: TimeSampler = field(default_factory=Uniform)  # local to the stage
    distance: Distance = squared
    drop: Drop | None = None
    program: ClassVar[str] = "benchmarks/claims/c111.py"  # it draws stage by stage

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        plain = FlowMatching(Linear(), Independent(), distance=self.distance, drop=self.drop)
        batch = plain.pairs(batch, rng)
        assert batch.x0 is not None
        stage = int(rng.fork("stage").integers(self.pyramid.stages, 1))
        u = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x, v = self.pyramid.point(batch.x0, batch.x1, stage, u)
        t = self.pyramid.clock(stage, u)
        return plain.reduce(ask(field, x, t, batch.cond), v, t, batch)
