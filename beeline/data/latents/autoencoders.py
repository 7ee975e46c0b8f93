"""Autoencoders of images: images in [-1, 1] to latents and back."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from beeline.core.errors import BeelineError, extra, require
from beeline.core.ranges import Count, dataclass

HUB = "hub:"  # before the id of a model of the Hugging Face hub


@dataclass(frozen=True)
class PatchChannels:
    """The pixels of every patch as channels: exact, without weights.

    [B,C,H,W] -> [B, C factor^2, H / factor, W / factor];  decode is the inverse
    Assumes sides that are multiples of ``factor``.

    >>> PatchChannels(2).encode(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 12, 4, 4])
    """

    factor: Count = 2  # side of a patch in pixels

    def encode(self, x: Tensor) -> Tensor:
        require(
            x.shape[2] % self.factor == x.shape[3] % self.factor == 0,
            f"PatchChannels got images of {x.shape[2]}x{x.shape[3]}, whose sides are no multiples of factor="
            f"{self.factor}; give another size by data.resize, or another factor",
        )
        return F.pixel_unshuffle(x, self.factor)

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, self.factor)

    def digest(self) -> str:
        return ""


@dataclass(frozen=True)
class DiffusersVAE:
    """An ``AutoencoderKL`` or ``AutoencoderDC`` of diffusers, from a folder or the Hugging Face hub.

    z = mode of q(z | x), or the latent of a deep compression autoencoder (DC-AE), which has no distribution;
    images of one channel are encoded as RGB, and their decoded channels averaged
    Assumes the library diffusers, weights in safetensors, and sides that are multiples of the factor by which the
    autoencoder reduces them, such as 8.  Runs in float32 on the device of its input.
    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752);
    Chen et al. 2024, "Deep Compression Autoencoder" (arXiv 2410.10733), sides divided by 32 to 128.

    >>> DiffusersVAE("hub:stabilityai/sd-vae-ft-mse").revision is None
    True
    """

    name: str  # a folder, or hub:owner/name
    revision: str | None = None  # branch, tag or commit of the hub
    subfolder: str | None = None  # of the autoencoder in a pipeline, such as vae

    def __post_init__(self) -> None:
        local = not str(self.name).startswith(HUB)
        object.__setattr__(self, "name", str(Path(self.name).expanduser().resolve()) if local else self.name)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        net = self._network(x)
        kind = KINDS[type(net).__name__]
        factor = 2 ** (len(net.config[kind.levels]) - 1)
        require(
            x.shape[1] in (1, net.config.in_channels) and x.shape[2] % factor == x.shape[3] % factor == 0,
            f"{self.name} got images of {x.shape[2]}x{x.shape[3]} with {x.shape[1]} channel(s); it takes "
            f"{net.config.in_channels} channels and sides that are multiples of {factor}: set data.resize",
        )
        shown = x.float().expand(-1, net.config.in_channels, -1, -1)
        return kind.latents(net.encode(shown))

    def decode(self, z: Tensor) -> Tensor:
        images: Tensor = self._network(z).decode(z.float()).sample
        return images

    def digest(self) -> str:
        net = _autoencoder(self.name, self.revision, self.subfolder)
        total = hashlib.sha256()
        for key, value in sorted(net.state_dict().items()):
            total.update(key.encode())
            total.update(value.detach().cpu().float().contiguous().numpy().data)
        return total.hexdigest()[:32]

    def _network(self, like: Tensor) -> Any:
        return _autoencoder(self.name, self.revision, self.subfolder).to(like.device)


class Kind(NamedTuple):
    """How a class of diffusers is used."""

    cls: Callable[[Any], Any]  # the library -> the class
    latents: Callable[[Any], Tensor]  # what ``encode`` returns -> latents
    levels: str  # the setting with one entry for each level, of which every one but the last halves the sides


KINDS: Mapping[str, Kind] = {
    "AutoencoderKL": Kind(lambda lib: lib.AutoencoderKL, lambda out: out.latent_dist.mode(), "block_out_channels"),
    "AutoencoderDC": Kind(lambda lib: lib.AutoencoderDC, lambda out: out.latent, "encoder_block_out_channels"),
}


@functools.lru_cache(maxsize=2)
def _autoencoder(name: str, revision: str | None, subfolder: str | None) -> Any:
    library = extra("diffusers", "hub")
    require(
        name.startswith(HUB) or Path(name).is_dir(),
        f"there is no folder {name} with an autoencoder; give a folder, or hub:owner/name for one of the hub",
    )
    where = {"revision": revision} if revision else {}
    where |= {"subfolder": subfolder} if subfolder else {}
    try:
        about = library.AutoencoderKL.load_config(name.removeprefix(HUB), **where)
        kind = KINDS.get(str(about.get("_class_name")), KINDS["AutoencoderKL"])
        net = kind.cls(library).from_pretrained(name.removeprefix(HUB), use_safetensors=True, **where)  # no pickles
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BeelineError(
            f"{name} gave no {' or '.join(KINDS)} in safetensors ({type(error).__name__}); check the name, the "
            "subfolder (vae in a pipeline), and the network if it is of the hub"
        ) from None
    return net.float().eval().requires_grad_(False)
