"""Distances, regularisers, helpers, windows and deep supervision against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Paired
from beeline.couplings.stored import Annealed
from beeline.distillation.pairs import AnnealedPairs
from beeline.fields.flow import Data, Flow, Noise, Velocity
from beeline.objectives.alignment import Aligned, Dispersed, SelfPerceptual, SelfRectified, Separable, SmoothSteps
from beeline.objectives.losses.basic import Context, Huber, squared
from beeline.objectives.losses.basic import one as even
from beeline.objectives.losses.distances import (
    Bregman,
    Combined,
    Direction,
    FeatureWeighted,
    Perceptual,
    PowerCost,
    check_cost,
)
from beeline.objectives.losses.weights import PowerWeight
from beeline.objectives.matching import FlowMatching
from beeline.objectives.second_order import ConstantAccelerationMatching, Helped, Potential, SecondOrder
from beeline.objectives.windows import Windowed
from beeline.paths.affine import Cosine, Linear
from beeline.paths.interpolant import Bridge
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import HEUN
from beeline.times.samplers import LogitNormal
from tests.objectives.exact import PLAIN, assert_minimum, plain

INSIDE = LogitNormal(0.0, 0.8)
ONE = torch.tensor([[0.7, -1.2]], dtype=torch.float64)  # a data set of one datum: x1 is known


def certain(x, t, cond=None):
    return (ONE - x) / (1 - t)[:, None]


def one(n):
    return Batch(ONE.expand(n, 2), cond={"label": torch.arange(n) % 2})


class Net(nn.Module):
    """The exact field of one datum, with a block."""

    def __init__(self):
        super().__init__()
        self.block = nn.Identity()

    def forward(self, x, t, cond=None):
        return self.block(certain(x, t))


def test_distances_are_their_formulas():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 5.0], [2.0, 0.0]])
    cosine = torch.tensor([4 / 5, 1.0])
    assert torch.allclose(Direction(0.5)(a, b), squared(a, b) + 0.5 * (1 - cosine))
    assert torch.allclose(Direction(0.0)(a, b), squared(a, b))
    features = lambda x: [x[:, :1] ** 2, 3 * x]  # noqa: E731
    known = (a[:, 0] ** 2 - b[:, 0] ** 2) ** 2 / 2
    known = 2 * (known + 9 * squared(a, b) / 2) + 0.1 * squared(a, b)
    assert torch.allclose(Perceptual(features, 2.0, 0.1)(a, b), known)
    assert torch.allclose(Bregman()(a, b), squared(a, b) / 2)
    u, v = a.double(), b.double()
    cost = PowerCost(3.0)
    direct = cost.value(v) - cost.value(u) - (cost.gradient(u) * (v - u)).sum(1)
    assert torch.allclose(Bregman(cost)(u, v), direct / 2)


def test_the_pseudo_huber_constant_grows_with_the_dimension():
    """(sqrt(|d|^2 + c^2) - c) / D with c = scale D, the constant of improved rectified flow; or by coordinate."""
    d = Rng(0).normal(torch.empty(5, 3, 4, 4, dtype=torch.float64))
    c = 0.00054 * 48
    known = ((d.square().sum((1, 2, 3)) + c * c).sqrt() - c) / 48
    assert torch.allclose(Huber()(d, torch.zeros_like(d)), known, atol=1e-15)
    by_coordinate = ((d.square() + 1e-6).sqrt() - 1e-3).mean((1, 2, 3))
    assert torch.allclose(Huber(1e-3, each=True)(d, torch.zeros_like(d)), by_coordinate, atol=1e-15)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BeelineError, match="Huber got scale="):
            Huber(scale)


def test_power_cost_satisfies_fenchel_equality():
    u = Rng(0).normal(torch.empty(40, 3, dtype=torch.float64))
    u = u + 0.05 * u.sign()  # away from the point where the inverse has an infinite slope
    for p in (1.5, 2.0, 4.0):
        cost, q = PowerCost(p), p / (p - 1)
        y = cost.gradient(u)
        conjugate = y.abs().pow(q).sum(1) / q
        assert torch.allclose(cost.value(u) + conjugate, (u * y).sum(1))
        assert torch.allclose(cost.dual(y), u, atol=1e-8)


def test_perceptual_distance_with_linear_features_has_the_exact_minimum():
    turn = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
    distance = Perceptual(lambda x: x @ turn.T, plain=0.0)
    assert_minimum(FlowMatching(prediction=Data(), distance=distance, times=INSIDE), PLAIN.field())


@pytest.mark.parametrize("path", [Linear(), Cosine()])
@pytest.mark.parametrize("prediction", [Velocity(), Data(), Noise()])
def test_a_perceptual_distance_compares_data_for_every_prediction(path, prediction):
    """Not of velocities or noise; alone, inside Direction, and in the LPIPS-Huber sum."""
    seen = Perceptual(lambda x: x**3, 2.0, 0.0)
    objective = FlowMatching(path, prediction=prediction, times=INSIDE, distance=seen)
    field = lambda x, t, c=None: path.velocity(x, t, x1=ONE.expand_as(x)) + torch.sin(x)  # noqa: E731
    example = objective.examples(plain(40, Rng(0)), Rng(1))
    guess = path.data(example.x, field(example.x, example.t), example.t)
    known = 2 * squared(guess**3, example.batch.x1**3)
    assert torch.allclose(objective(field, plain(40, Rng(0)), Rng(1)).per_sample, known, atol=1e-9)
    made, wanted = (prediction.value(example.x, v, example.t, path) for v in (field(example.x, example.t), example.v))
    both = FlowMatching(path, prediction=prediction, times=INSIDE, distance=Direction(0.5, seen))
    cosine = F.cosine_similarity(made, wanted, dim=1)
    got = both(field, plain(40, Rng(0)), Rng(1)).per_sample
    assert torch.allclose(got, known + 0.5 * (1 - cosine), atol=1e-9)
    mixed = Combined((Huber(0.1), seen), (PowerWeight(1.0), PowerWeight(0.0, -1.0)))
    got = FlowMatching(path, prediction=prediction, times=INSIDE, distance=mixed)(field, plain(40, Rng(0)), Rng(1))
    t = example.t
    assert torch.allclose(got.per_sample, t * Huber(0.1)(made, wanted) + known / (1 - t), atol=1e-9)


def test_a_distance_of_data_is_refused_where_no_datum_is_compared():
    batch = Batch(torch.ones(2, 1), torch.zeros(2, 1))
    accelerating = SecondOrder(lambda x, t: x, lambda x, t, cond: x)
    for distance in (Perceptual(lambda x: x), Combined(), Direction(1.0, FeatureWeighted())):
        with pytest.raises(BeelineError, match="compares values that imply none"):
            ConstantAccelerationMatching(distance=distance)(accelerating, batch, Rng(0))
    ConstantAccelerationMatching(distance=Direction())(accelerating, batch, Rng(0))
    with pytest.raises(BeelineError, match="implies no data end"):
        FlowMatching(Bridge(), distance=Perceptual(lambda x: x))(lambda x, t: x, Batch(torch.ones(2, 1)), Rng(0))
    with pytest.raises(BeelineError, match="without times"):
        Combined()(torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(BeelineError, match="every distance has one weight"):
        Combined((squared,), (even, even))


def test_errors_are_weighted_by_the_jacobian_of_the_features():
    """The formula for linear features, and the minimum at the velocity for curved ones."""
    turn = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
    x, v, u = Rng(0).normal(torch.empty(3, 5, 2, dtype=torch.float64))
    where = Context(x, torch.zeros(5, dtype=x.dtype), Linear(), Velocity())
    linear = FeatureWeighted(lambda x: x @ turn.T, 2.0, 0.1).at(where)(v, u)
    assert torch.allclose(linear, 2.0 * squared(v @ turn.T, u @ turn.T) + 0.1 * squared(v, u))
    square = FeatureWeighted(lambda x: x**2, 1.0, 0.0).at(where)(v, u)  # the Jacobian is 2 diag(x)
    assert torch.allclose(square, (2 * x * (v - u)).square().mean(1))
    for prediction in (None, Data()):
        more = {} if prediction is None else {"prediction": prediction}
        assert_minimum(
            FlowMatching(distance=FeatureWeighted(lambda x: x**3 + x @ turn), times=INSIDE, **more), PLAIN.field()
        )


def test_features_without_a_gradient_are_refused():
    v = torch.zeros(2, 2, requires_grad=True)
    where = Context(torch.ones(2, 2), torch.zeros(2), Linear(), Velocity())
    with pytest.raises(BeelineError, match="gives no gradient"):
        Perceptual(lambda x: x.detach())(v, torch.ones(2, 2))
    with pytest.raises(BeelineError, match="gives no gradient"):
        FeatureWeighted(lambda x: x.detach()).at(where)(v, torch.ones(2, 2))
    with pytest.raises(BeelineError, match="failed on data of shape"):
        FeatureWeighted(nn.Linear(3, 1)).at(where)(v, torch.ones(2, 2))
    with pytest.raises(BeelineError, match="without states"):
        FeatureWeighted()(v, v)


def test_perceptual_features_for_another_shape_are_refused():
    conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(BeelineError, match="failed on data of shape"):
        Perceptual(conv)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    with pytest.raises(BeelineError, match="per sample"):
        Perceptual(lambda x: x.mean(0))(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(BeelineError, match="strictly convex"):
        PowerCost(1.0)


def test_a_potential_field_has_no_curl_and_a_bad_cost_is_refused():
    with Rng(0).ambient():
        net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2)).double()
    field = Potential(lambda x, t: net(torch.cat([x, t[:, None]], 1)))
    x, t = Rng(1).normal(torch.empty(1, 2, dtype=torch.float64)), torch.full((1,), 0.3, dtype=torch.float64)
    jac = torch.autograd.functional.jacobian(lambda y: field(y, t)[0], x)[:, 0]
    assert torch.allclose(jac, jac.T, atol=1e-12)
    assert float((jac - jac.T).abs().max()) < 1e-12 < float(jac.abs().max())
    cubic = Potential(lambda x, t: (x**2).sum(1) / 2, PowerCost(4.0))
    assert torch.allclose(cubic(x, t).pow(3), x, atol=1e-9)
    with torch.no_grad():
        assert not field(x, t).requires_grad

    class Saddle(PowerCost):
        def value(self, u):
            return -u.square().sum(1)

    with pytest.raises(BeelineError, match="not convex"):
        Potential(net, Saddle())
    check_cost(PowerCost(2.5), x.repeat(4, 1))


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
def test_a_potential_initialised_to_zero_learns(p):
    net = nn.Linear(2, 2, bias=False).double()
    nn.init.zeros_(net.weight)
    pairs = Batch(ONE.expand(8, 2), torch.ones(8, 2).double())
    objective = FlowMatching(coupling=Paired(), distance=Bregman(PowerCost(p)))
    objective(Potential(lambda x, t: net(x), PowerCost(p)), pairs, Rng(0)).value.backward()
    assert float(net.weight.grad.abs().min()) > 1e-3


def test_gradient_fields_learn_the_exact_gaussian_field():
    # the exact field of a Gaussian is a gradient, so the constraint does not change the minimum
    assert_minimum(FlowMatching(distance=Bregman(), times=INSIDE), PLAIN.field())


def test_terms_at_zero_strength_change_nothing():
    batch, rng = plain(32, Rng(0)), Rng(1)
    base = FlowMatching()
    value = base(PLAIN.field(), batch, rng).value
    assert torch.equal(SmoothSteps(base, strength=0.0)(PLAIN.field(), batch, rng).value, value)
    assert torch.allclose(SelfRectified(base, strength=0.0)(PLAIN.field(), batch, rng).value, value, atol=1e-14)


def test_terms_are_zero_where_pairs_are_deterministic():
    base = FlowMatching(times=INSIDE)
    for objective in (SmoothSteps(base), SelfRectified(base), SelfRectified(base, power=0.0)):
        assert float(objective(certain, one(50), Rng(0)).value) < 1e-20
    net = Net()
    loss = SelfPerceptual(base, net, "block")(certain, one(50), Rng(0))
    assert float(loss.terms["features"]) < 1e-20
    wrong = lambda x, t, c=None: certain(x, t) + 0.1  # noqa: E731
    assert float(SelfPerceptual(base, net, "block")(wrong, one(50), Rng(0)).value) > 1e-4


@pytest.mark.parametrize("path", [Linear(), Cosine()])
def test_self_rectified_states_combine_the_data_estimate_and_the_true_noise(path):
    """The state of the second pass is a x1_hat + b x0, and its target is the velocity to the true datum (DREAM)."""
    base, seen = FlowMatching(path, times=INSIDE), []
    nudge = torch.tensor([0.5, -0.2], dtype=torch.float64)

    def field(x, t, cond=None):
        exact = path.velocity(x, t, x1=ONE.expand_as(x)) + nudge * t[:, None]
        seen.append((x, t, exact))
        return exact

    batch = base.examples(one(20), Rng(0))
    loss = SelfRectified(base, power=0.0)(field, one(20), Rng(0))
    (x, t, v), (rebuilt, again, made) = seen
    assert torch.equal(t, again)
    known = path.point(batch.batch.x0, path.data(x, v, t), t).x
    assert torch.allclose(rebuilt, known, atol=1e-12) and not torch.allclose(rebuilt, x, atol=1e-3)
    wanted = path.velocity(rebuilt, t, x1=ONE.expand_as(x))  # from the new state to the true datum
    assert torch.allclose(loss.value, squared(made, wanted).mean(), atol=1e-12)
    # the factor fades with the noise level of the path
    seen.clear()
    SelfRectified(base, power=2.0)(field, one(20), Rng(0))
    faded = x + path.b(t)[:, None] ** 2 * (known - x)
    assert torch.allclose(seen[1][0], faded, atol=1e-12)


def test_smooth_steps_measure_the_embedded_error():
    h, a = 0.1, 1.7
    field = lambda x, t, cond=None: a * x  # noqa: E731
    example = FlowMatching().examples(plain(40, Rng(0)), Rng(1))
    loss = SmoothSteps(FlowMatching(), step=h)(field, plain(40, Rng(0)), Rng(1))
    step = (example.t + h).clamp(max=1) - example.t
    known = ((a * a * step[:, None] * example.x) ** 2).mean() / 4
    assert abs(float(loss.terms["curvature"] - known)) < 1e-12
    s = example.t + step
    heun, _ = HEUN.step(field, example.x, example.t, s, None)
    euler = example.x + step[:, None] * field(example.x, example.t)
    assert torch.allclose(((heun - euler) / step[:, None]).square().mean(), known)


def test_alignment_separability_and_dispersion_are_their_formulas():
    net, batch, rng = Net(), one(16), Rng(0)
    base = FlowMatching(times=INSIDE)
    example = base.examples(batch, rng)
    h = certain(example.x, example.t)
    target = Rng(5).normal(h)
    got = Aligned(base, "field.block", lambda x: target, 0.5)(Helped(net, nn.Identity()), batch, rng)
    known = -F.cosine_similarity(h, target, dim=1).mean()
    assert torch.allclose(got.terms["alignment"], known) and torch.allclose(got.value, 0.5 * known, atol=1e-12)
    got = Separable(base, "field.block", strength=0.2)(Helped(net, nn.Identity()), batch, rng)
    assert torch.allclose(got.terms["separability"], F.cross_entropy(h, batch.cond["label"]))
    got = Dispersed(base, "block", temperature=0.7)(net, batch, rng)
    known = torch.exp(-(torch.cdist(h, h) ** 2) / 2 / 0.7).mean().log()
    assert torch.allclose(got.terms["dispersion"], known, atol=1e-9)


def test_terms_refuse_bad_input():
    net, batch = Net(), one(4)
    with pytest.raises(BeelineError, match="no module 'blok'.*did you mean 'block'"):
        Dispersed(FlowMatching(), "blok")(net, batch, Rng(0))
    with pytest.raises(BeelineError, match="a helper beside"):
        Aligned(FlowMatching(), "block", lambda x: x)(net, batch, Rng(0))
    with pytest.raises(BeelineError, match="compared one to one"):
        Aligned(FlowMatching(), "field.block", lambda x: x[:, :1])(Helped(net, nn.Identity()), batch, Rng(0))
    with pytest.raises(BeelineError, match="needs the class"):
        Separable(FlowMatching(), "field.block")(Helped(net, nn.Identity()), Batch(batch.x1), Rng(0))
    with pytest.raises(BeelineError, match="a step of time"):
        SmoothSteps(step=0.0)
    for objective in (SelfRectified(FlowMatching(Bridge())), SelfPerceptual(FlowMatching(Bridge()), net, "block")):
        with pytest.raises(BeelineError, match="affine path"):
            objective(net, batch, Rng(0))
    idle = nn.ModuleDict({"used": net, "idle": nn.Identity()})
    idle.forward = lambda x, t, cond=None: net(x, t)
    with pytest.raises(BeelineError, match="returned no tensor"):
        Dispersed(FlowMatching(), "idle")(idle, batch, Rng(0))


def test_annealing_interpolates_between_independent_and_reflow():
    x0, x1 = (Rng(i).normal(torch.empty(4000, 2, dtype=torch.float64)) for i in range(2))
    pairs = Batch(x1, x0)
    assert Annealed(0.0)(pairs, Rng(3)).x0 is x0
    fresh = Annealed(1.0)(pairs, Rng(3)).x0
    assert abs(float((fresh * x0).mean())) < 0.03
    for blend in (0.3, 0.8):
        mixed = Annealed(blend)(pairs, Rng(3)).x0
        assert abs(float(mixed.var()) - 1) < 0.03
        assert abs(float((mixed * x0).mean()) - math.sqrt(1 - blend**2)) < 0.03
    feed = AnnealedPairs(pairs, Rng(0), until=10)
    assert torch.equal(feed.microbatch(3, 8).x0, feed.microbatch(3, 8).x0)
    last = feed.microbatch(10, 8)
    assert bool((last.x0[:, None] == x0[None]).all(2).any(1).all())
    assert not bool((feed.microbatch(2, 8).x0[:, None] == x0[None]).all(2).any())
    with pytest.raises(BeelineError, match="must lie between 0"):
        Annealed(1.5)
    with pytest.raises(BeelineError, match="a batch without x0"):
        Annealed()(Batch(x1), Rng(0))
    with pytest.raises(BeelineError, match="no source points"):
        AnnealedPairs(Batch(x1), Rng(0), until=3)


def test_one_window_is_reflow():
    flow = Flow(PLAIN.field())
    batch, rng = plain(60, Rng(0)), Rng(1)
    windowed = Windowed(flow, windows=1, steps=8)
    example = windowed.examples(batch, rng)
    x0 = windowed.objective.pairs(batch, rng).x0
    x1 = Sampler(8)(flow, x0)
    t = example.t[:, None]
    assert torch.allclose(example.x, (1 - t) * x0 + t * x1, atol=1e-12)
    assert torch.allclose(example.v, x1 - x0, atol=1e-12)


def test_windows_of_a_straight_teacher_are_already_straight():
    slow = Windowed(Flow(lambda x, t: torch.ones_like(x)), windows=4, steps=2)
    loss = slow(lambda x, t: torch.ones_like(x), Batch(ONE.expand(40, 2)), Rng(0))
    assert float(loss.value) < 1e-20
    assert float(loss.t.min()) >= 0 and float(loss.t.max()) <= 1
    with pytest.raises(BeelineError, match="at least one of each"):
        Windowed(Flow(certain), windows=0)
    with pytest.raises(BeelineError, match="start from noised data"):
        Windowed(Flow(certain), objective=FlowMatching(coupling=Paired()))
