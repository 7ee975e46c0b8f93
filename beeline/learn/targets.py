"""Objectives with other targets: latent noise, symbols, velocities of velocities, stages of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from beeline.core.coupling import Coupling, Independent, assign
from beeline.core.declared import Holding, in_place_of
from beeline.core.discrete import TokenMixture
from beeline.core.field import Flow, VelocityField, bind
from beeline.core.integrate import integrate
from beeline.core.interpolant import Interpolant
from beeline.core.modes import eval_mode
from beeline.core.path import Linear
from beeline.core.process import Process
from beeline.core.pyramid import Pyramid
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng, keys_of
from beeline.core.simplex import Dirichlet, GumbelSoftmax, Posterior, SymbolPath, check_simplex
from beeline.core.solver import EULER, HEUN, Solver
from beeline.core.times import TimeSampler, Uniform
from beeline.core.types import Batch, BeelineError, Cond, Loss, map_cond, require, take
from beeline.learn.heads import beside, second
from beeline.learn.objective import Distance, Drop, FlowMatching, Weight, ask, one, squared
from beeline.learn.shapes import Helped


@dataclass(frozen=True)
class LatentNoise:
    """Regression of the latent noise of an interpolant: the denoiser, from which the score follows.

    E weight(t) distance(eta(x_t, t), z);  its minimum is E[z | x_t] = -g grad log p_t
    Assumes an Interpolant path.  The same draw with -z is used as well: the pair halves the variance.  A Helped
    network, as a recipe makes one, learns the velocity too, on the same states; its helper is the denoiser.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> LatentNoise()(lambda x, t: x, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    path: Interpolant = field(default_factory=Interpolant)
    coupling: Coupling = field(default_factory=Independent)
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    distance: Distance = squared
    drop: Drop | None = None

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network, which learns the velocity, and one more like it for the latent noise."""
        return Helped(network, second(network, rng))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        plain = FlowMatching(self.path, self.coupling, weight=self.weight, distance=self.distance, drop=self.drop)
        batch = plain.pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        z = rng.fork("path").normal(batch.x1)
        ends = [self.path.through(batch.x0, batch.x1, t, sign * z) for sign in (1.0, -1.0)]
        (x, v), z, both = (torch.cat(part) for part in zip(*ends, strict=True)), torch.cat([z, -z]), torch.cat([t, t])
        twice = replace(batch, weight=None if batch.weight is None else torch.cat([batch.weight, batch.weight]))
        cond = map_cond(lambda leaf: torch.cat([leaf, leaf]), batch.cond)
        learned = {"velocity": (field.field, v), "latent": (field.helper, z)} if isinstance(field, Helped) else {}
        losses = {
            name: plain.reduce(ask(net, x, both, cond), wanted, both, twice)
            for name, (net, wanted) in (learned or {"error": (field, z)}).items()
        }
        value = torch.stack([loss.value for loss in losses.values()]).sum()
        each = torch.stack([loss.per_sample for loss in losses.values()]).sum(0).unflatten(0, (2, -1)).mean(0)
        terms = {name: loss.terms["error"] for name, loss in losses.items()}
        return Loss(value, {"loss": value.detach(), **terms}, each, t)


@dataclass(frozen=True)
class Classify:
    """Cross entropy of the symbol, from which the velocity on the simplex follows.

    E weight(t) (-log softmax(logits(x_t, t))[x1]), summed over symbols' positions and divided by their number
    Assumes one-hot data [B,*S,K], a simplex or token path, and a Posterior network (a field with ``logits``).  A recipe
    draws tokens with TokenJumps where it names no other solver.
    Source: Stark et al. 2024 (arXiv 2402.05841); Gat et al. 2024 (arXiv 2407.15595).

    >>> from beeline.core.simplex import Dirichlet, Posterior
    >>> net = Posterior(lambda x, t: torch.zeros_like(x), Dirichlet())
    >>> Classify(Dirichlet())(net, Batch(torch.eye(2)), Rng(0)).value
    tensor(0.6931)
    """

    path: SymbolPath = field(default_factory=Dirichlet)
    coupling: Coupling | None = None  # None is the independent one with the source of the path
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    drop: Drop | None = None

    def __post_init__(self) -> None:
        require(
            hasattr(self.path, "sources"),
            f"Classify got the path {self.path}, on which no symbol is asked for; it learns on paths.Dirichlet, "
            "GumbelSoftmax or TokenMixture: take one of them, or FlowMatching for this one",
        )
        fits = self.path.sources()
        if self.coupling is None:
            object.__setattr__(self, "coupling", Independent(fits[0]))
        source = getattr(self.coupling, "source", fits[0])
        known = [other for kind in (Dirichlet(), GumbelSoftmax(), TokenMixture()) for other in kind.sources()]
        require(
            source in fits or type(source) not in {type(other) for other in known},
            f"Classify got the path {self.path} and the source {source}, which belongs to another path; it "
            f"starts from {' or '.join(str(one) for one in fits)}: take that, or coupling=none",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network as a classifier, which is shown logarithms of probabilities."""
        x = batch.x1
        require(
            x.ndim > 2 and bool(((x == 0) | (x == 1)).all()) and bool((x.sum(-1) == 1).all()),
            f"Classify was given data of shape {tuple(x.shape[1:])} that are no symbols, one-hot along the last "
            "dimension; it learns which symbol stands where: take the recipe symbols, or data=SymbolFile(path)",
        )
        return Posterior(network, self.path, logs=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            hasattr(field, "logits"),
            f"Classify was given {type(field).__name__}, which has no logits; it learns what the symbol is: wrap the "
            "network in Posterior(network, path)",
        )
        check_simplex(batch.x1, "the datum")
        assert self.coupling is not None
        batch = FlowMatching(coupling=self.coupling, drop=self.drop).pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x = self.path.state(batch.x0, batch.x1, t, rng.fork("path"))
        logits = field.logits(x, t) if batch.cond is None else field.logits(x, t, batch.cond)
        each = -(batch.x1 * torch.log_softmax(logits, -1)).sum(-1)
        error = each.flatten(1).mean(1) if each.ndim > 1 else each
        per_sample = self.weight(t) * error
        if batch.weight is not None:
            per_sample = per_sample * batch.weight
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), "error": error.detach().mean()}, per_sample.detach(), t)


