"""Fields with structure: the gradient of a potential, velocity with acceleration, a field with a helper network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Holding, Wrapping, is_map
from beeline.core.errors import require
from beeline.core.modes import full_precision, wide_batch
from beeline.core.protocols.flows import Coupling, TimeSampler
from beeline.core.protocols.objectives import Objective, ObjectiveSpec, spec_of
from beeline.core.protocols.training import Cost
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.couplings.basic import Paired, PairedOrOT
from beeline.fields.flow import bind, evaluate_field
from beeline.objectives.heads import Head, conditioned_on_state
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.losses.distances import PowerCost, check_cost
from beeline.objectives.matching import FlowMatching, ObjectiveBase, ObjectiveWrapper
from beeline.solvers.process import Process
from beeline.solvers.runge_kutta import FlowMapStep
from beeline.times.samplers import Uniform


class Potential(Wrapping):
    """A velocity that is the (transformed) gradient of a potential, with which reflow converges to optimal transport.

    v = grad c*(grad_x f(x, t)),  f = sum of the network's outputs times the state, or its scalar output
    Assumes a smooth network (SiLU, tanh); with ReLU its second derivatives vanish.  An evaluation runs a backward pass.
    Source: Liu 2022 (arXiv 2209.14577).

    >>> Potential(lambda x, t: x)(torch.ones(1, 2), torch.zeros(1)).detach()
    tensor([[2., 2.]])
    """

    inside = "network"

    def __init__(self, network: Any, cost: Cost | None = None):
        super().__init__()
        require(
            not is_map(network),
            f"Potential got the flow map {type(network).__name__}; the gradient of a potential is a velocity at one "
            "time, not an average velocity: give a network with span=False",
        )
        self.network, self.cost = network, cost or PowerCost(2.0)
        probe = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(6, 2)
        check_cost(self.cost, probe)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"network": self.network, "cost": self.cost}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            y = x if x.requires_grad else x.detach().requires_grad_(True)
            output = bind(self.network, cond)(y, t)
            # an output of the state's shape gives the potential <net(x), x>
            potential = (output * y).sum() if output.shape == y.shape else output.sum()
            (slope,) = torch.autograd.grad(potential, y, create_graph=learning)
        v = self.cost.dual(slope)
        return v if learning else v.detach()


class SecondOrder(Holding):
    """Initial velocity and acceleration, two networks, as one flow map with a quadratic step.

    u(x, t, cond, s) = V(x, t) + (t + s)/2 A(x, t, V(x, t)),  x_s = x + (s - t) u
    Assumes pairs; A takes the velocity as the condition ``velocity``.  FlowMapStep() in one step from 0 is the sampler
    of the paper; in several steps V is evaluated again at every state.
    Source: Park et al. 2024, "Constant Acceleration Flow" (arXiv 2411.00322).

    >>> net = SecondOrder(lambda x, t: x, lambda x, t, cond: cond["velocity"])
    >>> net(torch.ones(1, 1), torch.zeros(1), s=torch.ones(1))
    tensor([[1.5000]])
    """

    parts = ("velocity", "acceleration")
    is_flow_map = True

    def __init__(self, velocity: Any, acceleration: Any):
        super().__init__()
        self.velocity, self.acceleration = velocity, acceleration

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"velocity": self.velocity, "acceleration": self.acceleration}

    def process(self) -> Process:
        return Process(FlowMapStep())

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        v = evaluate_field(self.velocity, x, t, cond)
        return v + expand_time((t + (t if s is None else s)) / 2, x) * self.accelerate(x, t, v, cond)

    def accelerate(self, x: Tensor, t: Tensor, v: Tensor, cond: Cond = None) -> Tensor:
        """A(x, t, v)."""
        given: dict[str, Any] = {"velocity": v}
        if isinstance(cond, Mapping):
            given = {**cond, **given}
        elif cond is not None:
            given["cond"] = cond
        return evaluate_field(self.acceleration, x, t, given)


@dataclass(frozen=True)
class ConstantAccelerationMatching(ObjectiveBase):
    """Constant acceleration flow: regression of initial velocity and acceleration of curved paths between pairs.

    E |V(x_t, t) - h (x1 - x0)|^2 on the path with v0 = h (x1 - x0), and
    E |A(x'_t, t, v) - 2 (x1 - x0 - v)|^2 on x'_t = (1 - t^2) x0 + t^2 x1 + (t - t^2) v with v = sg V(x0, 0)
    Assumes nearly deterministic pairs, from reflow or optimal transport, and a SecondOrder network.  Recipes that name
    no solver sample with FlowMapStep().
    Source: Park et al. 2024 (arXiv 2411.00322).

    >>> net = SecondOrder(lambda x, t: x, lambda x, t, cond: x)
    >>> ConstantAccelerationMatching()(net, Batch(torch.ones(2, 1), torch.zeros(2, 1)), Rng(0)).per_sample.shape
    torch.Size([2])
    """

    speed: Positive = 1.5  # h, initial velocity in units of x1 - x0; 1 to 1.5
    coupling: Coupling = field(default_factory=PairedOrOT)
    times: TimeSampler = field(default_factory=Uniform)
    distance: Distance = squared

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(
            super().spec, coupling=self.coupling, wrap=self.wrap, baselines=False
        )  # baselines have no acceleration

    def __post_init__(self) -> None:
        require(
            not self.coupling.independent,
            f"ConstantAccelerationMatching got the coupling {type(self.coupling).__name__}; on independent pairs both "
            "networks learn means, and more steps lead away from the data: use PairedOrOT(), or pairs of reflow",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network, and a second one like it that is conditioned on the velocity."""
        return SecondOrder(network, conditioned_on_state(network, "velocity", rng))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, SecondOrder),
            f"ConstantAccelerationMatching got a {type(field).__name__}; it trains two networks: give "
            "SecondOrder(velocity, acceleration)",
        )
        batch = wide_batch(batch)
        with full_precision(batch.x1.device):
            batch = self.coupling(batch, rng.fork("coupling"))
        x0, x1 = batch.x0, batch.x1
        assert x0 is not None
        t = self.times(len(x1), x1, rng.fork("times"))
        wide, whole = expand_time(t, x1), x1 - x0

        def state(v: Tensor) -> Tensor:
            return (1 - wide**2) * x0 + wide**2 * x1 + (wide - wide**2) * v

        plain = FlowMatching(distance=self.distance)
        start = self.speed * whole
        first = plain.reduce(evaluate_field(field.velocity, state(start), t, batch.cond), start, t, batch)
        with torch.no_grad():
            v = evaluate_field(field.velocity, x0, torch.zeros_like(t), batch.cond)
        bent = 2 * (whole - v)
        second = plain.reduce(field.accelerate(state(v), t, v, batch.cond), bent, t, batch)
        terms = {"velocity": first.terms["error"], "acceleration": second.terms["error"]}
        value = first.value + second.value
        return Loss(value, {"loss": value.detach(), **terms}, first.per_sample + second.per_sample, t)


