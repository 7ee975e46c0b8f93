"""Shared by the claims about editors that are trained on pairs: scenes, their layers, and small networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.mlp import MLP
from beeline.objectives.editing.views import ViewField
from benchmarks.claims import scenes

WIDTH, STEPS = 192, 900
NUMBER = 6000


def data(rng: bl.Rng, n: int = NUMBER) -> tuple[Tensor, Tensor]:
    """Scenes [n,1,8,8] with an object, without noise, and the indices of their means."""
    k = rng.fork("scenes").integers(len(scenes.FULL), n)
    return scenes.FULL[k], k


def layers(k: Tensor) -> Tensor:
    """The views (picture, background, foreground, opacity) [n,4,1,8,8] of scenes by their index."""
    behind = scenes.EMPTY[k // scenes.PLACES**2]
    picture = scenes.FULL[k]
    opacity = torch.where((picture - behind).abs() > 0.5, 1.0, -1.0)
    return torch.stack([picture, behind, torch.full_like(picture, 2.0), opacity], 1)


def view_field(rng: bl.Rng, views: int) -> Any:
    with rng.fork("network").ambient():
        net = MLP(shape=(views, 8, 8), width=WIDTH, depth=3, conditions={"times": {"size": views}})
    return ViewField(bl.Network(net), "times")


def error(made: Tensor, wanted: Tensor) -> float:
    """Root mean square difference of pixels."""
    return float((made - wanted).square().mean().sqrt())
