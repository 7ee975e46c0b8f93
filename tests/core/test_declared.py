"""What fields declare: flow maps, blocks and traits, through wrappers, compilation and DDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, as_map, in_place_of, is_map, stacks_of, traits_of
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent
from beeline.data.distributions.mixtures import Gaussian
from beeline.density.likelihood import log_prob
from beeline.fields.conversion import Converted
from beeline.fields.flow import Flow, MapNetwork, Network, bind
from beeline.fields.prediction import Ends
from beeline.networks.hooks import block_hooks, named_blocks
from beeline.networks.mlp import MLP
from beeline.networks.tabular import TabularMLP
from beeline.objectives.matching import FlowMatching
from beeline.objectives.second_order import Helped, Potential
from beeline.objectives.tables import RowMatching, columns_of
from beeline.paths.affine import Cosine, Linear, VariancePreserving
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER, FlowMapStep
from beeline.spaces.manifold import Sphere, Tangent
from beeline.training.compute import recomputed

X = Rng(0).normal(torch.empty(6, 2))
T = torch.full((6,), 0.25)


class Doubling(nn.Module):
    """The flow map of dx/dt = x: u(x, t, s) = x (e^(s-t) - 1) / (s - t)."""

    is_flow_map = True

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        h = (t if s is None else s) - t
        return (
            self.one * x * torch.where(h == 0, torch.ones_like(h), torch.expm1(h) / torch.where(h == 0, 1, h))[:, None]
        )


def test_a_flow_map_declares_itself() -> None:
    assert is_map(Doubling()) and is_map(MapNetwork(MLP(2, width=8, depth=1, span=True))) and is_map(bind(Doubling()))
    assert is_map(as_map(lambda x, t, cond=None, s=None: x)) and is_map(CFG(1.0, 0)(Doubling(), torch.zeros(6)))
    # a plain field with a keyword s, or with any number of arguments, is none
    assert not is_map(lambda x, t, cond=None, s=0.0: x) and not is_map(lambda x, t, *s: x)
    assert not is_map(Network(MLP(2, width=8, depth=1, span=True))) and not is_map(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="needs a flow map"):
        integrate(lambda x, t, s=0.0: x, X, torch.tensor([0.0, 1.0]), FlowMapStep())


def test_one_argument_order() -> None:
    seen: list[Any] = []

    def u(x: Tensor, t: Tensor, cond: Any = None, s: Any = None) -> Tensor:
        seen.append((cond, s))
        return x

    cond, s = torch.arange(6), torch.ones(6)
    bind(as_map(u), cond)(X, T, s)
    bind(as_map(u), cond)(X, T)
    assert seen[0] == (cond, s) and seen[1][0] is cond and torch.equal(seen[1][1], T)


def test_a_compiled_map_is_a_map() -> None:
    exact = X * torch.tensor(1.0).exp()
    for field in (torch.compile(Doubling(), backend="eager"), nn.DataParallel(Doubling())):
        assert is_map(field)
        assert torch.allclose(Sampler(1, solver=FlowMapStep())(Flow(field), X), exact, atol=1e-5)


def test_a_map_under_ddp_is_a_map(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        field = nn.parallel.DistributedDataParallel(Doubling())
        assert is_map(field)
        assert torch.allclose(Sampler(2, solver=FlowMapStep())(Flow(field), X), X * torch.tensor(1.0).exp(), atol=1e-5)
        table = nn.parallel.DistributedDataParallel(Network(TabularMLP(((1,), (3,)), width=16)))
        assert columns_of(table) == [[1], [3]] and list(stacks_of(table)) == ["block"]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("path", [Cosine(), VariancePreserving()], ids=str)
def test_a_converted_map_agrees_with_the_converted_field(path: Any) -> None:
    """The map of the exact field of N(0, 2^2), x_t proportional to its deviation, on another path."""
    std = lambda p, t: torch.sqrt(4 * p.a(t) ** 2 + p.b(t) ** 2)  # noqa: E731 - of x_t

    def u(x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        s = t if s is None else s
        here = torch.where(s == t, t + 1e-4, s)
        return x * ((std(Linear(), here) / std(Linear(), t) - 1) / (here - t))[:, None]

    x, (t, s) = X.double(), (torch.full((6,), v, dtype=torch.float64) for v in (0.2, 0.7))
    field = Converted(as_map(u), Linear(), path)
    assert is_map(field)
    jumped = x + (s - t)[:, None] * field(x, t, None, s)
    assert torch.allclose(jumped, x * (std(path, s) / std(path, t))[:, None], atol=1e-8)
    mixed = torch.where(torch.arange(6) < 3, t, s)  # jumps of no length are the velocity
    assert torch.allclose(field(x, t, None, mixed)[:3], Gaussian((0.0, 0.0), 2.0).field(path)(x, t)[:3], atol=1e-3)


def test_what_holds_for_velocities_alone_refuses_a_map() -> None:
    with pytest.raises(ValueError, match="Ends got the flow map"):
        Ends(Doubling(), Independent())
    with pytest.raises(ValueError, match="Potential got the flow map"):
        Potential(Doubling())
    with pytest.raises(ValueError, match="MapNetwork got the prediction Data"):
        from beeline.fields.flow import Data

        MapNetwork(MLP(2, width=8, depth=1, span=True), prediction=Data())


def test_maps_through_wrappers() -> None:
    s, sphere = torch.full((6,), 0.75), Sphere()
    x = sphere.project(X)
    assert torch.equal(Helped(Doubling(), nn.Identity())(X, T, None, s), Doubling()(X, T, None, s))
    made = Tangent(Doubling(), sphere)(x, T, None, s)
    assert is_map(Tangent(Doubling(), sphere))
    assert torch.allclose(made, sphere.tangent(x, Doubling()(x, T, None, s))) and not is_map(
        Tangent(lambda x, t: x, sphere)
    )


def around(kind: str) -> nn.Module:
    net = Network(MLP(2, width=8, depth=3, conditions={"label": {"classes": 3}}))
    return {
        "Tangent": lambda: Tangent(net, Sphere()),
        "Converted": lambda: Converted(net, Linear(), Cosine()),
        "Ends": lambda: Ends(net, Independent()),
        "Potential": lambda: Potential(net),
        "twice": lambda: Tangent(Converted(net, Linear(), Cosine()), Sphere()),
    }[kind]()


@pytest.mark.parametrize("kind", ["Tangent", "Converted", "Ends", "Potential", "twice"])
def test_wrappers_pass_blocks_and_traits_on(kind: str) -> None:
    net = around(kind)
    assert list(named_blocks(net)) == ["block.0", "block.1", "block.2"]
    assert traits_of(net).nulls == {"label": 3}
    seen: list[Tensor] = []
    cond = {"label": torch.tensor([0, 1, 2, 3, 0, 1])}
    with block_hooks(net, {"block.1": lambda h: seen.append(h)}):
        net(X, T, cond)
    assert seen and seen[0].shape == (6, 8)
    grads = []
    for again in (False, True):
        net.zero_grad()
        with recomputed(net, 1) if again else torch.enable_grad():
            nn.init.ones_(net.get_parameter([n for n, _ in net.named_parameters() if n.endswith("out.weight")][0]))
            net(X, T, cond).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert grads[0] and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


class Crowded(nn.Module):
    """A network whose parts have the names of old hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.offsets, self.known = nn.Linear(2, 2), torch.zeros(2), True
        self.settle, self.stacks, self.traits = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        made: Tensor = self.settle(self.groups(x))
        return made


