"""Regions that are found, thresholds, and inpainting against the exact conditional distribution."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.editing.inpaint import Inpaint
from beeline.sampling.editing.keeping import Within
from beeline.sampling.editing.masks.attention import AttentionRegion
from beeline.sampling.editing.masks.combined import Complement, Softened, Union
from beeline.sampling.editing.masks.difference import Difference
from beeline.sampling.editing.masks.thresholds import LargestShare, Otsu, Soft
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.solvers.runge_kutta import RK4


def otsu(values):
    """The variance between both classes for every threshold, by its definition."""
    values = values.double()
    best, found = -1.0, None
    for c in sorted(set(values.tolist()))[:-1]:
        low, high = values[values <= c], values[values > c]
        between = len(low) * len(high) * (high.mean() - low.mean()) ** 2
        if between > best * (1 + 1e-12):
            best, found = float(between), c
    return values > found


@pytest.mark.parametrize("seed", range(5))
def test_otsu_divides_as_its_definition(seed):
    values = bl.Rng(seed).normal(torch.empty(3, 40)).exp().round(decimals=1)
    expected = torch.stack([otsu(row) for row in values])
    assert torch.equal(Otsu()(values) > 0, expected)


def test_thresholds_of_one_value_and_shares():
    same = torch.full((2, 1, 3, 3), 0.5)
    assert all(bool((t(same) == 1).all()) for t in (Otsu(), LargestShare(0.1), Soft()))
    values = torch.arange(10.0).expand(2, 10)
    assert LargestShare(0.3)(values)[0].tolist() == [0.0] * 7 + [1.0] * 3
    assert Soft()(values)[1, 9] == 1 and Soft()(values)[1, 0] == 0


def pictures(noise_of_condition=0.0):
    """A flow of pictures whose condition shifts the values of a square alone."""
    square = torch.zeros(1, 1, 8, 8)
    square[..., 2:5, 3:7] = 1

    def v(x, t, cond):
        return -x + cond.view(-1, 1, 1, 1) * square.to(x) + 0.1 * x.mean((1, 2, 3), keepdim=True)

    return bl.Flow(v), square


@pytest.mark.parametrize("seed", [0, 1])
def test_the_difference_of_velocities_finds_the_region(seed):
    flow, square = pictures()
    x = bl.Rng(seed).normal(torch.empty(5, 2, 8, 8))
    old, new = torch.zeros(5), torch.arange(1.0, 6.0)
    found = Difference()(flow, x, old, new, bl.Rng(seed))
    assert torch.equal(found, square.expand_as(x))
    assert torch.equal(Difference()(flow, x[3:4], old[:1], new[3:4], bl.Rng(9)), square.expand_as(x[:1]))
    assert bool((Difference()(flow, x, old, old, bl.Rng(0)) == 1).all())  # no position differs from the others
    wide = Difference(dilation=1)(flow, x, old, new, bl.Rng(0))
    assert wide[0, 0].sum() == 5 * 6 and bool((wide >= found).all())


def test_regions_are_combined():
    x = torch.zeros(2, 1, 4, 6)
    left, right = ((torch.arange(6) < 3).float().expand(4, 6), (torch.arange(6) == 5).float().expand(4, 6))
    at = (None, x, None, None, bl.Rng(0))
    both = Union((GivenRegion(left), GivenRegion(right)))
    assert torch.equal(both(*at)[1, 0], (left + right).clamp(max=1))
    assert torch.equal(Complement(both)(*at) + both(*at), torch.ones_like(x))
    soft = Softened(GivenRegion(left), 1.0)(*at)
    assert bool((soft[..., 3:] == 0).all()) and 0.5 < float(soft[0, 0, 0, 2]) < float(soft[0, 0, 0, 0]) <= 1
    outcome = edited(
        bl.editing.FlowEdit(0.0), pictures()[0], torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.ones(2), bl.Sampler(4),
        bl.Rng(0), region=lambda flow, x, cond, new_cond, rng: (x == 0).float() * 0.5,
    )  # fmt: skip
    assert float(outcome.region.max()) == 0.5  # a function is a region


@pytest.mark.parametrize(
    "region, shape, message",
    [
        (lambda: Difference(dilation=1), (4, 3), "data without rows and columns"),
        (lambda: Softened(GivenRegion((1.0,))), (4, 3), "use it on pictures"),
        (lambda: AttentionRegion((0,)), (2, 1, 8, 8), "does not declare its image tokens"),
        (lambda: AttentionRegion(()), (1,), "no tokens"),
        (lambda: Union(()), (1,), "at least one"),
    ],
)
def test_refusals(region, shape, message):
    with pytest.raises(BeelineError, match=message):
        flow = bl.Flow(lambda x, t, cond: x)
        region()(flow, torch.zeros(shape), torch.zeros(shape[0]), torch.ones(shape[0]), bl.Rng(0))


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_the_region_of_tokens_of_tiny_pipelines(name):
    pytest.importorskip("diffusers")
    from beeline.hub.pipelines import from_pipeline
    from tests.networks.hub.test_families import CASES

    case = CASES[name]()
    flow = from_pipeline(case.pipe, **case.size).flow
    found = AttentionRegion((1, 2))(flow, case.x0, case.cond, case.cond, bl.Rng(0))
    assert found.shape == case.x0.shape and set(found.unique().tolist()) == {0.0, 1.0}
    soft = AttentionRegion((1, 2), threshold=Soft())(flow, case.x0, case.cond, case.cond, bl.Rng(0))
    for row, inside in zip(soft, found > 0, strict=True):  # every datum has its own threshold
        assert row[inside].min() >= row[~inside].max()


COVARIANCE = torch.tensor([[1.0, 0.6, 0.3], [0.6, 0.8, 0.4], [0.3, 0.4, 0.5]], dtype=torch.float64)
SHIFT = torch.tensor([1.0, -0.5, 0.5], dtype=torch.float64)


def gaussian():
    """Gaussian data with a mean of the condition times a shift; its exact velocity."""

    def v(x, t, cond):
        t = t.view(-1, 1, 1).to(x)
        mean = cond[:, None].to(x) * SHIFT.to(x)
        c, eye = COVARIANCE.to(x), torch.eye(3).to(x)
        rest = (x - t[:, 0] * mean)[..., None]
        return mean + ((t * c - (1 - t) * eye) @ torch.linalg.solve(t**2 * c + (1 - t) ** 2 * eye, rest))[..., 0]

    return bl.Flow(v)


def test_inpainting_samples_the_exact_conditional_distribution():
    n = 4096
    x = torch.tensor([[0.7, 9.0, 1.2]]).expand(n, 3)  # what is inside does not matter
    new = torch.ones(n)
    made = Within(Inpaint(noise=1e-3), GivenRegion((0.0, 1.0, 0.0)))(
        gaussian(), x, torch.zeros(n), new, bl.Sampler(24, solver=RK4), bl.Rng(0)
    )
    known, inner = [0, 2], 1
    gain = torch.linalg.solve(COVARIANCE[known][:, known], COVARIANCE[known, inner])
    mean = SHIFT[inner] + gain @ (torch.tensor([0.7, 1.2], dtype=torch.float64) - SHIFT[known])
    variance = COVARIANCE[inner, inner] - gain @ COVARIANCE[known, inner]
    assert torch.equal(made[:, known], x[:, known])
    assert abs(float(made[:, inner].mean() - mean)) < 4 * float((variance / n).sqrt())
    assert abs(float(made[:, inner].var() / variance) - 1) < 4 * (2 / n) ** 0.5


def test_inpainting_with_a_region_of_its_own_or_of_the_run_is_the_same():
    x, region = torch.ones(4, 3), GivenRegion((1.0, 1.0, 0.0))
    run = (gaussian(), x, torch.zeros(4), torch.ones(4), bl.Sampler(4), bl.Rng(0))
    own = Inpaint(region)(*run)
    assert torch.equal(own, edited(Inpaint(), *run, region=region).x)
    assert torch.equal(own[2:3], Inpaint(region)(*run)[2:3]) and torch.equal(own[:, 2], x[:, 2])
    with pytest.raises(BeelineError, match="has no region"):
        Inpaint()(*run)
