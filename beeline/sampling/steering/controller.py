"""The base of controllers, and what they compute from a drift and an energy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.protocols.steering import Controller, Energy, FullController, Run
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath


class ControllerBase:
    """Base of controllers: it changes nothing, has no memory and no noise, and evaluates the drift once."""

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return f

    def correct(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def for_run(self, run: Run) -> Controller:
        return self

    def calls(self, t: float) -> int:
        return 1

    def correction_calls(self, t: float) -> int:
        return 0

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Controller:
        return self

    def for_rows(self, start: int, end: int) -> Controller:
        return self


class OfRun(ControllerBase):
    """A controller of two functions, whose closures hold the memory of one run."""

    def __init__(
        self,
        steer: Callable[[Dynamics, Flow], Dynamics] = lambda f, flow: f,
        correct: Callable[[Tensor, Tensor], Tensor] = lambda x, t: x,
    ):
        self._steer, self._correct = steer, correct

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return self._steer(f, flow)

    def correct(self, x: Tensor, t: Tensor) -> Tensor:
        return self._correct(x, t)


class _Completed(ControllerBase):
    """A controller of the two members ``steer`` and ``correct``, with the defaults of the others."""

    def __init__(self, controller: Controller):
        self.controller = controller

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return self.controller.steer(f, flow)

    def correct(self, x: Tensor, t: Tensor) -> Tensor:
        return self.controller.correct(x, t)


def complete_controller(controller: Controller) -> FullController:
    """The controller with all members of a FullController; one that has them all is returned unchanged."""
    return controller if isinstance(controller, FullController) else _Completed(controller)


def affine_path(flow: Flow, whose: str) -> AffinePath:
    """The path of a flow; raises ValueError where its velocity does not give a prediction of the datum."""
    require(
        isinstance(flow.path, AffinePath) and not is_map(flow.field),
        f"{whose} got a {'flow map' if is_map(flow.field) else 'flow'} on {type(flow.path).__name__}; it predicts the "
        "datum from a velocity on an affine path: use a velocity field on a path such as Linear()",
    )
    assert isinstance(flow.path, AffinePath)
    return flow.path


def score_weight(path: AffinePath, t: Tensor, least: float = 1e-2) -> Tensor:
    """w(t) of the change w(t) grad log h(x) of a velocity that conditions its flow on h, with t at least ``least``.

    w = b (a' b - a b') / a, on the straight path (1 - t) / t
    """
    a, b, da, db = path.coefficients(path.finite_slope_time(t.clamp(min=least), 1e-3))
    return b * (da * b - a * db) / a


def energies_of(energy: Energy, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """The energies [B] of data ``x1`` [B,*S]; raises ValueError for another shape and for values that are not finite.

    ``t`` has one row for each sample or is repeated; so has ``cond``.
    """
    value = energy(x1, t, cond)
    name = _name(energy)
    require(
        isinstance(value, Tensor) and value.shape == (len(x1),),
        f"the energy {name} returned {_described(value)} for {len(x1)} samples; steering needs one number for each "
        f"sample: return a tensor of shape [{len(x1)}], for example loss.flatten(1).mean(1)",
    )
    check_values(
        value.isfinite().all(),
        lambda: (
            f"the energy {name} returned NaN or an infinite value; samples cannot be led by it: check it on "
            "predicted data, which are blurred at early times, or clamp its logarithms"
        ),
    )
    return value


class Descent(NamedTuple):
    """An energy and its gradients, without a graph."""

    value: Tensor  # [B]
    slope: Tensor  # [B,*S] gradient in the state
    data: Tensor  # [B,*S]
    at_data: Tensor  # [B,*S] gradient in the data


def descent(energy: Energy, data: Callable[[Tensor], Tensor], x: Tensor, t: Tensor, cond: Cond = None) -> Descent:
    """The energies of ``data(x)`` [B,*S] and their gradients with respect to ``x`` [B,*S].

    A gradient is taken inside, whatever the mode of the caller; none of the results has a graph.  Raises ValueError
    where the energy is not differentiable.
    """
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        x1 = data(state)
        value = energies_of(energy, x1, t, cond)
        require(
            value.requires_grad,
            f"the energy {_name(energy)} returned a tensor without gradient; this controller follows its gradient: "
            "compute it from x1 with differentiable operations and without detach(), or use a controller that compares "
            "samples, such as Particles",
        )
        slope, at_data = torch.autograd.grad(value.sum(), (state, x1), allow_unused=True)
    require(
        slope is not None,
        f"the energy {_name(energy)} does not depend on the predicted data; compute it from x1",
    )
    return Descent(value.detach(), slope, x1.detach(), at_data)


def _name(energy: Any) -> str:
    return energy.__name__ if inspect.isfunction(energy) else type(energy).__name__


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
