"""Calls of further image transformers: from a state [B,C,H,W] to the arguments of the network and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.networks.hub.family import Settings
from beeline.networks.hub.layout import pack, positions, unpack


def ovis(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Words lie on the diagonal of the picture's coordinates."""
    h, w = x.shape[2:]
    words = positions(c["text"].shape[1], before=1, like=x)
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        txt_ids=torch.cat([words, words[:, 1:]], 1),
        img_ids=positions(h // 2, w // 2, before=1, like=x),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def longcat(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Words lie on a diagonal that ends where the picture's coordinates begin; a first one separates them."""
    h, w = x.shape[2:]
    words = positions(c["text"].shape[1], before=1, like=x)
    picture = positions(h // 2, w // 2, before=1, like=x)
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        txt_ids=torch.cat([words, words[:, 1:]], 1),
        img_ids=picture + x.new_tensor([1, settings["words"], settings["words"]]),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def bria(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        txt_ids=x.new_zeros(c["text"].shape[1], 3),
        img_ids=positions(h // 2, w // 2, before=1, like=x),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def nucleus(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    h, w = x.shape[2:]
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_hidden_states_mask=c.get("mask"),
        img_shapes=[(1, h // 2, w // 2)] * len(x),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def krea2(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Embeddings [B,L,layers,D] of several layers; words lie at the origin."""
    h, w = x.shape[2:]
    picture = positions(h // 2, w // 2, before=1, like=x)
    out = net(
        hidden_states=pack(x),
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"].bool(),
        position_ids=torch.cat([picture.new_zeros(c["text"].shape[1], 3), picture]),
        return_dict=False,
    )[0]
    return unpack(out, h, w)


def ernie(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Words are counted; the rest of a row is padding."""
    out: Tensor = net(
        hidden_states=x,
        timestep=tau.to(x.dtype),
        text_bth=c["text"],
        text_lens=c["mask"].long().sum(1),
        return_dict=False,
    )[0]
    return out


def kandinsky5(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    return kandinsky5_frames(net, x[:, :, None], tau, c, (1.0, 1.0, 1.0), None)[:, :, 0]


def kandinsky5_reference(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """The channels of known frames are those of the reference."""
    known = torch.cat([c["reference"], torch.ones_like(x[:, :1])], 1)[:, :, None]
    return kandinsky5_frames(net, x[:, :, None], tau, c, (1.0, 1.0, 1.0), None, known)[:, :, 0]


def kandinsky5_frames(
    net: Any,
    x: Tensor,
    tau: Tensor,
    c: Any,
    spread: tuple[float, float, float],
    sparse: Any,
    known: Tensor | None = None,
) -> Tensor:
    """Frames [B,C,F,H,W]; channels are last there, followed by those of known frames and a mask, or zeros."""
    if net.config.visual_cond:
        known = torch.cat([torch.zeros_like(x), torch.zeros_like(x[:, :1])], 1) if known is None else known
        x = torch.cat([x, known], 1)
    last = x.permute(0, 2, 3, 4, 1)
    f, h, w = x.shape[2:]
    out: Tensor = net(
        hidden_states=last,
        timestep=tau.to(x.dtype),
        encoder_hidden_states=c["text"],
        pooled_projections=c["pooled"],
        visual_rope_pos=[torch.arange(n, device=x.device) for n in (f, h // 2, w // 2)],
        text_rope_pos=torch.arange(c["text"].shape[1], device=x.device),
        scale_factor=spread,
        sparse_params=sparse,
        return_dict=False,
    )
    return out.permute(0, 4, 1, 2, 3)


def fibo(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Every block takes the words of one layer of the text encoder; the last layers, or the last one repeatedly."""
    h, w = x.shape[2:]
    blocks = len(net.transformer_blocks) + len(net.single_transformer_blocks)
    layers = list(c["layers"].unbind(1))[-blocks:]
    layers += [layers[-1]] * (blocks - len(layers))
    image = torch.ones(len(x), h * w, dtype=torch.bool, device=x.device)
    out = net(
        hidden_states=x.flatten(2).mT,
        timestep=tau,
        encoder_hidden_states=c["text"],
        text_encoder_layers=layers,
        joint_attention_kwargs={"attention_mask": torch.cat([c["mask"].bool(), image], 1)[:, None, None]},
        txt_ids=x.new_zeros(c["text"].shape[1], 3),
        img_ids=positions(h, w, before=1, like=x),
        return_dict=False,
    )[0]
    result: Tensor = out.mT.unflatten(2, (h, w))
    return result


def fibo2(net: Any, x: Tensor, tau: Tensor, c: Any, settings: Settings) -> Tensor:
    """Embeddings [B,parts,L,D] of several groups of layers; their mask has the dtype bool there."""
    out: Tensor = net(
        hidden_states=x,
        timestep=tau,
        encoder_hidden_states=c["text"],
        encoder_attention_mask=c["mask"].bool(),
        return_dict=False,
    )[0]
    return out