@dataclass(frozen=True)
class Hierarchical:
    """A flow over velocities: at every state the whole law of the velocity is learned, not its mean.

    v1 = x1 - x0 is the datum of an inner flow from v0 ~ N(0, I), told (x_t, t);
    min E |a(v_tau, tau; x_t, t) - (v1 - v0)|^2
    Assumes a network a(y, tau, cond) that takes the conditions ``state`` (of the shape of the data) and ``time`` [B,1],
    or a RandomVelocity of one.  It is drawn with EULER: fresh velocities averaged within a step have another law.
    ``coupling`` pairs the data; an inner coupling across states would change the law and is refused.
    Source: Zhang et al. 2025, "Towards Hierarchical Rectified Flow" (arXiv 2502.17436).

    >>> inner = lambda y, tau, cond: y * 0 + cond["time"]
    >>> Hierarchical()(inner, Batch(torch.zeros(3, 2)), Rng(0)).per_sample.shape
    torch.Size([3])
    """

    inner: FlowMatching = field(default_factory=FlowMatching)  # how the law of velocities is learned
    outer: FlowMatching = field(default_factory=FlowMatching)  # path, coupling and times of the states

    def __post_init__(self) -> None:
        require(
            self.inner.coupling.independent or isinstance(self.inner.coupling, VelocityOT),
            f"Hierarchical got the inner coupling {type(self.inner.coupling).__name__}; pairing velocities of "
            "different states changes the law at each state: use Independent(), or VelocityOT(...), pairing within one",
        )

    @property
    def coupling(self) -> Coupling:
        """That of the data."""
        return self.outer.coupling

    @property
    def drop(self) -> Drop | None:
        """That of the data."""
        return self.outer.drop

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """A network like the run's that is told state and time, as a field of random velocities."""
        return RandomVelocity(beside(network, "state", rng, {"time": {"size": 1}}))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        net = field.inner if isinstance(field, RandomVelocity) else field
        example = self.outer.examples(batch, rng.fork("outer"), field)
        told: dict[str, Any] = {"state": example.x, "time": example.t[:, None]}
        if example.batch.cond is not None:
            told["cond"] = example.batch.cond
        return self.inner(net, Batch(example.v, cond=told, weight=batch.weight), rng.fork("inner"))


