"""Colours of one picture given to another, by a flow of the colours of each."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent
from beeline.couplings.sources import Uniform
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.sampling.editing.between import BetweenFlows
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import MIDPOINT
from beeline.training.config import Training
from beeline.training.fit import fit

CHUNK = 1 << 18  # pixels of one run; the size changes no result beyond rounding


def fit_colours(picture: Tensor, *, steps: int = 1500, width: int = 64, jitter: float = 0.005, seed: int = 0) -> Flow:
    """A flow from the uniform distribution on the cube [-1, 1]^3 to the colours of a picture [3,H,W] in [0, 1].

    The colours are points in [-1, 1]^3.  ``jitter`` is noise that keeps the flow of a picture of few colours finite.
    The network is small and belongs to this picture alone; training takes some seconds.
    Source: Larchenko, Lobashev, Guskov and Palyulin 2025, "Color Transfer with Modulated Flows" (arXiv 2503.19062);
    the encoder that predicts the weights is not built.
    """
    points = _points(picture, "fit_colours")
    rng = Rng(seed).fork("colours")
    points = points + 2 * jitter * rng.fork("jitter").normal(points)
    with rng.fork("network").ambient():
        net = Network(MLP(3, width=width, depth=2))
    source = Uniform(-1.0, 1.0)
    training = Training(steps=steps, batch_size=512, lr=3e-3, ema=None)
    objective = FlowMatching(coupling=Independent(source))
    fitted = fit(net, objective, Batch(points), training, rng=rng.fork("fit"), log=lambda entry: None)
    return Flow(fitted.eval(), source=source)


def transfer_colours(
    content: Tensor,
    style: Tensor | Flow,
    *,
    strength: float = 1.0,
    flow: Flow | None = None,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Tensor:
    """The picture ``content`` [3,H,W] in [0, 1] with the distribution of colours of ``style``.

    ``style`` is a picture or a flow of ``fit_colours``; ``flow`` is that of the content, where it is known.
    ``strength`` 0 keeps the colours.  Both runs have the same grid of times, and the inverse runs from t = 1 to 0.
    Raises BeelineError for pictures of another form.
    """
    points = _points(content, "transfer_colours")
    how = Sampler(16, solver=MIDPOINT) if sampler is None else sampler
    first = fit_colours(content, seed=seed) if flow is None else flow
    then = style if isinstance(style, Flow) else fit_colours(style, seed=seed)
    move = BetweenFlows(strength)
    made = torch.cat([move(first, then, part, how) for part in points.split(CHUNK)])
    return ((made.T.reshape(content.shape) + 1) / 2).clamp(0, 1)


def _points(picture: Tensor, whose: str) -> Tensor:
    """The colours [H*W,3] in [-1, 1] of a picture."""
    require(
        picture.ndim == 3 and len(picture) == 3 and picture.is_floating_point(),
        f"{whose} got a picture of shape {tuple(picture.shape)} and type {picture.dtype}; colours are red, green and "
        "blue: give a float tensor [3,H,W] in [0, 1]",
    )
    require(
        bool(((picture >= 0) & (picture <= 1)).all()),
        f"{whose} got values from {float(picture.min()):.3g} to {float(picture.max()):.3g}; give a picture in [0, 1], "
        "bytes divided by 255",
    )
    return 2 * picture.flatten(1).T.contiguous().float() - 1
