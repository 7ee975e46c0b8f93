"""Features of one pass of a frozen flow for every place of an image, and a head that predicts from them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Path
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import evaluate_field
from beeline.networks.attention import SelfAttention
from beeline.networks.checks import check_sizes
from beeline.networks.fp32 import zeroed
from beeline.networks.hooks import captured_outputs, latest_output, named_blocks
from beeline.paths.affine import Linear


def dense_features(
    field: Any,
    x: Tensor,
    blocks: Sequence[str] = (),
    *,
    t: float = 0.9,
    maps: bool = False,
    noises: int = 0,
    rng: Rng | None = None,
    path: Path | None = None,
    cond: Cond = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Outputs of several modules of a flow on images, resized to one size and concatenated: [B,d,H,W].

    ``x`` [B,C,H,W] are clean images, shown at the time ``t``; with ``noises`` the features are the mean over as many
    noisy states on the path (the straight one by default).  ``blocks`` are names of modules; by default the first, the
    middle and the last of the repeated blocks.  With ``maps`` the attention maps inside them are features too, one for
    every key, averaged over heads.  ``size`` is that of the result, by default that of the images.  No gradient is
    recorded.
    """
    require(
        x.ndim == 4 and noises >= 0 and 0 <= t <= 1,
        f"dense_features got data of shape {tuple(x.shape)}, t={t} and noises={noises}; give images [B,C,H,W], a time "
        "between 0 and 1, and 0 or more noises",
    )
    modules = dict(field.named_modules())
    names = tuple(blocks) or _three(field, modules)
    missing = sorted(set(names) - set(modules))
    require(not missing, f"{type(field).__name__} has no modules {missing}; names are those of named_modules()")
    inner = [f"{name}.{k}" for name in names for k, m in modules[name].named_modules() if isinstance(m, SelfAttention)]
    require(
        not maps or bool(inner),
        f"dense_features got maps=True, but there is no attention inside {list(names)}; use networks.DiT, or "
        "maps=False",
    )
    times = torch.full((len(x),), t, device=x.device)
    noise = [(rng or Rng(0)).fork("noise", k).normal(x) for k in range(noises)]
    states = [(path or Linear()).point(n, x, times).x for n in noise] or [x]
    made, target = [], tuple(size or x.shape[2:])
    for state in states:
        with eval_mode(field), contextlib.ExitStack() as hooks:
            seen = {name: hooks.enter_context(captured_outputs(field, name)) for name in names}
            attended: list[Tensor] = []
            for name in inner if maps else ():
                hook = modules[name].register_forward_hook(
                    lambda m, given, _, to=attended: to.append(_map(m, given[0]))
                )
                hooks.callback(hook.remove)
            evaluate_field(field, state, times, cond)
        found = [latest_output(outputs, name) for name, outputs in seen.items()] + attended
        grids = [as_grid(h, x.shape[2] / x.shape[3]).to(x.dtype) for h in found]
        made.append(torch.cat([_resized(grid, target) for grid in grids], 1))
    return torch.stack(made).mean(0)


class DenseHead(nn.Module):
    """Three convolutions from features of every place to a prediction at every place.

    y = W3 silu(W2 silu(W1 h)),  3 x 3 convolutions, the last initialised to zero
    Assumes features [B,channels,H,W].
    Source: Zavadski, Kalsan and Rother 2024, PrimeDepth (arXiv 2409.09144), a head on features of one step.

    >>> DenseHead(8, 1)(torch.zeros(2, 8, 5, 5)).shape
    torch.Size([2, 1, 5, 5])
    """

    def __init__(self, channels: int, out: int = 1, width: int = 32):
        super().__init__()
        check_sizes("DenseHead", channels=channels, out=out, width=width)
        self.settings = {"channels": channels, "out": out, "width": width}
        last = zeroed(nn.Conv2d(width, out, 3, padding=1))
        first, middle = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor) -> Tensor:
        y: Tensor = self.layers(h)
        return y


def as_grid(h: Tensor, aspect: float) -> Tensor:
    """Tokens [B,N,d] of an image as a grid [B,d,rows,columns], rows / columns = ``aspect``; maps are unchanged."""
    if h.ndim == 4:
        return h
    rows = round((h.shape[1] * aspect) ** 0.5) if h.ndim == 3 else 0
    require(
        rows > 0 and h.shape[1] % rows == 0,
        f"a module returned features of shape {tuple(h.shape)}, which have no place in an image; name modules with "
        "feature maps [B,d,H,W] or with one token for every patch",
    )
    return h.transpose(1, 2).unflatten(2, (rows, -1))


def _three(field: Any, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """The names of the first, the middle and the last of the repeated blocks."""
    found = list(named_blocks(field).values())
    require(bool(found), f"{type(field).__name__} declares no repeated blocks; name modules with blocks=[...]")
    chosen = dict.fromkeys((0, (len(found) - 1) // 2, len(found) - 1))
    return tuple(next(name for name, m in modules.items() if m is found[k]) for k in chosen)


def _map(attention: nn.Module, x: Tensor) -> Tensor:
    """The attention of every token [B,N,N], averaged over the heads."""
    assert isinstance(attention, SelfAttention)
    q, k, _ = attention.divided(x)
    return torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1).mean(1)


def _resized(grid: Tensor, size: Sequence[int]) -> Tensor:
    same = tuple(grid.shape[2:]) == tuple(size)
    return grid if same else F.interpolate(grid, tuple(size), mode="bilinear", align_corners=False)
