"""Calls of pretrained transformers that take images beside the state: as further tokens, channels or frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.networks.hub.calls.images import flux, flux_tokens
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
