"""Calls of pretrained image transformers: from a state [B,C,H,W] to the arguments of the network and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import TokenGrid
from beeline.networks.hub.family import Settings
from beeline.networks.hub.layout import pack, positions, unpack, zeros


def sd3(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        x, timestep=tau, encoder_hidden_states=c["text"], pooled_projections=c["pooled"], return_dict=False
    )[0]
    return out


def sd3_grid(net: Any, shape: Sequence[int]) -> TokenGrid:
    """The tokens of an image, which stand before those of the text."""
    patch = net.config.patch_size
    return TokenGrid(shape[-2] // patch, shape[-1] // patch)


def flux_grid(net: Any, shape: Sequence[int]) -> TokenGrid:
    """The tokens of an image, which stand after those of the text."""
    return TokenGrid(shape[-2] // 2, shape[-1] // 2, first=False)


def flux2_grid(net: Any, shape: Sequence[int]) -> TokenGrid:
    """The tokens of an image whose patches are channels of the state, which stand after those of the text."""
    return TokenGrid(shape[-2], shape[-1], first=False)


def flux(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    tokens, ids = pack(x), positions(h // 2, w // 2, before=1, like=x)
    return unpack(flux_tokens(net, tokens, ids, tau, c), h, w)


def flux_tokens(net: Any, tokens: Tensor, ids: Tensor, tau: Tensor, c: Any) -> Tensor:
    out: Tensor = net(
        hidden_states=tokens,
        timestep=tau,
        guidance=c["guidance"] if net.config.guidance_embeds else None,
        pooled_projections=c["pooled"],
        encoder_hidden_states=c["text"],
        txt_ids=zeros(c["text"].shape[1], 3, like=ids),
        img_ids=ids,
        return_dict=False,
    )[0]
    return out


def chroma(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    tokens = pack(x)
    image = torch.ones(len(x), tokens.shape[1], dtype=torch.bool, device=x.device)
    out = net(
        hidden_states=tokens,
        timestep=tau,
        encoder_hidden_states=c["text"],
        attention_mask=torch.cat([c["mask"].bool(), image], 1),  # a float mask would be added to the logits
        txt_ids=zeros(c["text"].shape[1], 3, like=x),
        img_ids=positions(h // 2, w // 2, before=1, like=x),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def flux2(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    text, image = positions(c["text"].shape[1], before=3, like=x), positions(h, w, before=1, after=1, like=x)
    out = net(
        hidden_states=x.flatten(2).mT,
        timestep=tau,
        guidance=c.get("guidance"),
        encoder_hidden_states=c["text"],
        txt_ids=text.expand(len(x), -1, -1),
        img_ids=image.expand(len(x), -1, -1),
        return_dict=False,
    )[0]
    result: Tensor = out[:, : h * w].mT.unflatten(2, (h, w))
    return result


def qwen(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_hidden_states_mask=c.get("mask"),
        img_shapes=[[(1, h // 2, w // 2)]] * len(x),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def z_image(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    text = [row[: int(n)] for row, n in zip(c["text"], c["mask"].sum(1).tolist(), strict=True)]
    out: Tensor = torch.stack(net(list(x[:, :, None].unbind()), tau, text, return_dict=False)[0])[:, :, 0]
    return out


def masked(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        hidden_states=x,
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"],
        return_dict=False,
    )[0]
    return out


def aura(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(x, encoder_hidden_states=c["text"], timestep=tau, return_dict=False)[0]
    return out


def sana(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out = net(
        x,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"],
        timestep=tau * net.config.timestep_scale,
        guidance=c.get("guidance"),
        return_dict=False,
    )[0]
    learned_variance = net.config.out_channels // 2 == x.shape[1]
    result: Tensor = out.chunk(2, dim=1)[0] if learned_variance else out
    return result


def cogview4(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    k = settings["pixels_per_latent"]
    size = x.new_tensor([[x.shape[2] * k, x.shape[3] * k]]).repeat(len(x), 1)
    out: Tensor = net(
        hidden_states=x,
        encoder_hidden_states=c["text"],
        timestep=tau,
        original_size=size,
        target_size=size,
        crop_coords=torch.zeros_like(size),
        return_dict=False,
    )[0]
    return out


def prx(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        hidden_states=x, timestep=tau, encoder_hidden_states=c["text"], attention_mask=c["mask"], return_dict=False
    )[0]
    return out


def hidream(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        hidden_states=x,
        timesteps=tau,
        encoder_hidden_states_t5=c["t5"],
        encoder_hidden_states_llama3=c["llama"].transpose(0, 1),  # layers come before the batch there
        pooled_embeds=c["pooled"],
        return_dict=False,
    )[0]
    return out


def hunyuan_image(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    return hunyuan_image_map(net, x, tau, None, c, settings)


def hunyuan_image_map(net: Any, x: Tensor, tau: Tensor, tau_s: Tensor | None, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        hidden_states=x,
        timestep=tau.to(x.dtype),
        timestep_r=None if tau_s is None else tau_s.to(x.dtype),
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"],
        encoder_hidden_states_2=c["glyphs"],
        encoder_attention_mask_2=c["glyph_mask"],
        guidance=c["guidance"] if net.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return out
