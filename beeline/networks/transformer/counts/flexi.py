"""A second, larger patch for a trained transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond, map_cond
from beeline.networks.patches import from_patches, to_patches
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import asked
from beeline.networks.transformer.plans.spectral import places


class FlexiPatches(Wrapping):
    """A transformer with two sizes of patches and one set of blocks: large ones until a time, its own ones after it.

    t < until:  tokens = W' patches' + positions + p,  output = unpatch'(U' (norm(tokens) (1 + scale) + shift))
    At first W' = W A and U' = A^+ U, where A takes means over the pixels that become one and A^+ repeats them, and p =
    0: the output is that of the network for shrunken data, enlarged.  Then train both sizes (a batch of uniform times
    does), and set ``until`` for sampling.
    Source: Anagnostidis et al. 2025, "FlexiDiT" (arXiv 2502.20126); resizing: Beyer et al. 2022, "FlexiViT" (arXiv
    2212.08013).

    >>> from beeline.networks.dit import DiT
    >>> net = FlexiPatches(DiT((1, 8, 8), width=16, depth=1, heads=2), 4)
    >>> net(torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.7])).shape
    torch.Size([2, 1, 8, 8])
    """

    inside = "network"

    def __init__(self, network: FlowTransformer, patch: int, until: float = 0.5):
        super().__init__()
        require(
            isinstance(network, FlowTransformer) and patch > network.patch and patch % network.patch == 0,
            f"FlexiPatches got a {type(network).__name__} and patch={patch}; the larger patch is a multiple of that of "
            "a flow transformer, as 4 for a DiT with patch=2",
        )
        require(0 <= until <= 1, f"FlexiPatches got until={until}; it is a time: set a number from 0 to 1")
        self.network, self.patch, self.until = network, patch, until
        axes, c, width = len(network.grid), network.shape[0], network.inp.out_features
        ratio = patch // network.patch
        means = patch_means(c, network.patch, ratio, axes)
        self.inp, self.out = nn.Linear(c * patch**axes, width), nn.Linear(width, c * patch**axes)
        self.size = nn.Parameter(torch.zeros(width))
        with torch.no_grad():
            own = network.inp.weight
            means = means.to(own)
            self.inp.weight.copy_(own @ means)
            self.inp.bias.copy_(network.inp.bias)
            self.out.weight.copy_(ratio**axes * means.mT @ network.out.weight)
            self.out.bias.copy_(ratio**axes * means.mT @ network.out.bias)
        self.to(own.device, own.dtype)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"network": self.network, "patch": self.patch, "until": self.until}

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
        """The tokens of large patches, with the positions of their centres."""
        net = self.network
        grid = tuple(-(-n // self.patch) for n in x.shape[2:])
        ratio = self.patch // net.patch
        fine = tuple(n * ratio for n in grid)
        h = self.inp(to_patches(x, self.patch)) + self.size
        added, turn = net.place.added(fine, h), net.place.turn(fine, h)
        if added is not None:
            h = h + _pooled(added, fine, ratio).to(h.dtype)
        return h, grid, None if turn is None else turn[places(fine, grid, h.device)]

    def data(self, h: Tensor, shape: Sequence[int]) -> Tensor:
        """Data of tokens of large patches."""
        return from_patches(self.out(h), shape, self.patch)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        coarse = t < self.until
        if bool(coarse.all()):
            what = asked()
            return self.network.run(self.network.begun(x, t, cond, s, what, self), what)
        if not bool(coarse.any()):
            out: Tensor = self.network(x, t, cond, s)
            return out
        found = torch.empty_like(x)
        for rows in (coarse.nonzero()[:, 0], (~coarse).nonzero()[:, 0]):
            some = map_cond(lambda leaf, rows=rows: leaf[rows] if leaf.ndim else leaf, cond)
            end = None if s is None else s[rows]
            found = found.index_copy(0, rows, self(x[rows], t[rows], some, end))
        return found


def patch_means(channels: int, patch: int, ratio: int, axes: int) -> Tensor:
    """The matrix from the numbers of a patch that is ``ratio`` times as large to those of a patch, by means."""
    one = torch.eye(patch).repeat_interleave(ratio, 1) / ratio  # along one axis
    every = torch.ones(1, 1)
    for _ in range(axes):
        every = torch.kron(every, one)
    return torch.kron(torch.eye(channels), every)


def _pooled(added: Tensor, fine: tuple[int, ...], ratio: int) -> Tensor:
    """The means [M,D] of positions [N,D] over the places of a grid that become one."""
    y = added.unflatten(0, fine)
    for axis, n in enumerate(fine):
        y = y.unflatten(axis, (n // ratio, ratio)).mean(axis + 1)
    return y.flatten(0, -2)
