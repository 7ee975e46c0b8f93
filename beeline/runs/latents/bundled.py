"""The autoencoder of a bundle, which the recipe ``autoencoder`` trains."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.fields.flow import Network
from beeline.networks.encoding.autoencoder import Autoencoder
from beeline.runs.bundle import HUB
from beeline.runs.features.bundles import bundle_of


@dataclass(frozen=True)
class OfAutoencoder:
    """An autoencoder that was trained by the recipe ``autoencoder``.

    z = the mean of the latents of x;  images of one channel are shown in three to an autoencoder of colours
    Assumes a bundle whose network is an Autoencoder, and sides that are multiples of its factor.  Runs in float32 on
    the device of its input.
    Source: Rombach et al. 2022 (arXiv 2112.10752).

    >>> OfAutoencoder("hub:owner/name").path
    'hub:owner/name'
    """

    path: str  # directory of the run or bundle, or hub:owner/name

    def __post_init__(self) -> None:
        local = not str(self.path).startswith(HUB)
        object.__setattr__(self, "path", str(Path(self.path).expanduser().resolve()) if local else self.path)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        net = self._network(x)
        channels = net.shape[0]
        require(
            x.shape[1] in (1, channels),
            f"{self.path} got images with {x.shape[1]} channels and was trained on {channels}; give images of that "
            "kind, or train another autoencoder",
        )
        return net.encode(x.float().expand(-1, channels, -1, -1))

    def decode(self, z: Tensor) -> Tensor:
        return self._network(z).decode(z.float())

    def digest(self) -> str:
        self._network(torch.empty(0))
        return bundle_of(self.path).weights[:32]

    def _network(self, like: Tensor) -> Autoencoder:
        field = bundle_of(self.path).flow.field
        net = field.backbone if isinstance(field, Network) else None
        require(
            isinstance(net, Autoencoder),
            f"{self.path} is a bundle of {type(net or field).__name__}, which encodes nothing; give one that was "
            "trained by the recipe autoencoder",
        )
        assert isinstance(net, Autoencoder)
        return net.to(like.device)
