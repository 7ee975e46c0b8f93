"""Tiny randomly initialised pipelines of diffusers, and what their own loops give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

df = pytest.importorskip("diffusers", reason="diffusers is not installed")

SCALE = 4.0  # guidance scale


@dataclass
class Case:
    pipe: Any
    x0: Tensor  # noise in the space of the flow
    cond: dict[str, Any]
    null: dict[str, Any] | None  # None: the pipeline has no unconditional prediction
    theirs: Callable[[int, bool], Tensor]  # (steps, guided) -> the pipeline's latents in the space of the flow
    size: dict[str, int]  # height, width, num_frames


def looped(
    pipe: Any,
    x0: Tensor,
    size: dict[str, int],
    prompts: dict[str, Any],
    given: Callable[[Tensor], Tensor] = lambda x: x,
    taken: Callable[[Tensor], Tensor] = lambda x: x,
    scale: str = "guidance_scale",
    offset: float = 0.0,
    result: str = "images",
    **more: Any,
) -> Callable[[int, bool], Tensor]:
    """The pipeline's own loop; ``given`` and ``taken`` translate its latents, ``offset`` its scale."""

    def theirs(steps: int, guided: bool) -> Tensor:
        call = {**prompts, **size, **more, scale: (SCALE if guided else 1.0) - offset}
        out = pipe(**call, latents=given(x0.clone()), num_inference_steps=steps, output_type="latent")
        return taken(getattr(out, result))

    return theirs


def awake(net: nn.Module, seed: int = 0, amount: float = 0.08) -> Any:
    """A random network in which nothing is zero: zero gates would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(amount * torch.randn(p.shape, generator=generator))
    return net.eval()


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kl(**more: Any) -> Any:
    settings = dict(sample_size=32, block_out_channels=(4,), layers_per_block=1, norm_num_groups=1, latent_channels=4)
    settings |= dict(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035)
    return df.AutoencoderKL(**(settings | more))


def kl8(**more: Any) -> Any:
    """As ``kl``, with 8 x 8 pixels per latent."""
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    return kl(block_out_channels=(4,) * 4, **(blocks | more))


def certain(vae: Any) -> Any:
    """An autoencoder whose posterior has no variance, so that a sample of it is its mean."""
    with torch.no_grad():
        n = vae.config.latent_channels
        last = getattr(vae, "quant_conv", None) or vae.encoder.conv_out
        last.weight[n:] = 0
        last.bias[n:] = -100.0
    return vae


def masks(batch: int, dtype: torch.dtype = torch.long, length: int = 7) -> Tensor:
    m = torch.ones(batch, length, dtype=dtype)
    m[-1, 5:] = 0
    return m


def masked(width: int, batch: int = 2, dtype: torch.dtype = torch.long) -> tuple[dict[str, Any], dict[str, Any]]:
    m = masks(batch, dtype)
    return dict(text=rand(batch, 7, width, seed=2), mask=m), dict(text=rand(batch, 7, width, seed=4), mask=m.flip(0))


def plain(width: int, batch: int = 2, length: int = 7) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(text=rand(batch, length, width, seed=2)), dict(text=rand(batch, length, width, seed=4))


def embeds(c: dict[str, Any], n: dict[str, Any], mask: str = "prompt_attention_mask") -> dict[str, Any]:
    """The arguments of a pipeline for masked embeddings."""
    made = dict(prompt_embeds=c["text"], negative_prompt_embeds=n["text"])
    return made | ({mask: c["mask"], f"negative_{mask}": n["mask"]} if "mask" in c else {})


def static(shift: float) -> Any:
    return df.FlowMatchEulerDiscreteScheduler(shift=shift)


def dynamic(**more: Any) -> Any:
    return df.FlowMatchEulerDiscreteScheduler(**(dict(shift=3.0, use_dynamic_shifting=True) | more))


def flow_prediction(kind: Any, shift: float) -> Any:
    return kind(flow_shift=shift, use_flow_sigmas=True, prediction_type="flow_prediction")
