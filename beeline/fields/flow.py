"""Networks as velocity fields and flow maps, and flows."""

from __future__ import annotations

import contextlib
from dataclasses import field as default
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Holding as Holding
from beeline.core.declared import Wrapping, as_map, for_branch, traits_of
from beeline.core.declared import is_map as is_map
from beeline.core.declared import parts_of as parts_of
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.flows import Path, Prediction, Source
from beeline.core.ranges import Edge, Inside, dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.couplings.sources import Gaussian
from beeline.fields.trained import Trained
from beeline.paths.affine import AffinePath, Linear


@dataclass(frozen=True)
class Velocity:
    """Velocity prediction.

    output = v
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
    """Data prediction: the expected datum.

    output = E[x1 | x_t];  v = a' x1 + b' (x - a x1) / b, with t at most 1 - clip, because b(1) = 0
    Assumes an affine path.
    Source: Salimans and Ho 2022 (arXiv 2202.00512), x-prediction.

    >>> Data().velocity(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1), Linear())
    tensor([[1.]])
    """

    clip: Inside = 1e-3  # least distance of the time from t = 1

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.velocity(x, t.clamp(max=1 - self.clip), x1=output)

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        t = t.clamp(max=1 - self.clip)
        a, b, da, db = (expand_time(c, x) for c in path.coefficients(t))
        return (db * x - b * v) / (a * db - b * da)


@dataclass(frozen=True)
class Noise:
    """Noise prediction (epsilon prediction): the expected source point.

    output = E[x0 | x_t];  v = b' x0 + a' (x - b x0) / a, with t at least clip, because a(0) = 0
    Assumes an affine path.  On VariancePreserving, where b'(1) is infinite, t is also at most 1 - clip.
    Source: Ho, Jain and Abbeel 2020 (arXiv 2006.11239).

    >>> Noise().velocity(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), Linear())
    tensor([[0.]])
    """

    clip: Edge = 1e-3  # least distance of the time from t = 0, and from t = 1 if b'(1) is infinite

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.velocity(x, path.finite_slope_time(t.clamp(min=self.clip), self.clip), x0=output)

    def value(self, x: Tensor, v: Tensor, t: Tensor, path: AffinePath) -> Tensor:
        return path.noise(x, v, path.finite_slope_time(t.clamp(min=self.clip), self.clip))


class Network(Wrapping):
    """A backbone with path and prediction: a VelocityField that can be trained, saved and rebuilt.

    v(x, t, cond) = prediction.velocity(backbone(x, t, cond), x, t, path)
    Takes and returns [B,*S] in the dtype of the state; the backbone is called in the dtype of its parameters.

    >>> Network(nn.Identity()).path
    Linear()
    """

    inside = "backbone"
    is_flow_map = False  # calls the backbone with one time

    def __init__(self, backbone: nn.Module, path: AffinePath | None = None, prediction: Prediction | None = None):
        super().__init__()
        self.backbone = backbone
        self.path = path or Linear()
        self.prediction = prediction or Velocity()
        require(
            isinstance(self.prediction, Velocity) or isinstance(self.path, AffinePath),
            f"Network got the prediction {type(self.prediction).__name__} on {type(self.path).__name__}; its "
            "conversion to a velocity is defined on affine paths: use Velocity(), or a path such as Linear()",
        )

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *, logits: bool = False) -> Any:
        """The velocity [B,*S]; with ``logits`` (for a backbone that declares them) the pair (velocity, logits)."""
        if logits:
            weight = next(self.backbone.parameters(), x)
            output, raw = self.backbone(x.to(weight.dtype), t, cond, logits=True)
            return self.prediction.velocity(output.to(x.dtype), x, t, self.path), raw
        output = self.output(x, t, cond)
        return self.prediction.velocity(output, x, t, self.path)

    def output(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Tensor:
        """What the backbone returns, in the dtype of the state."""
        weight = next(self.backbone.parameters(), x)
        more = {} if s is None else {"s": s.to(torch.promote_types(s.dtype, torch.float32))}
        return self.backbone(x.to(weight.dtype), t, cond, **more).to(x.dtype)


class MapNetwork(Network):
    """A backbone with two times: a FlowMap whose diagonal is a velocity field.

    u(x, t, cond, s) = backbone(x, t, cond, s)
    Assumes a backbone built with ``span=True``, whose output is the average velocity, and the prediction Velocity().
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507).

    >>> is_map(MapNetwork(nn.Identity()))
    True
    """

    is_flow_map = True

    def __init__(self, backbone: nn.Module, path: AffinePath | None = None, prediction: Prediction | None = None):
        super().__init__(backbone, path, prediction)
        require(
            isinstance(self.prediction, Velocity),
            f"MapNetwork got the prediction {type(self.prediction).__name__}; an average velocity cannot be computed "
            "from a datum or a noise at one time: use Velocity(), or a network with span=False",
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None
    ) -> Tensor:
        return self.output(x, t, cond, t if s is None else s)


@dataclass(frozen=True)
class Flow:
    """A velocity field or flow map, the path on which it was trained, and its source.

    ``independent`` states whether x0 and x1 were coupled independently in training; without that, or without a Gaussian
    source, the field has no score.  ``null`` maps the name of every condition that was dropped in training to its null
    value; {} if none was, None if nothing is recorded.
    """

    field: Any  # VelocityField or FlowMap
    path: Path = default(default_factory=Linear)
    source: Source = default(default_factory=Gaussian)
    independent: bool = True
    null: Any = None
    trained: Trained | None = None  # what its method fixed about the sampling of a student; None is nothing

    def score(self, x: Tensor, t: Tensor, cond: Cond = None, *, v: Tensor | None = None) -> Tensor:
        """The score grad log p_t(x) [B,*S] at ``x`` [B,*S] and ``t`` [B]; pass a known velocity as ``v``.

        Raises ValueError if the flow has no score.
        """
        path = self.require_score()
        return path.score(x, bind(self.field, cond)(x, t) if v is None else v, t)

    def require_score(self) -> AffinePath:
        """The affine path for the conversion of velocities to scores; raises ValueError if the flow has no score."""
        require(
            self.source.gaussian,
            f"the score of a flow with the source {type(self.source).__name__} was requested; a velocity determines a "
            "score only for a Gaussian source: use an ODE solver, or train with the source Gaussian()",
        )
        require(
            self.independent,
            "the score of a flow was requested whose coupling was not independent (reflow, optimal transport or "
            "pairs); a velocity determines a score only for an independent coupling: use an ODE solver, or train with "
            "Independent()",
        )
        require(
            isinstance(self.path, AffinePath),
            f"the score of a flow on {type(self.path).__name__} was requested; a velocity determines a score only on "
            "an affine path: use an ODE solver, or train on a path such as Linear()",
        )
        assert isinstance(self.path, AffinePath)
        return self.path


def bind(field: Any, cond: Cond = None, *, repeat: bool = False) -> Dynamics:
    """The Dynamics f(x, t) of a field with a fixed condition, or f(x, t, s) of a flow map.

    ``s`` is the end of the jump; without it the diagonal is evaluated.  The rows of the condition are those of the
    state; with ``repeat`` the condition is repeated for states with a multiple of its rows, as solvers that are
    parallel in time pass them.  A field with a memory, such as a cache, starts with an empty one.
    """
    maps, field = is_map(field), _at_border(for_branch(field))
    given = [leaf.shape[0] for _, leaf in leaves(cond) if leaf.ndim]

    def fitting(x: Tensor) -> Cond:
        return cond if all(n == x.shape[0] for n in given) else _for_rows(cond, x.shape[0], repeat)

    if maps:
        return as_map(lambda x, t, s=None: field(x, t, fitting(x), t if s is None else s))
    if cond is None:
        return lambda x, t: field(x, t)
    return lambda x, t: field(x, t, fitting(x))


def _at_border(field: Any) -> Any:
    """A half-precision module called under autocast, with input and output in the dtype of the state.

    A Network, and a field that declares so, converts its inputs itself and is returned unchanged.
    """
    if not isinstance(field, nn.Module) or isinstance(field, Network) or traits_of(field).casts:
        return field
    narrow = next((p.dtype for p in field.parameters() if p.is_floating_point() and p.itemsize < 4), None)

    def call(x: Tensor, *rest: Any) -> Tensor:
        with torch.autocast(x.device.type, narrow) if narrow is not None else contextlib.nullcontext():
            out: Tensor = field(x, *rest)
        return out.to(x.dtype) if out.itemsize < x.itemsize else out

    return call


def _for_rows(cond: Cond, rows: int, repeat: bool) -> Cond:
    """A condition of other rows for ``rows`` samples: repeated if ``repeat`` is set; raises ValueError else."""
    found = [(name, len(leaf)) for name, leaf in leaves(cond) if leaf.ndim]
    name, n = next((name, n) for name, n in found if n != rows)
    if not (repeat and n > 0 and rows % n == 0 and all(m == n for _, m in found)):
        raise BeelineError(
            f"the condition{f' {name!r}' if name else ''} has {n} rows for a state of {rows}; conditions are not "
            "broadcast over samples: pass one row per sample"
        )
    return map_cond(lambda leaf: torch.cat([leaf] * (rows // n)) if leaf.ndim else leaf, cond)


def evaluate_field(field: Any, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """The velocity [B,*S] of a field; raises ValueError if it does not have the shape of the state."""
    v = bind(field, cond)(x, t)
    require(
        v.shape == x.shape,
        f"the field returned shape {tuple(v.shape)} for a state of shape {tuple(x.shape)}; "
        "a velocity has the shape of its state: check the network's output",
    )
    return v
