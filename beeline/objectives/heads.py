"""Heads and second networks, which objectives add to the network of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Describing, Holding, Traits, traits_of
from beeline.core.errors import require
from beeline.core.protocols.objectives import spec_of
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow, Network, bind
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import process_of
from beeline.solvers.runge_kutta import HEUN


class Head(nn.Module):
    """A linear layer or a small MLP from features to outputs of any shape: a probe, an encoder, a refiner.

    output = W h,  or W2 silu(W1 h) with a width
    Assumes features with ``size`` coordinates per sample; they are flattened.

    >>> Head(4, (2, 3))(torch.zeros(5, 4)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        size: int,  # inputs per sample
        shape: Sequence[int],  # of the output, per sample
        width: int = 0,  # of the hidden layer; 0 for none
        still: bool = False,  # whether the output is initialised to zero
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "width": width, "still": still}
        last = nn.Linear(width or size, math.prod(shape))
        if still:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), last) if width else nn.Sequential(last)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor) -> Tensor:
        output: Tensor = self.layers(h.flatten(1))
        return output.reshape(len(h), *self.settings["shape"])


class Beside(Holding):
    """A network conditioned on another state of the data's shape by channel concatenation.

    output = the first half of network([y, state], t, cond)
    Assumes a network for data whose first dimension is twice as long, and the condition ``name`` [B,*S]; labels that
    are not given are null.

    >>> Beside(lambda x, t: x, "state")(torch.ones(1, 2), torch.zeros(1), {"state": torch.zeros(1, 2)})
    tensor([[1., 1.]])
    """

    parts = ("network",)

    @property
    def traits(self) -> Traits:
        """The nulls of the network; its columns are those of two states, so none are declared."""
        return Traits(nulls=traits_of(self.network).nulls)

    def __init__(self, network: Any, name: str):
        super().__init__()
        self.network, self.name = network, name

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"network": self.network, "name": self.name}

    def forward(self, y: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        given: dict[str, Any] = dict(cond) if isinstance(cond, Mapping) else {}
        require(
            self.name in given and given[self.name].shape == y.shape,
            f"a network conditioned on {self.name!r} got the conditions {sorted(given)} for data of {tuple(y.shape)}; "
            "it concatenates another state of that shape: pass it as that condition",
        )
        both = torch.cat([y, given.pop(self.name)], 1)
        output: Tensor = bind(self.network, self._rest(given, len(y), y.device))(both, t)
        return output[:, : y.shape[1]]

    def _rest(self, given: dict[str, Any], n: int, device: torch.device) -> Cond:
        """The other conditions, with those under ``cond``, and null labels where they are missing."""
        inner = given.pop("cond", None)
        known = settings_of(self.network).get("conditions") or {}
        if isinstance(inner, Tensor):  # a bare tensor is the only condition
            inner = {name: inner for name in known if name not in given}
        void = {k: torch.full((n,), v["classes"], device=device) for k, v in known.items() if "classes" in v}
        return {**void, **given, **(inner or {})} or None


def settings_of(network: Any) -> dict[str, Any]:
    """The settings of the backbone of a Network; {} where there is no backbone, or one without ``describe``."""
    backbone = network.backbone if isinstance(network, Network) else None
    return dict(backbone.describe()) if isinstance(backbone, Describing) else {}


def conditioned_on_state(network: Any, name: str, rng: Rng, more: Mapping[str, Any] | None = None) -> Beside:
    """A second network like that of a run, conditioned on another state ``name`` and on the vectors ``more``."""
    given = settings_of(network)
    conditions = {**(given.get("conditions") or {}), **(more or {})}
    require(
        bool(given.get("shape")),
        f"{type(network.backbone).__name__} was to be conditioned on {name!r}, another state of the data, and does not "
        "describe their shape, along which the state is concatenated: use networks.MLP, UNet or DiT",
    )
    taken = {name, "cond", *(more or {})} & set(given.get("conditions") or {})
    require(
        not taken,
        f"the data have the condition {sorted(taken)}, a name that the second network uses for another input; rename "
        "that condition of the data",
    )
    given |= {"shape": [2 * given["shape"][0], *given["shape"][1:]], "conditions": conditions}
    given |= {"size": None} if "size" in given else {}
    given |= {"groups": [*given["groups"], *given["groups"]]} if "groups" in given else {}
    given |= {"span": False} if "span" in given else {}
    with rng.ambient():
        backbone = type(network.backbone)(**given)
    return Beside(Network(backbone), name)


def second_network(network: Any, rng: Rng) -> Network:
    """A second network like that of a run, with its own weights and plain outputs."""
    given = settings_of(network)
    given |= {"span": False} if "span" in given else {}
    with rng.ambient():
        return Network(type(network.backbone)(**given))


def run_sampler(objective: Any, sampler: Sampler, flow: Flow) -> Sampler:
    """The sampler of a run, with its default solver and guidance replaced by those of the objective and the flow."""
    spec = spec_of(objective)
    solver = spec.solver or process_of(flow).default_solver
    if solver is not None and sampler.solver == HEUN:
        sampler = replace(sampler, solver=solver)
    if spec.guidance is not None and sampler.guidance == Plain():
        sampler = replace(sampler, guidance=spec.guidance)
    return sampler
