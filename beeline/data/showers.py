"""Calorimeter showers: energies of layers and voxels as numbers for a cascade of two flows."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import NonNegative, Positive, Range, dataclass


class EncodedShowers(NamedTuple):
    """Showers as standardised logits, and their condition."""

    layers: Tensor  # [N,L,1], of the fractions u
    voxels: Tensor  # [N,L,A,R], of the fractions within each layer
    energy: Tensor  # [N,1], standardised logarithm of the incident energy


@dataclass(frozen=True)
class ShowerCodec:
    """Showers [N,L,A,R] (layers, angles, radii) and incident energies [N] as logits of fractions.

    u_0 = sum E / E_inc,  u_i = E_{i-1} / sum over j >= i-1 of E_j;  voxels of layer i divided by E_i;
    y = logit(delta + (1 - 2 delta) fraction / most), standardised
    A layer without energy has u = 0 and equal voxels.  After decoding the voxels of a layer sum to its energy; voxels
    below ``cut`` are 0 (before that sum).
    Source: Favaro et al. 2024, "CaloDREAM" (arXiv 2405.09629).

    >>> showers, energy = torch.ones(4, 3, 2, 2), torch.linspace(10.0, 13.0, 4)
    >>> codec = ShowerCodec.fit(showers, energy)
    >>> codec.decode(codec.encode(showers, energy)).shape
    torch.Size([4, 3, 2, 2])
    """

    layers: tuple[tuple[float, float], ...]  # mean and standard deviation of the logits of each fraction u
    voxels: tuple[float, float]  # of the logits of the voxels
    energy: tuple[float, float]  # of the logarithm of the incident energy
    most: Positive = 1.5  # largest ratio of deposited to incident energy
    delta: Annotated[float, Range(above=0.0, below=0.5)] = 1e-6  # distance of the logits from 0 and 1
    cut: NonNegative = 0.0  # least energy of a voxel

    @classmethod
    def fit(
        cls, showers: Tensor, incident: Tensor, most: float = 1.5, delta: float = 1e-6, cut: float = 0.0
    ) -> ShowerCodec:
        """The codec with the means and deviations of showers [N,L,A,R] and incident energies [N]."""
        require(
            showers.ndim == 4 and incident.shape == showers.shape[:1] and len(showers) > 1,
            f"ShowerCodec got showers of shape {tuple(showers.shape)} and energies of shape {tuple(incident.shape)}; "
            "give two or more showers [N,layers,angles,radii] and [N] incident energies",
        )
        require(
            bool((showers >= 0).all()) and bool((incident > 0).all()),
            "the showers have negative energies, or an incident energy is not above 0; energies are not negative: "
            "check their unit and noise",
        )
        plain = cls(((0.0, 1.0),) * showers.shape[1], (0.0, 1.0), (0.0, 1.0), most, delta, cut)
        y = plain.encode(showers, incident)
        columns = tuple(_moments(y.layers[:, i]) for i in range(showers.shape[1]))
        return cls(columns, _moments(y.voxels), _moments(y.energy), most, delta, cut)

    def encode(self, showers: Tensor, incident: Tensor) -> EncodedShowers:
        layers = showers.flatten(2).sum(2)
        u = self.fractions(layers, incident)
        require(
            bool((u <= 1).all()),
            f"a shower has more than {self.most} times its incident energy; give ShowerCodec.fit(..., most=) above the "
            "largest ratio",
        )
        parts = torch.where(layers[:, :, None, None] > 0, showers / _above(layers)[:, :, None, None], _even(showers))
        mean, std = torch.tensor(self.layers, dtype=u.dtype, device=u.device).T
        energy = (incident.log() - self.energy[0]) / self.energy[1]
        voxels = (self._logit(parts) - self.voxels[0]) / self.voxels[1]
        return EncodedShowers(((self._logit(u) - mean) / std)[:, :, None], voxels, energy[:, None])

    def decode(self, y: EncodedShowers) -> Tensor:
        """Showers [N,L,A,R] whose layers have the energies of ``y.layers``."""
        mean, std = torch.tensor(self.layers, dtype=y.layers.dtype, device=y.layers.device).T
        u = self._fraction(y.layers[:, :, 0] * std + mean)
        incident = (y.energy[:, 0] * self.energy[1] + self.energy[0]).exp()
        layers = self.energies(u, incident)[:, :, None, None]
        parts = self._fraction(y.voxels * self.voxels[1] + self.voxels[0])
        parts = torch.where(parts * layers < self.cut, 0.0, parts)
        total = parts.sum((2, 3), keepdim=True)
        return layers * torch.where(total > 0, parts / _above(total), _even(parts))

    def fractions(self, layers: Tensor, incident: Tensor) -> Tensor:
        """u [N,L] of energies of layers [N,L] and incident energies [N]; u_0 in units of ``most``."""
        rest = layers.flip(1).cumsum(1).flip(1)  # energy of a layer and those behind it
        inner = torch.where(rest > 0, layers / _above(rest), 0.0)[:, :-1]
        return torch.cat([(rest[:, 0] / incident / self.most)[:, None], inner], 1)

    def energies(self, u: Tensor, incident: Tensor) -> Tensor:
        """Energies of layers [N,L], the inverse of ``fractions``."""
        left = torch.cumprod(torch.cat([torch.ones_like(u[:, :1]), 1 - u[:, 1:]], 1), 1)
        share = torch.cat([u[:, 1:], torch.ones_like(u[:, :1])], 1)
        return (u[:, 0] * self.most * incident)[:, None] * left * share

    def _logit(self, p: Tensor) -> Tensor:
        return torch.logit(self.delta + (1 - 2 * self.delta) * p)

    def _fraction(self, y: Tensor) -> Tensor:
        return ((torch.sigmoid(y) - self.delta) / (1 - 2 * self.delta)).clamp(0, 1)


def _moments(y: Tensor) -> tuple[float, float]:
    spread = float(y.std())
    return float(y.mean()), spread if spread > 1e-6 else 1.0


def _above(x: Tensor) -> Tensor:
    """x where it is above 0, else 1."""
    return torch.where(x > 0, x, 1.0)


def _even(x: Tensor) -> Tensor:
    """Equal fractions for the voxels of a layer."""
    return torch.full_like(x, 1 / (x.shape[2] * x.shape[3]))
