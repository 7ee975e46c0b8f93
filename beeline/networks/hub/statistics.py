"""Affine maps between the latents of an autoencoder and the latents of a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ScaleShift:
    """One scale and one shift: x = (z - shift) * scale, with shift 0 if the configuration has none."""

    shifted: bool = True  # whether the pipeline applies the configuration's shift_factor

    def _shift(self, vae: Any) -> float:
        return (vae.config.get("shift_factor") or 0.0) if self.shifted else 0.0

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        return (z - self._shift(vae)) * vae.config.scaling_factor

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        return x / vae.config.scaling_factor + self._shift(vae)


@dataclass(frozen=True)
class ChannelMeanStd:
    """A mean and a standard deviation per channel from the configuration: x = scale (z - mean) / std."""

    scaled: bool = False  # whether the configuration's scaling_factor is applied as well

    def _of(self, vae: Any, like: Tensor) -> tuple[Tensor, Tensor, float]:
        shape = (1, -1, *[1] * (like.ndim - 2))
        mean, std = (
            torch.tensor(list(vae.config[name]), device=like.device, dtype=like.dtype).view(shape)
            for name in ("latents_mean", "latents_std")
        )
        return mean, std, float(vae.config.scaling_factor) if self.scaled else 1.0

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        mean, std, scale = self._of(vae, z)
        return (z - mean) * scale / std

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        mean, std, scale = self._of(vae, x)
        return x * std / scale + mean


@dataclass(frozen=True)
class BufferMeanStd:
    """As ChannelMeanStd, with the statistics in buffers of the autoencoder (LTX)."""

    scaled: bool = True  # whether the configuration's scaling_factor is applied as well

    def _of(self, vae: Any, like: Tensor) -> tuple[Tensor, Tensor, float]:
        shape = (1, -1, *[1] * (like.ndim - 2))
        mean, std = (b.view(shape).to(like.device, like.dtype) for b in (vae.latents_mean, vae.latents_std))
        return mean, std, float(vae.config.scaling_factor) if self.scaled else 1.0

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        mean, std, scale = self._of(vae, z)
        return (z - mean) * scale / std

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        mean, std, scale = self._of(vae, x)
        return x * std / scale + mean


@dataclass(frozen=True)
class AnyMeanStd:
    """As ChannelMeanStd or BufferMeanStd, whichever an autoencoder has; the latents themselves if it has neither."""

    def _of(self, vae: Any) -> Any:
        if vae.config.get("latents_mean") is not None:
            return ChannelMeanStd()
        return BufferMeanStd(scaled=False) if "latents_mean" in dict(vae.named_buffers()) else Unchanged()

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        x: Tensor = self._of(vae).to_flow(vae, z)
        return x

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        z: Tensor = self._of(vae).to_vae(vae, x)
        return z


@dataclass(frozen=True)
class Unchanged:
    """The latents of the autoencoder."""

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        return z

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class PatchedBatchNorm:
    """2x2 patches as channels, normalised by the running statistics of a batch norm (FLUX.2)."""

    eps: float | None = None  # of the batch norm; None: batch_norm_eps of the configuration
    patched: bool = True  # whether the flow has these channels; otherwise the patches are undone again (Bria FIBO 2)

    def _of(self, vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        eps = vae.config.batch_norm_eps if self.eps is None else self.eps
        mean, var = (b.view(1, -1, 1, 1).to(like.device, like.dtype) for b in (vae.bn.running_mean, vae.bn.running_var))
        return mean, torch.sqrt(var + eps)

    def to_flow(self, vae: Any, z: Tensor) -> Tensor:
        x = F.pixel_unshuffle(z, 2)
        mean, std = self._of(vae, x)
        x = (x - mean) / std
        return x if self.patched else F.pixel_shuffle(x, 2)

    def to_vae(self, vae: Any, x: Tensor) -> Tensor:
        x = x if self.patched else F.pixel_unshuffle(x, 2)
        mean, std = self._of(vae, x)
        return F.pixel_shuffle(x * std + mean, 2)
