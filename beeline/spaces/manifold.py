"""Manifolds: spheres, tori and rotations, with geodesic paths, uniform sources and solvers."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Wrapping, is_map
from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.protocols.flows import Solver, SolverTraits, Space
from beeline.core.ranges import Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, Point, expand_time
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import check_times
from beeline.solvers.process import Process, velocity_on
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.solvers.wrappers import SolverBase, SolverWrapper, complete


@dataclass(frozen=True)
class Sphere:
    """Unit vectors along the last dimension; geodesics are great circles.

    exp_x(u) = cos|u| x + sin|u| u/|u|,  log_x(y) = angle(x, y) (y - <x,y> x)/|y - <x,y> x|
    Assumes unit vectors.  Between antipodal points, which have no unique geodesic, one is chosen by the axes.
    Source: Chen and Lipman 2024, "Flow Matching on General Geometries" (arXiv 2302.03660).

    >>> Sphere().exp(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([[1., 0.]])
    """

    tolerance: Positive = 1e-4  # largest deviation of the length of a point from 1

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        n = _length(u)
        return torch.cos(n) * x + torch.sinc(n / math.pi) * u

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        inner = (x * y).sum(-1, keepdim=True)
        across = y - inner * x
        n = _length(across)
        angle = torch.atan2(n, inner)
        near = torch.where(n > 0, angle / n.clamp(min=torch.finfo(n.dtype).tiny), torch.ones_like(n)) * across
        return torch.where((n == 0) & (inner < 0), math.pi * self._aside(x), near)

    def _aside(self, x: Tensor) -> Tensor:
        """A fixed unit tangent vector at x: the projection of the axis with the smallest coordinate of x."""
        axis = torch.nn.functional.one_hot(x.abs().argmin(-1), x.shape[-1]).to(x)
        return self.project(self.tangent(x, axis))

    def move(self, x: Tensor, u: Tensor, t: Tensor) -> Point:
        n, wide = _length(u), expand_time(t, x)
        return Point(self.exp(x, wide * u), torch.cos(wide * n) * u - n * torch.sin(wide * n) * x)

    def project(self, x: Tensor) -> Tensor:
        return x / _length(x).clamp(min=torch.finfo(x.dtype).tiny)

    def tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - (x * u).sum(-1, keepdim=True) * x

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return self.project(rng.normal(like))

    def log_density(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        return torch.full((len(x),), -area * x[0].numel() / d, dtype=x.dtype, device=x.device)

    def check(self, x: Tensor, name: str) -> None:
        far = (_length(x.detach()) - 1).abs().max()
        check_values(
            far <= self.tolerance,
            lambda: (
                f"{name} is not on {type(self).__name__}: a length differs from 1 by {float(far):.3g}; its points have "
                "length 1 along the last dimension: divide by the length (project)"
            ),
        )


@dataclass(frozen=True)
class Rotations(Sphere):
    """Rotations of three-dimensional space as unit quaternions (w, x, y, z), where q and -q are the same rotation.

    the unit sphere in four dimensions, with log_q(p) towards the nearer of p and -p
    Assumes the order w, x, y, z (scipy uses x, y, z, w).  The angle of a rotation is twice that of the quaternions.
    Source: Yue et al. 2025, ReQFlow (arXiv 2502.14637).

    >>> Rotations().matrix(torch.tensor([1.0, 0.0, 0.0, 0.0])).diagonal()
    tensor([1., 1., 1.])
    """

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        inner = (x * y).sum(-1, keepdim=True)
        return super().log(x, torch.where(inner < 0, -y, y))

    def product(self, p: Tensor, q: Tensor) -> Tensor:
        """The rotation ``q`` followed by ``p``, quaternions [...,4]."""
        pw, pv, qw, qv = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
        scalar = pw * qw - (pv * qv).sum(-1, keepdim=True)
        return torch.cat([scalar, pw * qv + qw * pv + torch.linalg.cross(pv, qv)], -1)

    def inverse(self, q: Tensor) -> Tensor:
        """The inverse rotation."""
        return torch.cat([q[..., :1], -q[..., 1:]], -1)

    def angular(self, q: Tensor, v: Tensor) -> Tensor:
        """Angular velocity [...,3] in the body frame, in radians per unit of time, of a velocity ``v`` [...,4] at q."""
        return 2 * self.product(self.inverse(q), v)[..., 1:]

    def velocity(self, q: Tensor, omega: Tensor) -> Tensor:
        """The velocity [...,4] at q of the body-frame angular velocity ``omega`` [...,3]."""
        return self.product(q, torch.cat([torch.zeros_like(omega[..., :1]), omega], -1)) / 2

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """The angle [...] between two rotations, in radians, 0 to pi."""
        return 2 * _length(self.log(p, q))[..., 0]

    def matrix(self, q: Tensor) -> Tensor:
        """The rotation matrices [...,3,3]."""
        w, x, y, z = q.unbind(-1)
        rows = [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ]
        return torch.stack(rows, -2)

    def check(self, x: Tensor, name: str) -> None:
        require(
            x.shape[-1] == 4,
            f"{name} has {x.shape[-1]} numbers in its last dimension; a rotation is a unit quaternion: pass four "
            "numbers in the order w, x, y, z",
        )
        super().check(x, name)


@dataclass(frozen=True)
class Torus:
    """A torus: angles in [-pi, pi), each on a circle.

    exp_x(u) = wrap(x + u),  log_x(y) = wrap(y - x)
    Assumes radians.
    Source: Chen and Lipman 2024 (arXiv 2302.03660).

    >>> Torus().log(torch.tensor([[3.0]]), torch.tensor([[-3.0]])).round(decimals=4)
    tensor([[0.2832]])
    """

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return self.project(x + u)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(y - x)

    def move(self, x: Tensor, u: Tensor, t: Tensor) -> Point:
        return Point(self.exp(x, expand_time(t, x) * u), u)

    def project(self, x: Tensor) -> Tensor:
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi

    def tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return (2 * rng.fill(like) - 1) * math.pi

    def log_density(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -x[0].numel() * math.log(2 * math.pi), dtype=x.dtype, device=x.device)

    def check(self, x: Tensor, name: str) -> None:
        far = x.detach().abs().max()
        check_values(
            far <= math.pi + 1e-4,
            lambda: f"{name} has the angle {float(far):.4g}; angles lie in [-pi, pi): use radians, and wrap (project)",
        )


@dataclass(frozen=True)
class Geodesic:
    """The geodesic between two points of a manifold, at constant speed.

    x_t = exp_x0(t log_x0(x1)),  v = d x_t / dt, a vector tangent at x_t
    Assumes both ends on the manifold (checked).
    Source: Chen and Lipman 2024 (arXiv 2302.03660); for rotations Yue et al. 2025 (arXiv 2502.14637).

    >>> x0, x1 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> Geodesic().point(x0, x1, torch.tensor([0.5])).x
    tensor([[0.7071, 0.7071]])
    """

    space: Space = field(default_factory=Sphere)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        check_times(t)
        require(
            x0.shape == x1.shape,
            f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}; a path connects points one to one: "
            "pass tensors of equal shape",
        )
        self.space.check(x0, "the source point")
        self.space.check(x1, "the datum")
        return self.space.move(x0, self.space.log(x0, x1), t)

    def process(self) -> Process:
        return OnSpace(Projected(HEUN, self.space), self.space)


@dataclass(frozen=True)
class UniformOnSpace:
    """The uniform distribution on a manifold.

    p(x0) = 1 / volume
    Source: Chen and Lipman 2024 (arXiv 2302.03660).

    >>> UniformOnSpace(Sphere()).sample(torch.empty(2, 3), Rng(0)).norm(dim=1)
    tensor([1., 1.])
    """

    space: Space = field(default_factory=Sphere)
    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return self.space.sample(like, rng)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.space.log_density(x)


@dataclass(frozen=True)
class GeodesicEuler(SolverBase):
    """An Euler step along a geodesic; exact if the trajectory is a geodesic.

    x_s = exp_x((s - t) tangent_x(v(x, t)))
    Assumes states on the manifold.
    Source: Chen and Lipman 2024 (arXiv 2302.03660).

    >>> step = GeodesicEuler(Torus()).step
    >>> step(lambda x, t: torch.ones_like(x), torch.full((1, 1), 3.0), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[-2.2832]])
    """

    space: Space = field(default_factory=Sphere)
    order: int = field(default=1, init=False)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(space=self.space)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        space = self.space
        return space.project(space.exp(x, space.tangent(x, expand_time(s - t, x) * f(x, t)))), None


@dataclass(frozen=True)
class Projected(SolverWrapper):
    """A solver on a manifold by projection: a step in the coordinates, then the nearest point of the manifold.

    x_s = project(step(x)),  with the field evaluated at project(x)
    Assumes a field of tangent vectors.  The order is that of the inner solver.
    Source: Hairer, Lubich and Wanner 2006, "Geometric Numerical Integration", section IV.4.

    >>> Projected(HEUN, Torus()).order
    2
    """

    solver: Solver = HEUN
    space: Space = field(default_factory=Sphere)

    def __post_init__(self) -> None:
        self.check_inner()

    @property
    def own_traits(self) -> SolverTraits:
        return SolverTraits(space=self.space)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        project = self.space.project
        new, memory = self.solver.step(lambda y, u: f(project(y), u), x, t, s, memory)
        return project(new), memory


@dataclass(frozen=True)
class OnSpace(Process):
    """An ODE on a manifold: EULER becomes GeodesicEuler, other solvers are projected.

    dx/dt = tangent_x(v(x, t)),  d log p/dt = -(divergence on the manifold), with respect to the area
    Assumes states on the manifold.  For rotations the density is that of the quaternion, two of which are one rotation.

    >>> OnSpace(space=Sphere()).adapt_solver(EULER)
    GeodesicEuler(space=Sphere(tolerance=0.0001), order=1)
    """

    space: Space = field(default_factory=Sphere)

    def adapt_solver(self, solver: Solver) -> Solver:
        if complete(solver).traits.space is not None:
            return solver
        return GeodesicEuler(self.space) if solver == EULER else Projected(solver, self.space)

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        super().check(flow, solver, times)
        space = complete(solver).traits.space
        require(
            space == self.space,
            f"{type(solver).__name__} keeps its states on {space}, but those of the flow lie on {self.space}; they "
            f"would leave it: use Projected(HEUN, {self.space}), or a plain solver, which is projected automatically",
        )

    def wrap_network(self, network: Any) -> Any:
        return Tangent(network, self.space)

    def likelihood(self, flow: Flow, f: Dynamics, solver: Solver, shape: torch.Size) -> tuple[Dynamics, Solver]:
        require(
            not flow.source.gaussian,
            f"log_prob got a flow on {self.space} with the source {type(flow.source).__name__}, which has no density "
            f"with respect to the area of the manifold; set its source on it, such as UniformOnSpace({self.space})",
        )
        require(
            isinstance(solver, Projected | GeodesicEuler),
            f"log_prob on {self.space} got the solver {type(solver).__name__}, which cannot integrate the density with "
            "the state; use a plain solver such as HEUN, Projected(...) or GeodesicEuler(...)",
        )
        on_space: Any = solver
        return velocity_on(self.space, f), replace(on_space, space=_SpaceWithDensity(self.space, shape))


@dataclass(frozen=True)
class _SpaceWithDensity:
    """The product of a manifold and a line for the log density; states [B,D+1] are flattened points and one number."""

    space: Space
    shape: torch.Size  # [B,*S]

    def project(self, state: Tensor) -> Tensor:
        return self._join(self.space.project(self._point(state)), state)

    def tangent(self, state: Tensor, u: Tensor) -> Tensor:
        return self._join(self.space.tangent(self._point(state), self._point(u)), u)

    def exp(self, state: Tensor, u: Tensor) -> Tensor:
        return self._join(self.space.exp(self._point(state), self._point(u)), state + u)

    def _point(self, state: Tensor) -> Tensor:
        return state[:, :-1].reshape(len(state), *self.shape[1:])

    def _join(self, point: Tensor, state: Tensor) -> Tensor:
        return torch.cat([point.flatten(1), state[:, -1:]], 1)


class Tangent(Wrapping):
    """A field on a manifold: the output of a field, projected onto the tangent space.

    v = tangent_x(net(x, t, cond));  for a flow map u = tangent_x(net(x, t, cond, s))
    Assumes states on the manifold.
    Source: Chen and Lipman 2024 (arXiv 2302.03660).

    >>> Tangent(lambda x, t: x, Sphere())(torch.tensor([[0.6, 0.8]]), torch.zeros(1)).abs().max() < 1e-6
    tensor(True)
    """

    def __init__(self, field: Any, space: Space):
        super().__init__()
        self.field, self.space = field, space

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "space": self.space}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        end = () if s is None or not is_map(self.field) else (s,)
        return self.space.tangent(x, bind(self.field, cond)(x, t, *end))


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)
