"""How flows are drawn: densities and samples on curved spaces, symbols at the end of a guided run, singular ends."""

import math

import numpy as np
import pytest
import torch

from beeline.core.errors import IntegrationError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.sources import Gaussian
from beeline.density.likelihood import Hutchinson, HutchPlusPlus, log_prob
from beeline.distillation.students import OneStep, Reflow
from beeline.fields.flow import Flow, Network, Noise
from beeline.fields.prediction import Score
from beeline.paths.affine import Linear, VariancePreserving
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Weak
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.diffusions import White
from beeline.solvers.integrate import integrate
from beeline.solvers.reversible import Reversible
from beeline.solvers.runge_kutta import EULER, HEUN, RK4
from beeline.solvers.sde import EulerMaruyama
from beeline.spaces.manifold import Geodesic, GeodesicEuler, Projected, Rotations, Sphere, Torus, UniformOnSpace
from beeline.spaces.simplex import Dirichlet, GumbelSoftmax, PosteriorNetwork
from beeline.times.composed import Antithetic, Stratified

RATE = 0.8


def pull(d: int) -> torch.Tensor:
    return RATE * torch.nn.functional.one_hot(torch.tensor(d - 1), d).double()


def flow_on(space: Sphere, d: int, extra: float = 0.0) -> Flow:
    """v = the tangent part of a constant: z' = c (1 - z^2), so that z1 = tanh(c + artanh z0) from the uniform one."""

    def field(x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        return pull(d) - RATE * x[..., -1:] * x + extra * x  # ``extra`` leads off the sphere

    return Flow(field, Geodesic(space), UniformOnSpace(space))


def exact(x: torch.Tensor, d: int) -> torch.Tensor:
    z = x[:, -1]
    back = torch.tanh(torch.atanh(z) - RATE)
    volume = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    return -volume + (d - 1) / 2 * ((1 - back**2) / (1 - z**2)).log()


@pytest.mark.parametrize(("space", "d"), [(Sphere(), 2), (Sphere(), 3), (Sphere(), 5), (Rotations(), 4)])
def test_the_density_of_a_pushforward_on_a_sphere(space: Sphere, d: int) -> None:
    x = space.sample(torch.empty(64, d, dtype=torch.float64), Rng(0))
    for extra in (0.0, 0.7):  # the part of a velocity along the normal moves nothing
        assert torch.allclose(log_prob(flow_on(space, d, extra), x, steps=100, solver=RK4), exact(x, d), atol=1e-6)
    for solver in (Projected(RK4, space), Adaptive(1e-8, 1e-8)):
        assert torch.allclose(log_prob(flow_on(space, d), x, steps=60, solver=solver), exact(x, d), atol=1e-5)
    geodesic = log_prob(flow_on(space, d), x, steps=800, solver=GeodesicEuler(space))
    assert torch.allclose(geodesic, exact(x, d), atol=0.01)


def test_uniform_density_is_preserved() -> None:
    """A rotation of the sphere keeps 1/(4 pi); so does a rotation of estimates of the divergence."""
    axis = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    flow = Flow(lambda x, t: torch.linalg.cross(axis.expand_as(x), x), Geodesic(), UniformOnSpace())
    x = Sphere().sample(torch.empty(16, 3, dtype=torch.float64), Rng(0))
    for divergence in (None, HutchPlusPlus(Rng(0), 9)):
        assert torch.allclose(
            log_prob(flow, x, divergence=divergence).exp(), x.new_tensor(1 / (4 * math.pi)), atol=1e-9
        )
    many = log_prob(flow_on(Sphere(), 3), x, divergence=Hutchinson(Rng(0), 400))
    assert float((many - exact(x, 3)).abs().mean()) < 0.1


def test_densities_on_manifolds_integrate_to_one() -> None:
    z, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))
    x = torch.stack([(1 - z**2).sqrt(), 0 * z, z], 1)
    total = (log_prob(flow_on(Sphere(), 3), x, solver=RK4).exp() * weight).sum() * 2 * math.pi
    assert abs(float(total) - 1) < 1e-6
    torus = Flow(lambda x, t: torch.sin(x), Geodesic(Torus()), UniformOnSpace(Torus()))
    angle = ((torch.arange(200, dtype=torch.float64) + 0.5) / 200 * 2 - 1)[:, None] * math.pi
    got = log_prob(torus, angle, solver=RK4).exp()
    before = 2 * torch.atan(math.exp(-1) * torch.tan(angle / 2))
    assert torch.allclose(got, (before.sin() / angle.sin())[:, 0] / (2 * math.pi), atol=1e-6)
    assert abs(float(got.sum()) * 2 * math.pi / 200 - 1) < 1e-6


