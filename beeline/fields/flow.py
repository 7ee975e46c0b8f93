"""Velocity fields and flow maps: a network with its convention, and a flow with its assumptions."""

from __future__ import annotations

import contextlib
from dataclasses import field as default
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Holding as Holding
from beeline.core.declared import Wrapping, as_map
from beeline.core.declared import is_map as is_map
from beeline.core.declared import parts_of as parts_of
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.flows import Path, Prediction, Source
from beeline.core.ranges import Edge, Inside, dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.couplings.sources import Gaussian
from beeline.paths.affine import AffinePath, Linear


@dataclass(frozen=True)
class Velocity:
    """The network gives the velocity itself.

    output = v
    Assumes nothing.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Velocity().value(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1), Linear())
    tensor([[1.]])
    """

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return output

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return v


@dataclass(frozen=True)
class Data:
    """The network gives the expected datum.

    output = E[x1 | x_t];  v = a' x1 + b' (x - a x1) / b, with t at most 1 - clip
    Assumes an affine path.  The clip keeps the division by b finite at the data end.
    Source: Salimans and Ho 2022 (arXiv 2202.00512), x-prediction.

    >>> Data().velocity(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1), Linear())
    tensor([[1.]])
    """

    clip: Inside = 1e-3  # distance kept from t = 1

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.velocity(x, t.clamp(max=1 - self.clip), x1=output)

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        t = t.clamp(max=1 - self.clip)
        a, b, da, db = (expand_time(c, x) for c in path.coefficients(t))
        return (db * x - b * v) / (a * db - b * da)


@dataclass(frozen=True)
class Noise:
    """The network gives the expected source point (epsilon prediction).

    output = E[x0 | x_t];  v = b' x0 + a' (x - b x0) / a, with t at least clip
    Assumes an affine path.  The clip keeps the division by a finite at the source end, and b' at the data end of
    VariancePreserving, where the last stage of HEUN asks.
    Source: Ho, Jain and Abbeel 2020 (arXiv 2006.11239).

    >>> Noise().velocity(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), Linear())
    tensor([[0.]])
    """

    clip: Edge = 1e-3  # distance kept from t = 0, and from t = 1 where the slope of b is infinite there

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.velocity(x, path.finite_slope_time(t.clamp(min=self.clip), self.clip), x0=output)

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.noise(x, v, path.finite_slope_time(t.clamp(min=self.clip), self.clip))


