"""The minimum of every objective is the exact field, for all predictions, paths, times, weights and targets."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent, MinibatchOT, Paired
from beeline.couplings.sources import Uniform as UniformSource
from beeline.couplings.transport import Sinkhorn
from beeline.fields.flow import Data, Noise
from beeline.fields.prediction import Boundary, Ends, Score
from beeline.objectives.classify import Classify
from beeline.objectives.hierarchical import Hierarchical, RandomVelocity
from beeline.objectives.latent_noise import LatentNoise
from beeline.objectives.losses.distances import Bregman, PowerCost
from beeline.objectives.losses.weights import ByDensity, MinSNR, PowerWeight, SigmoidSNR
from beeline.objectives.matching import FlowMatching
from beeline.objectives.pyramid import PyramidMatching
from beeline.objectives.second_order import ConstantAccelerationMatching, EncodedSource, Helped, SecondOrder
from beeline.objectives.velocity_ot import VelocityOT
from beeline.paths.affine import Affine, Cosine, Linear, Polynomial, VariancePreserving
from beeline.paths.interpolant import Bridge, ConstantAcceleration, Interpolant, SineSquared, VarianceExploding
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER, RK4, FlowMapStep
from beeline.spaces.manifold import Geodesic, Rotations, Sphere, Torus, UniformOnSpace
from beeline.spaces.pyramid import Pyramid
from beeline.spaces.simplex import Dirichlet, PosteriorNetwork
from beeline.times.composed import Antithetic, Binned, Frames, NormalSNR, Stratified
from beeline.times.samplers import At, Beta, CosMap, LogitNormal, Mode, UShaped
from tests.objectives.exact import PLAIN, Nudged, assert_minimum, labelled, plain, scores

INSIDE = LogitNormal(0.0, 0.8)


@pytest.mark.parametrize(
    "path",
    [Linear(), Cosine(), VariancePreserving(), Polynomial(2.0), VarianceExploding(), ConstantAcceleration(1.5)],
    ids=str,
)
def test_every_affine_path(path):
    assert_minimum(FlowMatching(path, times=INSIDE), PLAIN.field(path))


@pytest.mark.parametrize(
    "times",
    [Mode(1.29), CosMap(), Beta(), UShaped(4.0), Stratified(INSIDE), Antithetic(), Binned((1, 4, 2)), NormalSNR()],
    ids=str,
)
def test_every_time_sampler(times):
    assert_minimum(FlowMatching(times=times), PLAIN.field())


@pytest.mark.parametrize("weight", [ByDensity(CosMap()), PowerWeight(1.0), MinSNR(), SigmoidSNR()], ids=str)
def test_every_weight(weight):
    assert_minimum(FlowMatching(weight=weight, times=INSIDE), PLAIN.field())


@pytest.mark.parametrize("prediction", [Data(), Noise(), Score(), Boundary(), Boundary(source=True)], ids=str)
def test_every_prediction(prediction):
    assert_minimum(FlowMatching(prediction=prediction, times=INSIDE), PLAIN.field())


@pytest.mark.parametrize("p", [2.0, 3.0, 4.0])
def test_every_convex_cost_has_the_same_minimum(p):
    assert_minimum(FlowMatching(distance=Bregman(PowerCost(p)), times=INSIDE), PLAIN.field())


def test_every_frame_has_its_own_time():
    def data(n, rng):
        return Batch(PLAIN.sample(3 * n, rng, dtype=torch.float64).reshape(n, 3, 2))

    def exact(x, t):
        return PLAIN.field()(x.flatten(0, 1), t.flatten()).reshape(x.shape)

    assert_minimum(FlowMatching(times=Frames(INSIDE, 3)), exact, data)


def _noisy(latent):
    """The affine path with the marginals of an interpolant from a Gaussian source."""
    return Affine(lambda t: t, lambda t: torch.sqrt((1 - t) ** 2 + latent.size(t) ** 2))


@pytest.mark.parametrize("path", [Interpolant(latent=SineSquared(0.8)), Bridge(0.7)], ids=str)
def test_interpolants_and_their_latent_noise(path):
    same = _noisy(path.latent)
    assert_minimum(FlowMatching(path, times=INSIDE), PLAIN.field(same))

    def eta(x, t):
        return -path.latent.size(t)[:, None] * PLAIN.score(x, t, path=same)

    assert_minimum(LatentNoise(path, times=INSIDE), eta)
    t = torch.full((4,), 0.4, dtype=torch.float64)
    x = Rng(0).normal(torch.empty(4, 2, dtype=torch.float64))
    assert torch.allclose(path.score(eta(x, t), t), PLAIN.score(x, t, path=same))


@pytest.mark.parametrize("source", [False, True])
def test_boundary_values_hold_for_every_network(source):
    wild = lambda x, t: 7 * torch.sin(5 * x) + t[:, None]  # noqa: E731
    x = Rng(0).normal(torch.empty(6, 2, dtype=torch.float64))
    zero, one = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    masked = Boundary(source, mean=0.3)
    for field in (
        lambda x, t: masked.velocity(wild(x, t), x, t, Linear()),
        Ends(wild, Independent(), source, mean=0.3),
    ):
        assert torch.allclose(field(x, one), x, atol=1e-12)
        if source:
            assert torch.allclose(field(x, zero), 0.3 - x, atol=1e-12)
    t = torch.full((6,), 0.4, dtype=torch.float64)
    again = masked.value(x, masked.velocity(x * 2, x, t, Linear()), t, Linear())
    assert torch.allclose(again, 2 * x, atol=1e-10)
    assert torch.allclose(PLAIN.field()(x, one), x, atol=1e-9)  # the exact field has this value


def test_boundary_refuses_other_couplings():
    for coupling in (MinibatchOT(), Paired(), Sinkhorn(), Independent(UniformSource())):
        with pytest.raises(BeelineError, match="known only for an"):
            Ends(lambda x, t: x, coupling)
    with pytest.raises(BeelineError, match="straight path"):
        Boundary().velocity(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), Cosine())


def test_score_prediction_is_the_score():
    t, x = torch.full((5,), 0.4, dtype=torch.float64), Rng(0).normal(torch.empty(5, 2, dtype=torch.float64))
    v = PLAIN.field(Cosine())(x, t)
    wanted = Cosine().b(t)[:, None] * PLAIN.score(x, t, path=Cosine())
    assert torch.allclose(Score().value(x, v, t, Cosine()), wanted, atol=1e-9)
    assert torch.allclose(Score().velocity(wanted, x, t, Cosine()), v, atol=1e-9)


def test_classifying_finds_the_exact_posterior():
    prior, path = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), Dirichlet()

    def data(n, rng):
        k = torch.multinomial(prior, n, replacement=True, generator=rng.generator())
        return Batch(nn.functional.one_hot(k, 3).double())

    exact = lambda x, t: prior.log() + (path.top * t)[:, None] * x.clamp(min=1e-300).log()  # noqa: E731
    net = Nudged(exact)
    field = PosteriorNetwork(net, path)
    objective = Classify(path)
    wrapped = type("Wrapped", (), {"__call__": lambda self, *a: field(*a), "logits": field.logits, "by": net.by})()
    # the loss is invariant to a constant added to all logits, so only the other changes count
    found = scores(objective, wrapped, data)
    assert float(found[2:].abs().max()) < 4.5
    with torch.no_grad():
        net.by += 0.5
    assert float(scores(objective, wrapped, data, batches=12).abs().max()) > 8
    with pytest.raises(BeelineError, match="no ``logits``"):
        objective(lambda x, t: x, data(3, Rng(0)), Rng(0))
    with pytest.raises(BeelineError, match="not on the simplex"):
        objective(field, Batch(torch.ones(2, 3)), Rng(0))


M, S = 0.8, 0.6  # one-dimensional Gaussian data


def _inner(y, tau, cond):
    """The exact inner velocity of a hierarchical flow: x1 given x_t is Gaussian, and so is v1 = (x1 - x)/(1 - t)."""
    x, t = cond["state"], cond["time"]
    var = 1 / (1 / S**2 + t**2 / (1 - t) ** 2)
    mean = var * (M / S**2 + t * x / (1 - t) ** 2)
    mu, width = (mean - x) / (1 - t), var / (1 - t) ** 2
    tau = tau[:, None]
    return mu + (tau * width - (1 - tau)) / (tau**2 * width + (1 - tau) ** 2) * (y - tau * mu)


def _gauss(n, rng):
    return Batch(M + S * rng.normal(torch.empty(n, 1, dtype=torch.float64)))


def test_hierarchical_learns_the_distribution_of_the_velocity_and_samples_the_data():
    assert_minimum(Hierarchical(FlowMatching(times=INSIDE), FlowMatching(times=INSIDE)), _inner, _gauss)
    field = RandomVelocity(_inner, Rng(3), steps=20, solver=RK4)
    x0 = Rng(0).normal(torch.empty(4000, 1, dtype=torch.float64))
    for outer in (1, 4):  # one outer step is enough: the random velocity at t = 0 leads to the datum
        x = integrate(field, x0, torch.linspace(0, 1, outer + 1, dtype=torch.float64), EULER)
        assert abs(float(x.mean()) - M) < 0.04 and abs(float(x.std()) - S) < 0.03
    with pytest.raises(BeelineError, match="changes their distribution at each state"):
        Hierarchical(FlowMatching(coupling=MinibatchOT()))


def test_velocity_transport_preserves_the_distribution_at_each_state_and_shortens_paths():
    n = 400
    state = Rng(1).normal(torch.empty(n, 1, dtype=torch.float64))
    told = {"state": state, "time": torch.full((n, 1), 0.5, dtype=torch.float64)}
    ot = VelocityOT(_inner, draws=8, steps=16)
    got = ot(Batch(torch.zeros(n, 1, dtype=torch.float64), cond=told), Rng(2))
    var = 1 / (1 / S**2 + 1)
    mu, width = (var * (M / S**2 + state * 2) - state) / 0.5, math.sqrt(var) / 0.5
    z = (got.x1 - mu) / width
    assert abs(float(z.mean())) < 0.15 and abs(float(z.std()) - 1) < 0.1
    assert abs(float(got.x0.mean())) < 0.15
    assert float(torch.corrcoef(torch.cat([got.x0, z], 1).T)[0, 1]) > 0.7
    assert isinstance(Hierarchical(FlowMatching(coupling=ot)), Hierarchical)
    with pytest.raises(BeelineError, match="no field"):
        VelocityOT()(Batch(state), Rng(0))


def test_constant_acceleration_is_exact_on_its_own_pairs():
    # pairs x1 = 2 x0 + 1: the state determines the pair, so both networks are known
    def ends(x, t, v_share):
        # x = (1-t^2) x0 + t^2 x1 + (t - t^2) h (x1 - x0), x1 - x0 = x0 + 1
        a = t * v_share + (1 - v_share) * t * t
        x0 = (x - a) / (1 + a)
        return x0, 2 * x0 + 1

    h = 1.5

    def velocity(x, t):
        x0, x1 = ends(x, t[:, None], h)
        return h * (x1 - x0)

    def acceleration(x, t, cond):
        return 2 * (cond["velocity"] / h - cond["velocity"])

    net = SecondOrder(velocity, acceleration)
    x0 = Rng(0).normal(torch.empty(50, 1, dtype=torch.float64))
    loss = ConstantAccelerationMatching(h)(net, Batch(2 * x0 + 1, x0), Rng(1))
    assert float(loss.value) < 1e-20
    for steps in (1, 2, 5):
        x = integrate(net, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), FlowMapStep())
        assert torch.allclose(x, 2 * x0 + 1, atol=1e-10)
    with pytest.raises(BeelineError, match="two networks"):
        ConstantAccelerationMatching()(velocity, Batch(x0, x0), Rng(0))


def test_encoded_source_has_the_right_divergence_and_a_standard_encoder_changes_nothing():
    def encoder(x):
        return torch.stack([0.5 * x, torch.full_like(x, -0.3)], 1)

    batch = plain(64, Rng(0))
    loss = EncodedSource(strength=2.0)(Helped(PLAIN.field(), encoder), batch, Rng(1))
    normal = torch.distributions.Normal
    known = torch.distributions.kl_divergence(normal(0.5 * batch.x1, math.exp(-0.3)), normal(0.0, 1.0)).mean()
    assert abs(float(loss.terms["kl"] - known)) < 1e-12
    assert abs(float(loss.value - loss.terms["error"] - 2 * known)) < 1e-9
    standard = lambda x: torch.zeros(len(x), 2, 2, dtype=x.dtype)  # noqa: E731
    objective = EncodedSource(FlowMatching(coupling=Paired(), times=INSIDE))
    assert_minimum(lambda f, b, r: objective(Helped(f, standard), b, r), PLAIN.field())
    with pytest.raises(BeelineError, match="samples x0 itself"):
        EncodedSource(FlowMatching())
    with pytest.raises(BeelineError, match="an encoder beside"):
        EncodedSource()(PLAIN.field(), batch, Rng(0))
    with pytest.raises(BeelineError, match="mean and log"):
        EncodedSource()(Helped(PLAIN.field(), lambda x: x), batch, Rng(0))


def test_pyramid_matching_is_zero_at_the_exact_field_of_one_image():
    picture = torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8) / 32 - 1
    pyramid = Pyramid()

    def field(x, clock):
        k = {2: 0, 4: 1, 8: 2}[x.shape[-1]]
        low, high = (pyramid.clock(k, torch.tensor(u, dtype=x.dtype)) for u in (0.0, 1.0))
        u = (clock - low) / (high - low)
        fake = torch.zeros(len(x), 1, 8, 8, dtype=x.dtype)
        mean = pyramid.point(fake, picture.expand(len(x), 1, 8, 8), k, u)
        s, e = pyramid.start(k), pyramid.levels[k + 1]
        share = ((1 - u) * s + u * e)[:, None, None, None]
        return mean.v + (e - s) * (x - mean.x) / share

    stages = set()
    for i in range(9):
        loss = PyramidMatching(times=INSIDE)(field, Batch(picture.expand(4, 1, 8, 8)), Rng(i))
        assert float(loss.value) < 1e-18
        stages.add(int(loss.t.mean() * 1e6))
    assert len(stages) == 9


@pytest.mark.parametrize("space, d", [(Sphere(), 3), (Torus(), 2), (Rotations(), 4)], ids=str)
def test_geodesic_matching_is_zero_at_the_exact_field_of_one_datum(space, d):
    one = space.sample(torch.empty(1, d, dtype=torch.float64), Rng(9))
    field = lambda x, t: space.log(x, one.expand_as(x)) / (1 - t)[:, None]  # noqa: E731
    objective = FlowMatching(Geodesic(space), Independent(UniformOnSpace(space)), At(0.4))
    assert float(objective(field, Batch(one.expand(200, d)), Rng(0)).value) < 1e-18


def test_identities_of_couplings():
    batch = plain(1, Rng(0))
    # a batch of one is coupled independently
    assert torch.equal(MinibatchOT()(batch, Rng(5)).x0, Independent()(batch, Rng(5)).x0)
    # the objective on reflow pairs of a straight flow has its minimum at that flow, with loss zero
    x0 = Rng(0).normal(torch.empty(64, 2, dtype=torch.float64))
    pairs = Batch(x0 + 2.0, x0)
    straight = lambda x, t: torch.full_like(x, 2.0)  # noqa: E731
    assert float(FlowMatching(coupling=Paired())(straight, pairs, Rng(1)).value) < 1e-25
    assert labelled(3, Rng(0)).cond["label"].shape == (3,)
