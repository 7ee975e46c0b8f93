"""Flow maps from trained velocity networks."""

from __future__ import annotations

import copy
from typing import Any

from beeline.core.declared import Describing, is_map, unwrapped
from beeline.core.errors import require
from beeline.fields.flow import MapNetwork, Network, Velocity
from beeline.networks.adapters.inside import Reparametrized

ADVICE = (
    "use a network with the setting span, such as DiT, UNet or MLP, or ParallelDecoding, which needs no second time"
)


def spanned(network: Any) -> MapNetwork:
    """A flow map with the weights of a trained velocity network, equal to it for every jump at first.

    u(x, t, s) = v(x, t) until it is trained: the embedding of the second time ends in a layer of zeros.
    A network that is a flow map already is copied.  Raises ValueError for a field that is no Network, for a backbone
    without the setting ``span``, and for another prediction than the velocity.

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> made = spanned(Network(MLP(2)))
    >>> made(torch.zeros(3, 2), torch.zeros(3), None, torch.ones(3)).shape
    torch.Size([3, 2])
    """
    inner = unwrapped(network)
    require(
        isinstance(inner, Network),
        f"spanned got a {type(inner).__name__}; the second time is an input of the backbone of a Network: {ADVICE}",
    )
    if is_map(inner):
        made: MapNetwork = copy.deepcopy(inner)
        return made
    require(
        isinstance(inner.prediction, Velocity),
        f"spanned got a network with the prediction {type(inner.prediction).__name__}; a flow map gives the average "
        "velocity of a jump: train the teacher with Velocity(), or use a method that keeps its prediction, such as "
        "ParallelDecoding",
    )
    backbone = inner.backbone
    weight = next(backbone.parameters())
    wider = _with_span(backbone).to(weight.device, weight.dtype)
    missing, unexpected = wider.load_state_dict(backbone.state_dict(), strict=False)
    assert not unexpected and all("span" in name for name in missing), (missing, unexpected)
    return MapNetwork(wider, inner.path).train(network.training)


def _with_span(backbone: Any) -> Any:
    """A network like a backbone, also inside of adapters or number formats, with a second time and new weights."""
    settings = dict(backbone.describe()) if isinstance(backbone, Describing) else {}
    if isinstance(backbone, Reparametrized):
        return type(backbone)(**{**settings, "field": _with_span(backbone.field)})
    require("span" in settings, f"spanned got a {type(backbone).__name__}, which takes no second time; {ADVICE}")
    return type(backbone)(**{**settings, "span": True})