class Network(Wrapping):
    """A backbone with its convention: a VelocityField that can be trained, saved and rebuilt.

    v(x, t, cond) = prediction.velocity(backbone(x, t, cond), x, t, path)
    Assumes that the backbone's output is what ``prediction`` says.  The state is kept in its own dtype; the backbone
    sees its parameters' dtype, and the velocity comes back in the dtype of the state.
    Source: none; it joins a network to its convention.

    >>> Network(nn.Identity()).path
    Linear()
    """

    inside = "backbone"
    is_flow_map = False  # it asks its backbone for one time

    def __init__(self, backbone: nn.Module, path: AffinePath | None = None, prediction: Prediction | None = None):
        super().__init__()
        self.backbone = backbone
        self.path = path or Linear()
        self.prediction = prediction or Velocity()
        require(
            isinstance(self.prediction, Velocity) or isinstance(self.path, AffinePath),
            f"a network was to give {type(self.prediction).__name__} on {type(self.path).__name__}, from which no "
            "velocity follows; use Velocity(), or an affine path such as Linear()",
        )

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *, logits: bool = False) -> Any:
        """The velocity; with ``logits``, of a backbone that declares them, (velocity, logits)."""
        if logits:
            weight = next(self.backbone.parameters(), x)
            output, raw = self.backbone(x.to(weight.dtype), t, cond, logits=True)
            return self.prediction.velocity(output.to(x.dtype), x, t, self.path), raw
        output = self._output(x, t, cond)
        return self.prediction.velocity(output, x, t, self.path)

    def _output(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Tensor:
        weight = next(self.backbone.parameters(), x)
        more = {} if s is None else {"s": s.to(torch.promote_types(s.dtype, torch.float32))}
        return self.backbone(x.to(weight.dtype), t, cond, **more).to(x.dtype)


class MapNetwork(Network):
    """A backbone with two times: a FlowMap whose diagonal is a velocity field.

    u(x, t, cond, s) = backbone(x, t, cond, s)
    Assumes a backbone built with ``span=True``, which puts out average velocities.  Other predictions are refused: the
    average of a velocity over a jump is no function of a datum or a noise at one time.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507).

    >>> is_map(MapNetwork(nn.Identity()))
    True
    """

    is_flow_map = True

    def __init__(self, backbone: nn.Module, path: AffinePath | None = None, prediction: Prediction | None = None):
        super().__init__(backbone, path, prediction)
        require(
            isinstance(self.prediction, Velocity),
            f"a flow map was given the prediction {type(self.prediction).__name__}; a network for jumps puts out the "
            "average velocity of a jump, which does not follow from a datum or a noise at one time: take Velocity(), "
            "or a network with span=False",
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None
    ) -> Tensor:
        return self._output(x, t, cond, t if s is None else s)


@dataclass(frozen=True)
class Flow:
    """A velocity field, the path it was learned on, and the source it starts from.

    ``independent`` says whether x0 and x1 were coupled independently while learning: without that, or without a
    Gaussian source, the field has no score.  ``null`` holds the null of every condition that was dropped while
    learning, by name: {} where none was, None where nothing is recorded.
    """

    field: Any  # VelocityField or FlowMap
    path: Path = default(default_factory=Linear)
    source: Source = default(default_factory=Gaussian)
    independent: bool = True
    null: Any = None

    def score(self, x: Tensor, t: Tensor, cond: Cond = None, *, v: Tensor | None = None) -> Tensor:
        """grad log p_t(x) [B,*S]; ``v`` saves the evaluation when the velocity is known already."""
        path = self.require_score()
        return path.score(x, bind(self.field, cond)(x, t) if v is None else v, t)

    def require_score(self) -> AffinePath:
        """The affine path through which a velocity gives a score; ValueError when it gives none."""
        require(
            self.source.gaussian,
            f"a score was asked of a flow that starts from {type(self.source).__name__}; "
            "it holds only for a Gaussian source: use an ODE solver, or train from Gaussian()",
        )
        require(
            self.independent,
            "a score was asked of a flow whose coupling was not independent (reflow, optimal transport or pairs); "
            "it holds only for an independent coupling: use an ODE solver, or train with Independent()",
        )
        require(
            isinstance(self.path, AffinePath),
            f"a score was asked of a flow on {type(self.path).__name__}; it needs an affine path, such as Linear()",
        )
        assert isinstance(self.path, AffinePath)
        return self.path


def bind(field: Any, cond: Cond = None, *, repeat: bool = False) -> Dynamics:
    """A field with its condition: the Dynamics that solvers walk.

    For a flow map the third argument is the end of the jump; without it the diagonal is meant.  With ``repeat`` the
    condition is repeated where a solver asks for many times of the batch at once; without, its rows have to be those of
    the state.
    """
    maps, field = is_map(field), _at_border(field)
    if maps:
        return as_map(lambda x, t, s=None: field(x, t, _for_rows(cond, len(x), repeat), t if s is None else s))
    if cond is None:
        return lambda x, t: field(x, t)
    return lambda x, t: field(x, t, _for_rows(cond, len(x), repeat))


def _at_border(field: Any) -> Any:
    """A user's network of bfloat16 or float16, which takes and gives the state in the state's own dtype.

    Its products are computed in its dtype by autocast.  A Network does this itself, and knows what must stay float32.
    """
    if not isinstance(field, nn.Module) or isinstance(field, Network):
        return field
    narrow = next((p.dtype for p in field.parameters() if p.is_floating_point() and p.itemsize < 4), None)

    def call(x: Tensor, *rest: Any) -> Tensor:
        with torch.autocast(x.device.type, narrow) if narrow is not None else contextlib.nullcontext():
            made: Tensor = field(x, *rest)
        return made.to(x.dtype) if made.itemsize < x.itemsize else made

    return call


def _for_rows(cond: Cond, rows: int, repeat: bool) -> Cond:
    """The condition for ``rows`` samples, repeated as a whole where that is asked for and refused otherwise."""
    found = [(name, len(leaf)) for name, leaf in leaves(cond) if leaf.ndim]
    if all(n == rows for _, n in found):
        return cond
    name, n = next((name, n) for name, n in found if n != rows)
    if not (repeat and n > 0 and rows % n == 0 and all(m == n for _, m in found)):
        raise BeelineError(
            f"the condition{f' {name!r}' if name else ''} has {n} rows for a state of {rows}; a condition belongs to "
            "one sample, so none is repeated or shared out silently: give one row per sample"
        )
    return map_cond(lambda leaf: torch.cat([leaf] * (rows // n)) if leaf.ndim else leaf, cond)


def evaluate_field(field: Any, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """The velocity of a field [B,*S]; refused when it has not the shape of its state."""
    made = bind(field, cond)(x, t)
    require(
        made.shape == x.shape,
        f"the field returned shape {tuple(made.shape)} for a state of {tuple(x.shape)}; "
        "a velocity has the shape of its state: check the network's output",
    )
    return made
