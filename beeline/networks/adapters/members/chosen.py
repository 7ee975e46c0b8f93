"""Deltas that choose: gates of layers, and inputs that are left as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.adapters.delta import Delta, LoRA, changed_layers, low_rank_start


@dataclass(frozen=True)
class Gated(Delta):
    """A delta with a gate of its layer that is trained with it, for choosing the layers that get one.

    W' = W + sigmoid(a / temperature) (delta(W) - W),  a = 0 at first
    ``gates`` reads the gates; the layers with the largest get a delta of their own in ``Adaptation(layers=...)``, or
    the others the amount 0 by ``PerLayer``.
    Source: Jiang et al. 2025, "DiffoRA" (arXiv 2502.08905), without its alternation of two data sets.

    >>> Gated(LoRA(2)).start(torch.zeros(3, 4))["gate"]
    tensor([0.])
    """

    delta: Delta = field(default_factory=LoRA)
    temperature: Positive = 1.0

    @property
    def moves_bias(self) -> bool:  # type: ignore[override]
        return self.delta.moves_bias

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return self.delta.start(w) | {"gate": w.new_zeros(1)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return w + self.gate(p) * (self.delta.weight(w, p) - w)

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return b + self.gate(p) * (self.delta.bias(b, w, p) - b)

    def gate(self, p: Mapping[str, Tensor]) -> Tensor:
        """The gate [1], 0 to 1."""
        return (p["gate"] / self.temperature).sigmoid()


def gates(network: nn.Module) -> dict[str, float]:
    """The gates of the layers of an adapted network, largest first; ValueError for deltas without one."""
    found: dict[str, float] = {}
    for name, layer in changed_layers(network).items():
        change: Any = layer.changes[-1]
        require(
            isinstance(change.delta, Gated),
            f"the gates of the layer {name!r} were asked for, and it has the delta {change.delta!r}; adapt the network "
            "with Gated(LoRA())",
        )
        found[name.split("field.")[-1]] = float(change.delta.gate(change.numbers).detach())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class NullSpace(Delta):
    """A change of low rank that leaves the outputs for some inputs as they are.

    W' = W + scale B A (I - Q Q^T),  Q [in,kept] orthonormal: W' x = W x for every x in the span of Q
    ``keeping`` sets Q to the main directions of the inputs of data, such as those of an earlier task; without it there
    are none, and the delta is LoRA.
    Source: Wang et al. 2021, "Training Networks in Null Space of Feature Covariance for Continual Learning" (arXiv
    2103.07113); Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning" (arXiv
    2310.14152).

    >>> p = NullSpace(1, kept=2).start(torch.zeros(3, 4)) | {"_kept": torch.eye(4)[:, :2], "up": torch.ones(3, 1)}
    >>> NullSpace(1).weight(torch.zeros(3, 4), p)[:, :2].abs().max()
    tensor(0.)
    """

    rank: Count = 4
    kept: Count = 8  # directions, at most all but ``rank`` of a layer
    scale: Positive = 1.0

    def start(self, w: Tensor) -> dict[str, Tensor]:
        into = w.shape[1]
        kept = min(self.kept, into - min(self.rank, into - 1))
        return low_rank_start(w, self.rank, "NullSpace") | {"_kept": w.new_zeros(into, kept)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        free = p["down"] - (p["down"] @ p["_kept"]) @ p["_kept"].mT
        return torch.addmm(w, p["up"], free, alpha=self.scale)


@torch.no_grad()
def input_moments(network: nn.Module, evaluate: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """The mean of x x^T of the inputs [...,in] of all changed layers by name, float64, in one evaluation."""
    found: dict[str, Tensor] = {}
    hooks = []
    for full, layer in changed_layers(network).items():

        def note(_: nn.Module, given: tuple[Tensor, ...], __: Any, name: str = full.split("field.")[-1]) -> None:
            x = given[0].detach().double().flatten(0, -2)
            found[name] = x.mT @ x / len(x)

        hooks.append(layer.register_forward_hook(note))
    try:
        evaluate(network)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def keeping(network: nn.Module, moments: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with ``NullSpace`` deltas that leave outputs for the main directions of data as they are.

    ``moments`` [in,in] are those of ``input_moments``.  Directions without data stay free.
    Raises ValueError for other deltas and layers without moments.
    """
    made = copy.deepcopy(network)
    for full, layer in changed_layers(made).items():
        name, change = full.split("field.")[-1], _last(layer)
        require(
            isinstance(change.delta, NullSpace),
            f"directions of inputs were to be kept in the layer {name!r}, which has the delta {change.delta!r}; adapt "
            "the network with NullSpace(rank, kept)",
        )
        require(name in moments, f"there are no moments of the inputs of the layer {name!r}; measure them on data")
        sizes, directions = torch.linalg.eigh(moments[name].double())
        held: Tensor = change.get_buffer("_kept")
        most = directions.flip(1)[:, : held.shape[1]]
        present = sizes.flip(0)[: held.shape[1]] > 1e-12 * sizes[-1]
        held.copy_((most * present).to(held))
    return made


def _last(layer: nn.Module) -> Any:
    changes: Any = layer.changes
    return changes[-1]
