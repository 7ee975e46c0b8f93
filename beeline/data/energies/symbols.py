"""Energies of sequences of symbols."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.ranges import Range, Whole, dataclass
from beeline.core.types import Cond
from beeline.data.sequences import Sequences
from beeline.sampling.steering.modalities import ModalityDependent


@dataclass(frozen=True)
class Motif(ModalityDependent):
    """Minus the logarithm of the expected number of occurrences of a motif, for independent positions.

    E = -log sum_i prod_j p[i + j, m_j],  p the probabilities of the symbols, at least ``least``
    On one-hot sequences it is -log of the number of occurrences, and large where there is none.
    Assumes data [B,L,K] whose entries are probabilities: one-hot sequences, or predictions of them.

    >>> energy = Motif((0, 1))
    >>> abs(round(float(energy(torch.eye(2)[None], torch.ones(1))), 4))
    0.0
    """

    motif: str | tuple[Whole, ...]  # symbols of the alphabet as text, or their numbers
    least: Annotated[float, Range(above=0, below=1)] = 1e-4  # so that logarithms and gradients are finite

    def __post_init__(self) -> None:
        object.__setattr__(self, "motif", self.motif if isinstance(self.motif, str) else tuple(self.motif))
        require(len(self.motif) > 0, "Motif got an empty motif, which every sequence contains; give some symbols")

    def for_modality(self, modality: Any) -> Motif:
        """The motif in the numbers of the symbols of an alphabet."""
        if not isinstance(self.motif, str):
            return self
        require(
            isinstance(modality, Sequences),
            f"Motif got {self.motif!r} for {type(modality).__name__} data, which have no alphabet; give the numbers of "
            "the symbols, as in Motif((0, 3))",
        )
        alphabet = modality.alphabet
        odd = next((symbol for symbol in self.motif if symbol not in alphabet), None)
        require(
            odd is None,
            f"Motif got {self.motif!r}, whose symbol {odd!r} is not in the alphabet; {nearest(str(odd), alphabet)}",
        )
        return replace(self, motif=tuple(alphabet.index(symbol) for symbol in self.motif))

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if isinstance(self.motif, str):
            self.unbound()
        n = len(self.motif)
        require(
            x1.ndim == 3 and x1.shape[1] >= n and x1.shape[2] > max(self.motif),
            f"Motif got {n} symbols with numbers up to {max(self.motif)} for data of shape {tuple(x1.shape)}; it reads "
            "sequences [B,L,K] of L positions and K symbols: give a shorter motif, or other numbers",
        )
        logs = x1.clamp(min=self.least).log()  # a prediction may lie outside the simplex
        places = x1.shape[1] - n + 1
        found = [logs[:, j : j + places, symbol] for j, symbol in enumerate(self.motif)]
        return -torch.stack(found).sum(0).logsumexp(1)
