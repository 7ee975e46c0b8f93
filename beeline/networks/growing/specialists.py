"""One field of several that were trained on parts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, is_map, traits_of
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.fields.flow import Network, evaluate_field
from beeline.networks.embed import sinusoidal_features
from beeline.networks.fp32 import zeroed


class Gate(nn.Module):
    """Which of several populations a state [B,*S] belongs to at a time [B], as logits [B,K].

    logits = W3 silu(W2 silu(W1 [x, features(t)])), 0 at first
    Trained by cross entropy on noisy states of known populations it is their posterior.

    >>> Gate([2], 3)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 3])
    """

    def __init__(self, shape: Sequence[int], count: int, width: int = 64):
        super().__init__()
        self.settings = {"shape": list(shape), "count": count, "width": width}
        size = torch.Size(shape).numel()
        self.layers = nn.Sequential(
            nn.Linear(size + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), zeroed(nn.Linear(width, count))
        )

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self.settings)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        weight = next(self.parameters())
        told = [x.flatten(1).to(weight), sinusoidal_features(t, 32, 100.0).to(weight)]
        out: Tensor = self.layers(torch.cat(told, -1))
        return out


class Specialists(Declaring):
    """A field that is a mixture of fields, with weights that depend on state and time.

    v(x, t) = sum_k g_k(x, t) v_k(x, t),  g = softmax(gate(x, t))
    If the data are a mixture of populations and v_k the fields of each, with one source and path, this is the field of
    the whole where g is the posterior of the population given the state.  Train ``Gate`` by the loss of a flow, or
    by cross entropy.  All K fields are evaluated.
    Source: Ding et al. 2024, "Mastering Text, Code and Math Simultaneously via Fusing Highly Specialized Language
    Models", UltraFuser (arXiv 2403.08281), for fields.

    >>> from beeline.networks.mlp import MLP
    >>> Specialists([Network(MLP(2)), Network(MLP(2))], Gate([2], 2))(torch.zeros(3, 2), torch.zeros(3)).shape
    torch.Size([3, 2])

    Raises BeelineError for fields of different paths, for flow maps, and for a gate with another number of outputs.
    """

    def __init__(self, fields: Sequence[nn.Module], gate: nn.Module):
        super().__init__()
        require(
            len(fields) >= 2,
            f"Specialists got {len(fields)} field; it mixes several: give two or more, or use the one alone",
        )
        require(
            not any(is_map(field) for field in fields),
            "Specialists got a flow map; a mixture of average velocities is no average velocity of the mixture: give "
            "velocity fields, such as bl.Network",
        )
        paths = [field.path for field in fields if isinstance(field, Network)]
        require(
            all(path == paths[0] for path in paths),
            f"Specialists got fields on the paths {paths}; velocities of different paths cannot be added: give "
            "fields of one path, or convert them with fields.conversion.Converted",
        )
        self.fields, self.gate = nn.ModuleList(fields), gate

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"fields": list(self.fields), "gate": self.gate}

    @property
    def traits(self) -> Traits:
        return traits_of(self.fields[0])

    def weights(self, x: Tensor, t: Tensor) -> Tensor:
        """The weight of every field, [B,K], summing to 1."""
        found = torch.softmax(self.gate(x, t), -1)
        require(
            found.shape == (len(x), len(self.fields)),
            f"the gate gives weights of shape {tuple(found.shape)} for {len(self.fields)} fields; it needs one for "
            f"each row and field: build it with count={len(self.fields)}",
        )
        return found

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        made = torch.stack([evaluate_field(field, x, t, cond) for field in self.fields], 1)
        weights = self.weights(x, t).to(made.dtype)
        return (weights.reshape(*weights.shape, *[1] * (x.ndim - 1)) * made).sum(1)