def test_several_points_of_a_space_in_one_datum() -> None:
    x = Sphere().sample(torch.empty(8, 2, 3, dtype=torch.float64), Rng(0))
    both = log_prob(flow_on(Sphere(), 3), x, solver=RK4)
    assert torch.allclose(both, exact(x[:, 0], 3) + exact(x[:, 1], 3), atol=1e-5)


def test_likelihoods_that_do_not_exist_are_refused() -> None:
    x = Sphere().sample(torch.empty(4, 3), Rng(0))
    field = flow_on(Sphere(), 3).field
    with pytest.raises(ValueError, match="no density with respect to the area"):
        log_prob(Flow(field, Geodesic(), Gaussian()), x)
    with pytest.raises(ValueError, match="keeps its states on Torus"):
        log_prob(flow_on(Sphere(), 3), x, solver=GeodesicEuler(Torus()))
    flat = Flow(lambda x, t: -x)
    for solver, why in ((EulerMaruyama(White(Rng(0))), "adds noise"), (Reversible(), "has an augmented state")):
        with pytest.raises(ValueError, match=why):  # one coordinate and its density look like two copies
            log_prob(flat, x[:, :1], solver=solver)


@pytest.mark.parametrize("solver", [EULER, HEUN, RK4, Adaptive(1e-3, 1e-3), GeodesicEuler()])
def test_samples_of_flows_on_a_sphere_lie_on_it(solver: object) -> None:
    x0 = Sphere().sample(torch.empty(100, 3, dtype=torch.float64), Rng(0))
    for extra in (0.9, 0.0):  # with and without a part of the velocity that leads off the sphere
        x1 = Sampler(6, solver=solver)(flow_on(Sphere(), 3, extra), x0)
        assert float((x1.norm(dim=1) - 1).abs().max()) < 1e-12
    close = 0.08 if solver in (EULER, GeodesicEuler()) else 0.02
    assert float((x1[:, 2] - torch.tanh(RATE + torch.atanh(x0[:, 2]))).abs().max()) < close


def test_a_solver_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="those of the flow lie on Sphere"):
        Sampler(2, solver=Projected(HEUN, Torus()))(flow_on(Sphere(), 3), torch.eye(3).double())


