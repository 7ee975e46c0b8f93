"""Controls: what the picture of a hint adds to the tokens of a frozen flow transformer."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.networks.adapters.amounts import Amount
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import After, ControlOf

Ask: TypeAlias = Callable[[ControlOf], None]
"""Evaluates the network without its controls at time 1, with a change of the forward pass that was begun."""


class Control(Protocol):
    """How a hint acts on a network: a setting that builds the module for one network.

    A hint is a picture [B,C,*sides] in [-1, 1] with the sides of the datum.  The module starts as no change.
    """

    def build(self, net: FlowTransformer, channels: int, name: str) -> ControlModule:
        """The module for hints with so many channels; random numbers come from torch's ambient generator.

        ``name`` is that of the control, different from those that the network has.  Raises ValueError for a network
        that the control does not fit.
        """
        ...


class ControlModule(nn.Module, ABC):
    """What a control does in an evaluation, in two parts: what the hint says, and what follows for one state."""

    of_condition: ClassVar[bool] = False  # whether what is read also depends on the other conditions

    @abstractmethod
    def read(self, hint: Tensor, ask: Ask) -> Any:
        """What depends on the hint [B,C,*sides] alone: it is kept over the steps of a sampler."""

    @abstractmethod
    def act(self, read: Any, stages: Stages, gain: Tensor) -> tuple[Stages, After]:
        """The changed forward pass, and what is changed after visits; ``gain`` [B,1,1] is the strength of every row."""


class PlacedModule(ControlModule):
    """A control that adds, after some visits, the output of a layer of their own."""

    places: tuple[int, ...]  # numbers of visits
    out: nn.ModuleList  # the layers, in the same order


def adding(make: Callable[[Tensor], Tensor], gain: Tensor) -> Callable[[Tensor, int], Tensor]:
    """h <- h + gain make(h) for the tokens of the datum."""

    def after(h: Tensor, n: int) -> Tensor:
        own = h[:, :n]
        made = torch.addcmul(own, gain.to(h.dtype), make(own).to(h.dtype))
        return made if n == h.shape[1] else torch.cat([made, h[:, n:]], 1)

    return after


def added(made: Tensor, gain: Tensor) -> Callable[[Tensor, int], Tensor]:
    """h <- h + gain made for the tokens of the datum."""
    return adding(lambda own: made, gain)


def check_plain(net: FlowTransformer, control: Control) -> None:
    """Refuse a network whose blocks are not visited one after the other, each with all tokens."""
    require(
        net.visit.plain,
        f"{type(control).__name__} got a network with plan={type(net.plan).__name__}, and evaluates blocks itself in "
        "the order of their numbers: use a network with plan=Plain, or the control T2IAdapter",
    )


def places_of(net: FlowTransformer, places: tuple[int, ...], control: Control) -> tuple[int, ...]:
    """Numbers of visits of blocks; ValueError for those that the network does not have."""
    count = len(net.visits)
    require(
        all(0 <= k < count for k in places) and len(set(places)) == len(places),
        f"{type(control).__name__} got places={list(places)} for a network with {count} visits of blocks; give "
        f"different numbers from 0 to {count - 1}",
    )
    return tuple(sorted(places))


def strength_of(amount: float | Amount, name: str, t: Tensor) -> Tensor | None:
    """The strength of a control for every row [B,1,1], or for all [1,1,1]; None where it is zero."""
    if isinstance(amount, int | float):
        values = [float(amount)]
    elif not amount.timed:
        values = [amount.of(name, 0.0)]
    else:
        values = [amount.of(name, one) for one in t.tolist()]
    return torch.tensor(values, device=t.device)[:, None, None] if any(values) else None


KEPT = 8  # hints of which is kept what was read: a few branches of guidance in a few threads


class Known:
    """A tensor as it was: the same one is found without a comparison of its numbers."""

    def __init__(self, tensor: Tensor):
        self.own, self.version, self.copy = tensor, _version(tensor), tensor.clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        if other is self.own and _version(other) == self.version:
            return True
        same = other.shape == self.copy.shape and other.dtype == self.copy.dtype and other.device == self.copy.device
        return same and torch.equal(other, self.copy)


class Memory:
    """What was read of the last hints; it is forgotten when a weight changes."""

    def __init__(self) -> None:
        self.entries: tuple[tuple[tuple[int, ...], list[Known], Any], ...] = ()
        self.lock = threading.Lock()

    def __deepcopy__(self, seen: Any) -> Memory:
        return Memory()

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return Memory, ()

    def get(self, key: list[Tensor], module: nn.Module, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave for equal tensors; with gradients nothing is kept."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        versions = tuple(map(_version, (*module.parameters(), *module.buffers())))
        for known, tensors, found in self.entries:
            if known == versions and tensors == key:
                return found
        made = make()
        with self.lock:
            current = tuple(entry for entry in self.entries if entry[0] == versions)
            self.entries = ((versions, list(map(Known, key)), made), *current[: KEPT - 1])
        return made


def _version(tensor: Tensor) -> int:
    """The number of changes in place, where they are counted."""
    return 0 if tensor.is_inference() else tensor._version