class Helped(Holding):
    """A field with an auxiliary network that is used in training alone.

    v = field(x, t, cond);  ``helper`` is an encoder of the source, a projector or a probe
    Assumes an objective that trains the helper.

    >>> Helped(lambda x, t: -x, nn.Identity())(torch.ones(1, 1), torch.zeros(1))
    tensor([[-1.]])
    """

    parts = ("field", "helper")

    def __init__(self, field: Any, helper: Any):
        super().__init__()
        self.field, self.helper = field, helper

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "helper": self.helper}

    @property
    def is_flow_map(self) -> bool:  # type: ignore[override]
        return is_map(self.field)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        end = () if s is None or not is_map(self.field) else (s,)
        return bind(self.field, cond)(x, t, *end)


@dataclass(frozen=True)
class EncodedSource(ObjectiveWrapper):
    """Variational noise coupling: x0 is sampled from a learned encoder of x1, regularised towards the Gaussian.

    x0 = m(x1) + s(x1) n,  (m, log s) = helper(x1);  loss + strength KL(N(m, s^2) || N(0, I)) / D
    ``objective`` is FlowMatching, or one of flow maps such as Consistency(coupling=Paired()), whose sampler in several
    steps is ConsistencyStep with the helper as its encoder.
    Assumes a Helped network whose helper gives two numbers per coordinate, [B, 2, *S], and a Gaussian source.  With a
    small strength parts of the Gaussian are never seen in training.
    Source: Silvestri et al. 2025, "Variational Noise Coupling" (arXiv 2502.18197).

    >>> net = Helped(lambda x, t: x, lambda x: torch.zeros(len(x), 2, *x.shape[1:]))
    >>> EncodedSource()(net, Batch(torch.zeros(3, 2)), Rng(0)).terms["kl"]
    tensor(0.)
    """

    objective: Objective = field(default_factory=lambda: FlowMatching(coupling=Paired()))
    strength: NonNegative = 1.0  # of the KL, in nats per coordinate; 0.3 to 30

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines have no encoder

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with an encoder, which is initialised to the Gaussian."""
        shape = batch.x1.shape[1:]
        with rng.ambient():
            return Helped(network, Head(shape.numel(), (2, *shape), width=128, still=True))

    def __post_init__(self) -> None:
        require(
            isinstance(spec_of(self.objective).coupling, Paired),
            f"EncodedSource got an objective with {type(spec_of(self.objective).coupling).__name__}, which samples x0 "
            "itself; here x0 comes from the encoder: use FlowMatching(coupling=Paired())",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, Helped),
            f"EncodedSource got a {type(field).__name__}; it trains an encoder beside the field: give "
            "Helped(field, encoder)",
        )
        batch = wide_batch(batch)
        moments = field.helper(batch.x1)
        require(
            moments.shape == (len(batch.x1), 2, *batch.x1.shape[1:]),
            f"the encoder gave the shape {tuple(moments.shape)} for data of {tuple(batch.x1.shape)}; EncodedSource "
            "needs mean and log scale of every coordinate: return [B, 2, *S]",
        )
        mean, log = moments.unbind(1)
        x0 = mean + log.exp() * rng.fork("source").normal(batch.x1)
        each = (mean.square() + (2 * log).exp() - 1 - 2 * log).flatten(1).mean(1) / 2
        loss = self.objective(field.field, replace(batch, x0=x0), rng)
        kl = each.mean()
        terms = {**loss.terms, "kl": kl.detach()}
        return Loss(loss.value + self.strength * kl, terms, loss.per_sample, loss.t)