def test_students_on_a_sphere_stay_on_it() -> None:
    """Pairs of a teacher on the sphere are on it, and a perfect student of them makes the datum in one step."""

    class Field(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
            return flow_on(Sphere(), 3).field(x, t)

    teacher = Flow(Field(), Geodesic(), UniformOnSpace())
    data = Batch(Sphere().sample(torch.empty(50, 3, dtype=torch.float64), Rng(1)))
    for method in (Reflow(Sampler(20), reverse=0.5), OneStep(Sampler(20), reverse=0.5)):
        pairs = method.data(teacher, data, Rng(2))
        assert max(float((x.norm(dim=1) - 1).abs().max()) for x in (pairs.x0, pairs.x1)) < 1e-6
        assert bool(method.objective(teacher)(teacher.field, pairs, Rng(3)).value.isfinite())
        _, sampler = method.student(teacher, {"student": teacher.field})
        assert sampler.solver == GeodesicEuler(Sphere())

        def straight(x: torch.Tensor, t: torch.Tensor, pairs: Batch = pairs) -> torch.Tensor:
            ahead = Geodesic().space.log(pairs.x0, pairs.x1)
            return Sphere().move(pairs.x0, ahead, t).v

        made = sampler(Flow(straight, Geodesic(), UniformOnSpace()), pairs.x0)
        assert torch.allclose(made, pairs.x1, atol=1e-9)


# strong and weak probabilities of the first symbol: 0.45 and 0.03, so that guidance of 3 gives 1.29
STRONG, WEAK = torch.tensor([3.0, 3.2]), torch.tensor([0.9, 4.3])


def logits(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    return torch.where((cond == 0)[:, None], STRONG, WEAK).to(x)


@pytest.mark.parametrize("path", [Dirichlet(), GumbelSoftmax()])
def test_guidance_applies_to_the_final_symbol(path: Dirichlet) -> None:
    flow = Flow(PosteriorNetwork(logits, path), path, path.sources()[0])
    x0 = path.sources()[0].sample(torch.empty(64, 2), Rng(0))
    label = torch.zeros(64, dtype=torch.long)
    assert Sampler(8)(flow, x0, label).argmax(-1).tolist() == [1] * 64
    weak = PosteriorNetwork(lambda x, t, cond: WEAK.expand_as(x), path)
    for guidance in (CFG(3.0, 1), Guide(Weak(weak), Extrapolate(3.0))):
        made = Sampler(8, guidance=guidance)(flow, x0, label)
        assert made.argmax(-1).tolist() == [0] * 64 and bool((made.amax(-1) == 1).all())
    late = CFG(3.0, 1, window=(0.0, 0.5))  # which is over at the end
    assert Sampler(8, guidance=late)(flow, x0, label).argmax(-1).tolist() == [1] * 64
    other = Guide(Weak(lambda x, t, cond: 0 * x), Extrapolate(3.0), window=(1.0, 1.0))
    with pytest.raises(ValueError, match="no logits"):
        Sampler(8, solver=EULER, guidance=other)(flow, x0, label)


def test_a_field_with_nan_raises_immediately() -> None:
    calls = 0

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.where((t > 0.5)[:, None], math.nan, -x)

    for solver in (Adaptive(), Adaptive(per_sample=False, dense=True), Projected(Adaptive(), Torus())):
        calls = 0
        with pytest.raises(IntegrationError, match="NaN or infinite values at t = 0.[5-9]") as error:
            integrate(field, torch.ones(3, 2), torch.tensor([0.0, 1.0]), solver)
        assert calls < 100 and bool(error.value.x.isfinite().all())
    # a trial that overflows is repeated with a shorter step: x' = exp(20 x), exact until it explodes
    steep = integrate(lambda x, t: torch.exp(20 * x), torch.full((1, 1), -0.05), torch.tensor([0.0, 0.13]), Adaptive())
    assert float(steep) == pytest.approx(-math.log(math.exp(1.0) - 20 * 0.13) / 20, abs=1e-3)


@pytest.mark.parametrize("prediction", [Noise(), Score()])
def test_variance_preserving_noise_works_by_default(prediction: Noise) -> None:
    """Data N(0, 1): the state keeps that distribution at all times, E[x0 | x_t] = b x, and nothing moves."""

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
            sign = 1 if isinstance(prediction, Noise) else -1
            return sign * VariancePreserving().b(t)[:, None].to(x) * x

    path = VariancePreserving()
    x0 = Rng(0).normal(torch.empty(50, 3, dtype=torch.float64))
    made = Sampler(20)(Flow(Network(Net(), path, prediction), path), x0)
    assert torch.allclose(made, x0, atol=5e-3)
    assert torch.allclose(Sampler(20).invert(Flow(Network(Net(), path, prediction), path), x0), x0, atol=5e-3)
    # on paths without a singular end nothing is clipped at it
    x, t = x0, torch.ones(50, dtype=torch.float64)
    assert torch.allclose(Noise().velocity(2 * x, x, t, Linear()), -x, atol=1e-12)


def test_stratified_times_stay_inside_the_interval() -> None:
    class Zero(Rng):
        def uniform(self, n: int, like: torch.Tensor) -> torch.Tensor:
            return torch.zeros(n, dtype=like.dtype)

    class One(Rng):
        def uniform(self, n: int, like: torch.Tensor) -> torch.Tensor:
            return torch.full((n,), 1 - 2**-24, dtype=like.dtype)

    path = VariancePreserving()
    for rng in (Zero(0), One(0)):
        for times in (Antithetic(), Stratified()):
            t = times(6, torch.empty(0), rng)
            assert bool(((t > 0) & (t < 1)).all())
            assert bool(path.point(torch.zeros(6, 1), torch.ones(6, 1), t).v.isfinite().all())
