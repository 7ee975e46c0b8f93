"""Calls of pretrained diffusion networks: from a state [B,C,H,W] to the arguments of the network and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from beeline.networks.hub.family import Settings


def labelled(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(x, timestep=tau, class_labels=c["label"], return_dict=False)[0]
    return out[:, : x.shape[1]]  # without a learned variance


def pixart(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if net.use_additional_conditions:
        h, w = (side * settings["pixels_per_latent"] for side in x.shape[2:])
        size = {
            "resolution": x.new_tensor([[h, w]]).repeat(len(x), 1),
            "aspect_ratio": x.new_tensor([[h / w]]).repeat(len(x), 1),
        }
    out: Tensor = net(
        x,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"],
        timestep=tau,
        added_cond_kwargs=size,
        return_dict=False,
    )[0]
    return out[:, : x.shape[1]]


def unet(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    out: Tensor = net(x, tau, encoder_hidden_states=c["text"], return_dict=False)[0]
    return out


def unet_xl(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """The original size and that of the target are the size of the state, without a crop."""
    h, w = (side * settings["pixels_per_latent"] for side in x.shape[2:])
    more = {"text_embeds": c["pooled"], "time_ids": x.new_tensor([[h, w, 0, 0, h, w]]).repeat(len(x), 1)}
    out: Tensor = net(x, tau, encoder_hidden_states=c["text"], added_cond_kwargs=more, return_dict=False)[0]
    return out
