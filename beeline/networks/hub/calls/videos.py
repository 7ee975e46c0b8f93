"""Calls of pretrained video transformers: from a state [B,C,F,H,W] to the arguments of the network and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.networks.hub.calls.more_images import kandinsky5_frames
from beeline.networks.hub.family import Settings


def wan(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    if settings.get("expand_timesteps", False):  # one time for each token
        tau = tau[:, None].repeat(1, x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2))
    out: Tensor = net(hidden_states=x, timestep=tau, encoder_hidden_states=c["text"], return_dict=False)[0]
    return out


def ltx(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    f, h, w = x.shape[2:]
    out = net(
        hidden_states=x.flatten(2).mT,
        encoder_hidden_states=c["text"],
        timestep=tau,
        encoder_attention_mask=c["mask"],
        num_frames=f,
        height=h,
        width=w,
        rope_interpolation_scale=settings["rope_interpolation_scale"],
        return_dict=False,
    )[0]
    result: Tensor = out.mT.unflatten(2, (f, h, w))
    return result


def hunyuan_video(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        hidden_states=x,
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"],
        pooled_projections=c["pooled"],
        guidance=c["guidance"] if net.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return out


def hunyuan_frames(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Channels of a first frame beside the state, with zeros for all other frames (SkyReels V1)."""
    rest = torch.zeros_like(x[:, :, 1:])
    return hunyuan_video(net, torch.cat([x, torch.cat([c["known"], rest], 2)], 1), tau, c, settings)


def easyanimate(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(x, tau, encoder_hidden_states=c["text"], return_dict=False)[0]
    return out[:, : x.shape[1]]  # without a learned variance


def hunyuan_video15(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Channels of known frames, their mask, and features of an image are zero: videos from text."""
    out: Tensor = net(
        hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], 1),
        timestep=tau.to(x.dtype),
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"].to(x.dtype),
        encoder_hidden_states_2=c["glyphs"],
        encoder_attention_mask_2=c["glyph_mask"].to(x.dtype),
        image_embeds=x.new_zeros(len(x), settings["image_tokens"], net.config.image_embed_dim),
        return_dict=False,
    )[0]
    return out


def anyflow(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    return anyflow_map(net, x, tau, tau, c, settings)


def anyflow_map(net: Any, x: Tensor, tau: Tensor, tau_s: Tensor, c: Any, settings: Settings) -> Tensor:
    frames = x.shape[2]  # [B,F,C,H,W] there, with a time for each frame
    out: Tensor = net(
        hidden_states=x.transpose(1, 2),
        timestep=tau[:, None].repeat(1, frames),
        r_timestep=tau_s[:, None].repeat(1, frames),
        encoder_hidden_states=c["text"],
        return_dict=False,
    )[0]
    return out.transpose(1, 2)


def sana_video(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(
        x, encoder_hidden_states=c["text"], encoder_attention_mask=c["mask"], timestep=tau, return_dict=False
    )[0]
    return out[:, : x.shape[1]]  # without a learned variance


def kandinsky5_video(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Positions are spread more where a side is outside of 480 to 854 pixels."""
    usual = all(480 <= side * settings["pixels_per_latent"] <= 854 for side in x.shape[3:])
    spread = (1.0, 2.0, 2.0) if usual else (1.0, 3.16, 3.16)
    sparse = settings["sparse"](x.permute(0, 2, 3, 4, 1), x.device)
    return kandinsky5_frames(net, x, tau, c, spread, sparse)
