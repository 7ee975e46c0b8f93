"""Heads and refiners between the branches of a deeply supervised network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.networks.embed import TimeEmbedding
from beeline.networks.fp32 import layer_norm
from beeline.networks.patches import from_patches, to_patches


class Refiner(nn.Module):
    """The block between two branches of DeepFlow: acceleration features, the time gap, and the input tokens (VeRA).

    a = MLP4(h);  m = MLP(norm([h, a]) (1 + scale(gap)) + shift(gap));  c = q + attention(norm(q), norm(m)),
    q = W tokens(x_t);  the next block takes h + V c, with V initialised to zero, and the acceleration head takes a
    Assumes vectors [B,size], or tokens [B,N,size] of the patches of an image.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494); the next block of the paper takes c alone, which does not
    preserve a trained network.

    >>> Refiner(4, (2,))(torch.ones(1, 4), torch.ones(1, 2), torch.zeros(1))[0].detach()
    tensor([[1., 1., 1., 1.]])
    """

    def __init__(
        self,
        size: int,  # features, per sample or token
        shape: Sequence[int],  # of a datum
        patch: int = 0,  # side of a patch in pixels; 0 for vectors
        width: int = 0,  # inside; 0 is the number of features
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "patch": patch, "width": width}
        wide, self.patch = width or size, patch
        count = shape[0] * patch * patch if patch else math.prod(shape)
        sizes = (size, wide, 2 * wide, wide, size)
        layers = [part for pair in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(*pair), nn.SiLU())]
        self.accelerate = nn.Sequential(*layers[:-1])
        self.gap = nn.Sequential(nn.Linear(2, wide), nn.SiLU(), still(nn.Linear(wide, 4 * size)))
        self.mix = nn.Sequential(nn.Linear(2 * size, wide), nn.SiLU(), nn.Linear(wide, size))
        self.query, self.keys, self.values = nn.Linear(count, size), nn.Linear(size, size), nn.Linear(size, size)
        self.ask, self.out = nn.Linear(size, size), still(nn.Linear(size, size))

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor, x: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """(features of the next block, features of the acceleration), from features, state [B,*S] and time gap [B]."""
        tokens = h if h.ndim == 3 else h[:, None]
        a = self.accelerate(tokens)
        modulation = self.gap(torch.stack([100 * gap, (100 * gap).square()], 1).to(h.dtype))[:, None]
        scale, shift = modulation.chunk(2, -1)
        both = torch.cat([tokens, a], -1)
        m = self.mix(F.layer_norm(both, both.shape[-1:]) * (1 + scale) + shift)
        q = self.query((to_patches(x, self.patch) if self.patch else x.flatten(1)[:, None]).to(h.dtype))
        queries, context = F.layer_norm(q, q.shape[-1:]), F.layer_norm(m, m.shape[-1:])
        c = q + attend(self.ask(queries), self.keys(context), self.values(context))
        return h + self.out(c).reshape(h.shape), a.reshape(h.shape)


class PatchHead(nn.Module):
    """A linear layer from the tokens of an image to the image.

    output = unpatch(W norm(tokens))
    Assumes tokens [B,N,size], one for every patch.
    Source: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> PatchHead(4, (1, 4, 4), 2)(torch.zeros(3, 4, 4)).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(self, size: int, shape: Sequence[int], patch: int, zero: bool = False):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "patch": patch, "zero": zero}
        layer = nn.Linear(size, shape[0] * patch * patch)
        self.layer = still(layer) if zero else layer

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor) -> Tensor:
        return from_patches(self.layer(F.layer_norm(h, h.shape[-1:])), self.settings["shape"], self.settings["patch"])


class TimedHead(nn.Module):
    """A velocity head for all branches of a network, modulated by the time of the branch.

    output = W (norm(h) (1 + scale(t)) + shift(t)), with W, scale and shift initialised to zero
    Assumes vectors [B,size], or tokens [B,N,size] of the patches of an image.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> TimedHead(4, (2,))(torch.ones(3, 4), torch.zeros(3)).shape
    torch.Size([3, 2])
    """

    def __init__(self, size: int, shape: Sequence[int], patch: int = 0):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "patch": patch}
        self.time = TimeEmbedding(size, count=32)
        self.tell = still(nn.Linear(size, 2 * size))
        self.layer = still(nn.Linear(size, shape[0] * patch * patch if patch else math.prod(shape)))

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        tokens, shape, patch = h if h.ndim == 3 else h[:, None], self.settings["shape"], self.settings["patch"]
        scale, shift = self.tell(F.silu(self.time(t)).to(h.dtype))[:, None].chunk(2, -1)
        output: Tensor = self.layer(layer_norm(tokens) * (1 + scale) + shift)
        return from_patches(output, shape, patch) if patch else output.reshape(len(h), *shape)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v for tokens [B,N,D], as products that are differentiable in forward and reverse mode."""
    output: Tensor = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v
    return output


def still(layer: nn.Linear) -> nn.Linear:
    """The layer, initialised to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
