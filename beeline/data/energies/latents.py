"""Energies of what latents decode to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import dataclass
from beeline.core.types import Cond
from beeline.sampling.steering.modalities import ModalityDependent, for_modality


@runtime_checkable
class PixelModality(Protocol):
    """A modality of images in latents."""

    def pixels(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W], about in [-1, 1], of encoded data [B,*S]; differentiable."""


@dataclass(frozen=True)
class Decoded(ModalityDependent):
    """An energy of the images to which latents decode, with the decoder in the graph.

    E(x1) = energy(pixels(x1)),  pixels [B,C,H,W] in [-1, 1]
    Assumes a modality of latents, which a bundle or a pretrained pipeline has; for images it is the energy itself.
    Most of the time and memory of a step is that of the decoder.

    >>> from beeline.sampling.steering.energies.pictures import MeanColour
    >>> Decoded(MeanColour((1.0, 0.5, 0.0))).modality is None
    True
    """

    energy: Energy
    modality: Any = None  # set by a bundle

    def for_modality(self, modality: Any) -> Energy:
        """The energy of encoded data of a modality."""
        if not isinstance(modality, PixelModality):
            return for_modality(self.energy, modality)
        return replace(self, modality=modality)

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if self.modality is None:
            self.unbound()
        images = self.modality.pixels(x1)
        require(
            images.ndim == 4,
            f"Decoded got data that decode to shape {tuple(images.shape)}; its energies take images [B,C,H,W]: use an "
            "energy of the latents",
        )
        return self.energy(images, t, cond).to(x1.dtype)
