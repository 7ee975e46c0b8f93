"""Manifolds against scipy, closed forms and orders; everything in float64."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN, RK4
from beeline.spaces.manifold import (
    Geodesic,
    GeodesicEuler,
    Projected,
    Rotations,
    Sphere,
    Tangent,
    Torus,
    UniformOnSpace,
)

SPACES = [(Sphere(), 3), (Sphere(), 5), (Rotations(), 4), (Torus(), 2)]


def ends(space, d, n=64):
    like = torch.empty(n, d, dtype=torch.float64)
    return space.sample(like, Rng(1)), space.sample(like, Rng(2))


def same(space, x, y):
    if isinstance(space, Rotations):
        return float(space.distance(x, y).max())
    return float((space.log(x, y) if isinstance(space, Torus) else x - y).abs().max())


@pytest.mark.parametrize("space, d", SPACES, ids=str)
def test_exp_and_log_are_inverse_and_tangent(space, d):
    x, y = ends(space, d)
    u = space.log(x, y)
    assert same(space, space.exp(x, u), y) < 1e-7
    assert torch.allclose(space.tangent(x, u), u, atol=1e-12)
    assert torch.allclose(space.log(x, space.exp(x, 0.3 * u)), 0.3 * u, atol=1e-10)
    assert torch.allclose(space.log(x, x), torch.zeros_like(x), atol=1e-12)
    assert torch.allclose(space.exp(x, torch.zeros_like(x)), x)


@pytest.mark.parametrize("space, d", SPACES, ids=str)
def test_geodesic_has_the_right_ends_slope_and_speed(space, d):
    x0, x1 = ends(space, d)
    path, n = Geodesic(space), len(x0)
    at = lambda t: path.point(x0, x1, torch.full((n,), t, dtype=torch.float64))  # noqa: E731
    assert same(space, at(0.0).x, x0) < 1e-9 and same(space, at(1.0).x, x1) < 1e-7
    h = 1e-6
    rise = at(0.4 + h).x - at(0.4 - h).x
    if isinstance(space, Torus):
        rise = space.project(rise)
    assert torch.allclose(rise / (2 * h), at(0.4).v, atol=1e-7)
    speed = at(0.4).v.norm(dim=-1)
    assert torch.allclose(speed, space.log(x0, x1).norm(dim=-1), atol=1e-10)
    assert torch.allclose(space.tangent(at(0.4).x, at(0.4).v), at(0.4).v, atol=1e-10)
    # semigroup: a third of the way from 0.4 is 0.6
    assert same(space, space.exp(at(0.4).x, space.log(at(0.4).x, x1) / 3), at(0.6).x) < 1e-7


def test_geodesic_euler_is_exact_on_its_own_path_and_back():
    for space, d in SPACES:
        x0, x1 = ends(space, d)
        f = lambda x, t, space=space, x1=x1: space.log(x, x1) / (1 - t)[:, None]  # noqa: E731
        there = integrate(f, x0, torch.linspace(0, 0.9, 4, dtype=torch.float64), GeodesicEuler(space))
        known = Geodesic(space).point(x0, x1, torch.full((len(x0),), 0.9, dtype=torch.float64)).x
        assert same(space, there, known) < 1e-6


@pytest.mark.parametrize("solver, order", [(GeodesicEuler(), 1), (Projected(HEUN), 2), (Projected(RK4), 4)], ids=str)
def test_orders_on_a_field_on_the_sphere(solver, order):
    matrix = torch.tensor([[0, -2, 0.3], [1, 0, -1], [0.5, 1, 0]], dtype=torch.float64)
    space = Sphere()

    def f(x, t):
        return space.tangent(x, torch.sin(3 * x @ matrix.T + t[:, None]))

    x0 = ends(space, 3, 8)[0]
    best = integrate(f, x0, torch.linspace(0, 1, 401, dtype=torch.float64), Projected(RK4))
    error = []
    for steps in (20, 40):
        x = integrate(f, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), solver)
        assert torch.allclose(x.norm(dim=1), torch.ones(8, dtype=torch.float64), atol=1e-12)
        error.append(float((x - best).norm()))
    assert solver.order == order
    assert abs(math.log2(error[0] / error[1]) - order) < 0.35


def test_quaternions_agree_with_scipy():
    q0, q1 = ends(Rotations(), 4, 20)
    space = Rotations()
    scipy = lambda q: Rotation.from_quat(q.roll(-1, -1).numpy())  # noqa: E731 - x, y, z, w there
    assert abs(space.matrix(q0).numpy() - scipy(q0).as_matrix()).max() < 1e-12
    assert abs(space.matrix(space.product(q0, q1)).numpy() - (scipy(q0) * scipy(q1)).as_matrix()).max() < 1e-12
    path = Geodesic(space)
    for i in range(20):
        pair = Rotation.from_quat(torch.stack([q0[i], q1[i]]).roll(-1, -1).numpy())
        slerp = Slerp([0, 1], pair)(0.37).as_matrix()
        mine = path.point(q0[i : i + 1], q1[i : i + 1], torch.tensor([0.37], dtype=torch.float64)).x
        assert abs(space.matrix(mine)[0].numpy() - slerp).max() < 1e-9
    turn = (scipy(q0).inv() * scipy(q1)).as_rotvec()
    omega = space.angular(q0, space.log(q0, q1))
    assert abs(omega.numpy() - turn).max() < 1e-7
    assert torch.allclose(space.velocity(q0, omega), space.log(q0, q1), atol=1e-10)
    assert torch.allclose(space.distance(q0, -q0), torch.zeros(20, dtype=torch.float64), atol=1e-12)


def test_quaternion_log_is_stable_near_half_a_turn():
    # the logarithm through the trace of a float32 matrix loses everything here (card 450)
    q0 = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    for delta in (1e-2, 1e-4, 1e-6):
        half = (math.pi - delta) / 2
        q1 = torch.tensor([[math.cos(half), math.sin(half), 0.0, 0.0]])
        assert abs(float(Rotations().angular(q0, Rotations().log(q0, q1))[0, 0]) - (math.pi - delta)) < 1e-6


def test_uniform_distributions_are_uniform():
    x = UniformOnSpace(Sphere()).sample(torch.empty(20_000, 3, dtype=torch.float64), Rng(0))
    assert float(x.mean(0).abs().max()) < 0.02
    assert torch.allclose(x.T @ x / len(x), torch.eye(3, dtype=torch.float64) / 3, atol=0.01)
    assert abs(float(UniformOnSpace(Sphere()).log_prob(x[:1])) + math.log(4 * math.pi)) < 1e-12
    assert abs(float(UniformOnSpace(Rotations()).log_prob(torch.ones(1, 4) / 2)) + math.log(2 * math.pi**2)) < 1e-6
    a = UniformOnSpace(Torus()).sample(torch.empty(20_000, 2, dtype=torch.float64), Rng(0))
    assert float(torch.cos(a).mean().abs()) < 0.02
    assert abs(float(UniformOnSpace(Torus()).log_prob(a[:1])) + 2 * math.log(2 * math.pi)) < 1e-12


def test_tangent_network_stays_on_the_sphere():
    field = Tangent(lambda x, t: torch.ones_like(x) * 3, Sphere())
    x0 = ends(Sphere(), 3)[0]
    x = integrate(field, x0, torch.linspace(0, 1, 9, dtype=torch.float64), GeodesicEuler())
    assert torch.allclose(x.norm(dim=1), torch.ones(64, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize(
    "space, x, words",
    [
        (Sphere(), torch.ones(1, 3), "not on Sphere"),
        (Rotations(), torch.ones(1, 4), "not on Rotations"),
        (Rotations(), torch.tensor([[1.0, 0.0, 0.0]]), "unit quaternion"),
        (Torus(), torch.full((1, 2), 4.0), "radians"),
    ],
)
def test_points_off_the_space_are_refused(space, x, words):
    with pytest.raises(BeelineError, match=words):
        Geodesic(space).point(x, x, torch.zeros(1))
