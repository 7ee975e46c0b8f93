"""Calls of pretrained transformers that take images beside the state: as further tokens, channels or frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.networks.hub.calls.images import flux, flux_tokens
from beeline.networks.hub.calls.videos import ltx
from beeline.networks.hub.family import Settings
from beeline.networks.hub.layout import pack, positions, unpack


def flux_reference(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Tokens of the reference follow those of the state, with a first coordinate of one (FLUX.1 Kontext)."""
    if "reference" not in c:
        return flux(net, x, tau, c, settings)
    (h, w), (rows, columns) = x.shape[2:], c["reference"].shape[2:]
    tokens = pack(x)
    ids = positions(h // 2, w // 2, before=1, like=x)
    further = positions(rows // 2, columns // 2, before=1, like=x) + x.new_tensor([1, 0, 0])
    out = flux_tokens(net, torch.cat([tokens, pack(c["reference"])], 1), torch.cat([ids, further]), tau, c)
    return unpack(out[:, : tokens.shape[1]], h, w)


def flux_channels(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Channels of an image follow those of the state in every token (FLUX.1 Fill and Control)."""
    h, w = x.shape[2:]
    tokens = pack(torch.cat([x, c["channels"]], 1))
    return unpack(flux_tokens(net, tokens, positions(h // 2, w // 2, before=1, like=x), tau, c), h, w)


def qwen_reference(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Tokens of the reference follow those of the state; their shapes tell them apart (Qwen-Image-Edit)."""
    (h, w), (rows, columns) = x.shape[2:], c["reference"].shape[2:]
    tokens = pack(x)
    out = net(
        hidden_states=torch.cat([tokens, pack(c["reference"])], 1),
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_hidden_states_mask=c.get("mask"),
        img_shapes=[[(1, h // 2, w // 2), (1, rows // 2, columns // 2)]] * len(x),
        return_dict=False,
    )[0]
    return unpack(out[:, : tokens.shape[1]], h, w)


def longcat_reference(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Tokens of the reference follow those of the state, with a first coordinate of two (LongCat-Image-Edit)."""
    h, w = x.shape[2:]
    words = positions(c["text"].shape[1], before=1, like=x)
    ids = positions(h // 2, w // 2, before=1, like=x) + x.new_tensor([1, len(words), len(words)])
    tokens = pack(x)
    out = net(
        hidden_states=torch.cat([tokens, pack(c["reference"])], 1),
        timestep=tau,
        encoder_hidden_states=c["text"],
        txt_ids=torch.cat([words, words[:, 1:]], 1),
        img_ids=torch.cat([ids, ids + x.new_tensor([1, 0, 0])]),
        return_dict=False,
    )[0]
    return unpack(out[:, : tokens.shape[1]], h, w)


def hold_first(out: Tensor, x: Tensor, known: Tensor, sigma: Tensor) -> Tensor:
    """``out``, with noise - data of the first frame for a straight path that ends at the ``known`` one."""
    first = (x[:, :, :1] - known) / sigma.clamp(min=1e-6).view(-1, 1, 1, 1, 1)
    return torch.cat([first, out[:, :, 1:]], 2)


def wan_frames(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """A first frame, as channels of every frame beside the state, or in the state with a time of zero (TI2V 5B)."""
    more = dict(encoder_hidden_states=c["text"], encoder_hidden_states_image=c.get("clip"), return_dict=False)
    if not settings.get("expand_timesteps", False):
        out: Tensor = net(hidden_states=torch.cat([x, c["known"]], 1), timestep=tau, **more)[0]
        return out
    f, h, w = x.shape[2:]
    times = tau[:, None].repeat(1, f * (h // 2) * (w // 2))
    times[:, : (h // 2) * (w // 2)] = 0
    given = torch.cat([c["known"], x[:, :, 1:]], 2)
    return hold_first(net(hidden_states=given, timestep=times, **more)[0], x, c["known"], tau / 1000)


def ltx_frames(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """A first frame in the state, with a time of zero for its tokens."""
    f, h, w = x.shape[2:]
    times = tau[:, None].repeat(1, f * h * w)
    times[:, : h * w] = 0
    given = torch.cat([c["known"], x[:, :, 1:]], 2)
    return hold_first(ltx(net, given, times, c, settings), x, c["known"], tau / 1000)