def test_names_of_attributes_mean_nothing() -> None:
    net = Crowded()
    assert columns_of(net) is None and stacks_of(net) == {} and traits_of(net) == Traits() and not is_map(net)
    batch = Batch(X)
    plain = FlowMatching(prediction=RowMatching().prediction)(net, batch, Rng(1)).value
    assert torch.equal(RowMatching()(net, batch, Rng(1)).value, plain)
    import beeline as bl

    trained = bl.fit(net, FlowMatching(), batch, bl.Training(2, batch_size=6), rng=Rng(0))
    assert isinstance(trained, nn.Module)
    assert traits_of(in_place_of(around("Ends"), lambda x, t, cond=None: x)).nulls == {"label": 3}
    assert Declaring().settle(lambda value: value) is None


def test_conditions_are_not_shared_out() -> None:
    """8 data with 4, 2 or 1 labels: refused, in training, likelihood and integration."""
    net = Network(MLP(2, width=8, depth=1, conditions={"label": {"classes": 3}}))
    field = lambda x, t, cond=None: x + cond[:, None]  # noqa: E731 - it would broadcast
    for n in (4, 2, 1):
        for some in (net, field):
            label = torch.zeros(n, dtype=torch.long)
            with pytest.raises(ValueError, match=rf"has {n} rows for a state of 8"):
                FlowMatching()(some, Batch(torch.zeros(8, 2), cond=label), Rng(0))
            with pytest.raises(ValueError, match=rf"has {n} rows for a state of 8"):
                log_prob(Flow(some), torch.zeros(8, 2), label, steps=1, solver=EULER)
            with pytest.raises(ValueError, match=rf"has {n} rows for a state of 8"):
                bind(some, {"label": label})(torch.zeros(8, 2), torch.zeros(8))
    twice = bind(field, torch.tensor([1.0, 2.0]), repeat=True)(torch.zeros(4, 2), torch.zeros(4))
    assert twice[:, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