class RandomVelocity(Holding):
    """The velocity field of a hierarchical flow: every evaluation draws a velocity from the inner flow.

    v(x, t) = inner flow from fresh v0, told (x, t), in ``steps`` steps
    Assumes the network of Hierarchical.  Paths may cross, so there is no inverse; the costs multiply.  A Sampler keys
    the inner noise by the bits of each start x0 and by t, so that a sample is a function of its x0, in any batch.
    Source: Zhang et al. 2025 (arXiv 2502.17436).

    >>> field = RandomVelocity(lambda y, tau, cond: 0 * y, Rng(0), steps=2)
    >>> field(torch.zeros(1, 2), torch.zeros(1)).shape
    torch.Size([1, 2])
    """

    parts = ("inner",)

    def __init__(
        self,
        inner: Any,  # a(y, tau, cond)
        rng: Rng = Rng(0),  # noqa: B008 - a value
        steps: int = 5,  # of the inner flow; 2 to 10
        solver: Solver = EULER,  # of the inner flow
    ):
        super().__init__()
        self.inner, self.rng, self.steps, self.solver = inner, rng, steps, solver

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"inner": self.inner, "rng": self.rng, "steps": self.steps, "solver": self.solver}

    def process(self) -> Process:
        return RandomField()

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, keys: Sequence[int] = ()) -> Tensor:
        told: dict[str, Any] = {"state": x, "time": t[:, None]}
        if cond is not None:
            told["cond"] = cond
        rng = self.rng.fork("velocity", float(t.flatten()[0]))
        v0 = rng.rows(keys, x) if keys else rng.normal(x)
        return integrate(bind(self.inner, told), v0, torch.linspace(0, 1, self.steps + 1, dtype=x.dtype), self.solver)


@dataclass(frozen=True)
class RandomField(Process):
    """An equation whose velocities are random: forwards with Euler steps, with noise that belongs to each start."""

    default: Solver = EULER
    invertible = False

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        super().check(flow, solver, times)
        require(
            solver == EULER and bool(times[-1] > times[0]),
            f"a flow of random velocities was to be walked "
            f"{'backwards' if times[-1] <= times[0] else f'with {solver}'}; its paths cross, and velocities "
            "drawn afresh and averaged within a step have another law: draw forwards with EULER",
        )

    def field(self, field: Any, x: Tensor, times: Tensor) -> VelocityField:
        keys = keys_of(x)
        return in_place_of(field, lambda y, t, cond=None: field(y, t, cond, keys * (len(y) // len(keys))))


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
    draws: Count = 8  # velocities per state; 8 to 32
    steps: Count = 8  # of the inner flow
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
    Assumes pictures [B,C,H,W] and one network for all resolutions, such as UNet.
    Source: Jin et al. 2024 (arXiv 2410.05954).

    >>> PyramidMatching()(lambda x, t: x, Batch(torch.zeros(2, 1, 8, 8)), Rng(0)).per_sample.shape
    torch.Size([2])
    """

    pyramid: Pyramid = field(default_factory=Pyramid)
    times: TimeSampler = field(default_factory=Uniform)  # local to the stage
    distance: Distance = squared
    drop: Drop | None = None
    coupling: ClassVar[Coupling] = Independent()

    @property
    def path(self) -> Pyramid:
        """What is walked when drawing."""
        return self.pyramid

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network itself, if it takes pictures of every stage."""
        few = take(batch, torch.arange(1))
        self.pyramid.check(few.x1)
        try:
            with eval_mode(network):
                ask(network, self.pyramid.coarse(few.x1, 0), torch.zeros(1), few.cond)
        except ValueError as error:
            raise BeelineError(
                f"PyramidMatching was given {type(network.backbone).__name__}, which does not take pictures of the "
                f"first stage ({error}); one network works on all resolutions: use networks.UNet, wide "
                "enough and with few levels, or fewer stages"
            ) from None
        made: nn.Module = network
        return made

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        plain = FlowMatching(Linear(), Independent(), distance=self.distance, drop=self.drop)
        batch = plain.pairs(batch, rng, field)
        assert batch.x0 is not None
        stage = int(rng.fork("stage").integers(self.pyramid.stages, 1))
        u = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x, v = self.pyramid.point(batch.x0, batch.x1, stage, u)
        t = self.pyramid.clock(stage, u)
        return plain.reduce(ask(field, x, t, batch.cond), v, t, batch)
