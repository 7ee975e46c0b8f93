"""A trained network with one more input for the guidance scale."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from beeline.core.declared import Describing, unwrapped
from beeline.core.errors import require
from beeline.fields.flow import Network
from beeline.networks.embed import ConditionEmbedding
from beeline.networks.fp32 import zeroed

BETA = {"beta": {"size": 1}}


def with_scale_input(network: Any) -> Network:
    """A copy of a network with the condition ``beta`` [B,1], which is without effect at first.

    Raises ValueError for a field that is no Network, and for a backbone without the setting ``conditions``.

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> net = with_scale_input(Network(MLP(2, conditions={"label": {"classes": 3}})))
    >>> net(torch.zeros(1, 2), torch.zeros(1), {"label": torch.tensor([0]), "beta": torch.ones(1, 1)}).shape
    torch.Size([1, 2])
    """
    inner = unwrapped(network)
    backbone = inner.backbone if isinstance(inner, Network) else None
    settings: dict[str, Any] = dict(backbone.describe()) if isinstance(backbone, Describing) else {}
    require(
        "conditions" in settings,
        f"with_scale_input got a {type(inner).__name__} of {type(backbone).__name__}, which takes no further "
        "condition; use a Network of an MLP, UNet or DiT, or an adapter beside the network",
    )
    conditions = dict(settings["conditions"] or {})
    if set(BETA) & set(conditions):
        return copy.deepcopy(inner)
    assert isinstance(backbone, nn.Module)
    weight = next(backbone.parameters())
    wider: nn.Module = type(backbone)(**{**settings, "conditions": {**conditions, **BETA}})
    wider = wider.to(weight.device, weight.dtype)
    before = dict(backbone.named_modules())
    embeddings = {name: m for name, m in wider.named_modules() if isinstance(m, ConditionEmbedding)}
    own = tuple(f"{name}." for name in embeddings)
    state = {k: v for k, v in backbone.state_dict().items() if not k.startswith(own)}
    missing, unexpected = wider.load_state_dict(state, strict=False)
    assert not unexpected and all(k.startswith(own) for k in missing), (missing, unexpected)
    for name, made in embeddings.items():
        known = before[name]
        assert isinstance(known, ConditionEmbedding)
        parts = dict(zip(known.conditions, known.parts, strict=True))
        for condition, part in zip(made.conditions, made.parts, strict=True):
            if condition in parts:
                part.load_state_dict(parts[condition].state_dict())
            else:
                zeroed(part[2])  # type: ignore[index]
    return type(inner)(wider, inner.path, inner.prediction).train(network.training)
