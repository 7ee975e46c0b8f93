"""Heads beside a network that a run has built: what an objective's ``wrap`` puts around it."""

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
    """A small network from features to numbers of any shape: a probe, an encoder, a refiner.

    output = W h,  or W2 silu(W1 h) with a width
    Assumes features [B,size], or data of that many coordinates (flattened inside).
    Source: none.

    >>> Head(4, (2, 3))(torch.zeros(5, 4)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        size: int,  # numbers that come in, per sample
        shape: Sequence[int],  # of what goes out, per sample
        width: int = 0,  # of the layer between; 0 for none
        still: bool = False,  # whether it starts at zero
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
        made: Tensor = self.layers(h.flatten(1))
        return made.reshape(len(h), *self.settings["shape"])


class Beside(Holding):
    """A network that is told another state of the data's shape, put beside its own along the first dimension.

    output = the first half of network([y, state], t, cond)
    Assumes a network for data whose first dimension is twice as long, and the condition ``name`` [B,*S]; a label that
    is not given is the null one.
    Source: none; conditioning by concatenation.

    >>> Beside(lambda x, t: x, "state")(torch.ones(1, 2), torch.zeros(1), {"state": torch.zeros(1, 2)})
    tensor([[1., 1.]])
    """

    parts = ("network",)

    @property
    def traits(self) -> Traits:
        """Its nulls; the columns are those of two states."""
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
            f"a network that is told {self.name!r} was given {sorted(given)} beside data of {tuple(y.shape)}; it needs "
            "another state of their shape: pass it as that condition",
        )
        both = torch.cat([y, given.pop(self.name)], 1)
        made: Tensor = bind(self.network, self._rest(given, len(y), y.device))(both, t)
        return made[:, : y.shape[1]]

    def _rest(self, given: dict[str, Any], n: int, device: torch.device) -> Cond:
        """The other conditions, those under ``cond`` among them, with the null label where one is missing."""
        inner = given.pop("cond", None)
        known = settings_of(self.network).get("conditions") or {}
        if isinstance(inner, Tensor):  # a bare one stands for the only one
            inner = {name: inner for name in known if name not in given}
        void = {k: torch.full((n,), v["classes"], device=device) for k, v in known.items() if "classes" in v}
        return {**void, **given, **(inner or {})} or None


def settings_of(network: Any) -> dict[str, Any]:
    """The settings of the backbone of a Network; {} where there is no backbone, or one without ``describe``."""
    backbone = network.backbone if isinstance(network, Network) else None
    return dict(backbone.describe()) if isinstance(backbone, Describing) else {}


def beside(network: Any, name: str, rng: Rng, more: Mapping[str, Any] | None = None) -> Beside:
    """A second network like a run's own, which is told another state as ``name`` and the vectors ``more``."""
    given = settings_of(network)
    told = {**(given.get("conditions") or {}), **(more or {})}
    require(
        bool(given.get("shape")),
        f"{type(network.backbone).__name__} was to be told {name!r}, another state of the data, but it says nothing of "
        "their shape, so that the state has no place beside them: use networks.MLP, UNet or DiT",
    )
    taken = {name, "cond", *(more or {})} & set(given.get("conditions") or {})
    require(
        not taken,
        f"the data have the condition {sorted(taken)}, a name under which a second network is told something else; "
        "name that condition otherwise",
    )
    given |= {"shape": [2 * given["shape"][0], *given["shape"][1:]], "conditions": told}
    given |= {"size": None} if "size" in given else {}
    given |= {"groups": [*given["groups"], *given["groups"]]} if "groups" in given else {}
    given |= {"span": False} if "span" in given else {}
    with rng.ambient():
        backbone = type(network.backbone)(**given)
    return Beside(Network(backbone), name)


def second(network: Any, rng: Rng) -> Network:
    """A second network like a run's own, with weights of its own, that puts out plain values."""
    given = settings_of(network)
    given |= {"span": False} if "span" in given else {}
    with rng.ambient():
        return Network(type(network.backbone)(**given))


def drawn_by(objective: Any, sampler: Sampler, flow: Flow) -> Sampler:
    """The sampler of a run; its defaults give way to the solver and guidance that draw what the objective learns."""
    spec = spec_of(objective)
    solver = spec.solver or process_of(flow).default_solver
    if solver is not None and sampler.solver == HEUN:
        sampler = replace(sampler, solver=solver)
    if spec.guidance is not None and sampler.guidance == Plain():
        sampler = replace(sampler, guidance=spec.guidance)
    return sampler
