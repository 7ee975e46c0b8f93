"""Edits against closed forms: Gaussians of one covariance, equal conditions, regions."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from beeline.solvers.runge_kutta import EULER, RK4

STD, SHIFT = 0.5, torch.tensor([1.5, -0.5, 2.0])
EDITS = [FlowEdit(), FlowEdit(0.0, draws=2), SDEdit(0.3), InvertAndSample()]


def flow() -> bl.Flow:
    """Gaussian data of one covariance, whose mean is the condition times a shift; its velocity is exact."""

    def v(x, t, cond):
        t = t[:, None]
        mean = cond[:, None] * SHIFT.to(x)
        return mean + (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * (x - t * mean)

    return bl.Flow(v)


def data(n=64, seed=0):
    return STD * bl.Rng(seed).fork("data").normal(torch.empty(n, 3))


def conditions(n, old=0.0, new=1.0):
    return torch.full((n,), old), torch.full((n,), new)


@pytest.mark.parametrize("seed", [0, 1])
def test_flow_edit_moves_gaussians_by_the_difference_of_their_means(seed):
    x = data(seed=seed)
    made = FlowEdit(0.0)(flow(), x, *conditions(len(x)), bl.Sampler(20, solver=EULER), bl.Rng(seed))
    assert (made - x - SHIFT).abs().max() < 1e-5


def test_an_inversion_gives_the_exact_counterfactual_of_gaussians():
    x = data()
    made = InvertAndSample()(flow(), x, *conditions(len(x)), bl.Sampler(64, solver=RK4), bl.Rng(0))
    assert (made - x - SHIFT).abs().max() < 1e-4


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_equal_conditions_change_no_more_than_the_round_trip(edit):
    x, sampler = data(512), bl.Sampler(64, solver=RK4)
    made = edit(flow(), x, *conditions(len(x), 1.0, 1.0), sampler, bl.Rng(0))
    if isinstance(edit, FlowEdit):
        assert torch.equal(made, x)
    elif isinstance(edit, InvertAndSample):
        assert (made - x).abs().max() < 1e-4
    else:  # the noise covers a part of the data: the correlation that is left is exact
        a, b = 0.3**2 * STD**2, 0.7**2
        rest = torch.stack([(part - part.mean(0)).flatten() for part in (x, made)])
        assert abs(float(torch.corrcoef(rest)[0, 1]) - (a / (a + b)) ** 0.5) < 0.1  # 4 deviations


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_what_is_outside_of_a_region_stays_and_the_inside_changes(edit):
    x, sampler = data(), bl.Sampler(20)
    region = GivenRegion((1.0, 0.0, 0.0))
    outcome = edited(edit, flow(), x, *conditions(len(x)), sampler, bl.Rng(0), region=region)
    assert torch.equal(outcome.x[:, 1:], x[:, 1:]) and float(outcome.kept.max()) == 0
    assert 0.3 < float((outcome.x - x)[:, 0].mean()) < 1.7 and float(outcome.change.min()) > 0


def test_evaluations_are_counted():
    x, sampler = data(8), bl.Sampler(10, solver=EULER)
    assert edited(FlowEdit(draws=3), flow(), x, *conditions(8), sampler, bl.Rng(0)).evaluations == 60
    assert edited(InvertAndSample(), flow(), x, *conditions(8), sampler, bl.Rng(0)).evaluations == 20
    assert edited(SDEdit(), flow(), x, *conditions(8), sampler, bl.Rng(0)).evaluations == 10


def test_a_bound_on_what_is_kept_refuses_the_edit_with_its_distance():
    x = data(8)
    with pytest.raises(BeelineError, match="8 of 8 data changed by more than the bound 0.5"):
        edited(FlowEdit(0.0), flow(), x, *conditions(8), bl.Sampler(10), bl.Rng(0), preserve=0.5)
    assert float(edited(FlowEdit(0.0), flow(), x, *conditions(8), bl.Sampler(10), bl.Rng(0), preserve=2.0).kept[0]) < 2


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (GivenRegion((1.0, 0.0)), "shape"),
        (GivenRegion((0.0, 0.0, 0.0)), "empty"),
        (GivenRegion((2.0, 0.0, 0.0)), r"weights in \[0, 1\]"),
    ],
)
def test_wrong_regions_are_refused(region, message):
    with pytest.raises(BeelineError, match=message):
        edited(FlowEdit(), flow(), data(4), *conditions(4), bl.Sampler(4), bl.Rng(0), region=region)


def test_flow_edit_needs_the_straight_path_and_inversions_a_solver_without_noise():
    with pytest.raises(BeelineError, match="straight path"):
        curved = replace(flow(), path=bl.paths.Cosine())
        FlowEdit()(curved, data(4), *conditions(4), bl.Sampler(4), bl.Rng(0))
    with pytest.raises(BeelineError, match="adds noise"):
        InvertAndSample()(
            flow(), data(4), *conditions(4), bl.Sampler(4, solver=bl.solvers.EulerMaruyama(bl.Rng(0))), bl.Rng(0)
        )


def test_an_own_edit_needs_no_base_class():
    def halfway(flow, x, cond, new_cond, sampler, rng):
        return (x + FlowEdit(0.0)(flow, x, cond, new_cond, sampler, rng)) / 2

    outcome = edited(halfway, flow(), data(4), *conditions(4), bl.Sampler(10, solver=EULER), bl.Rng(0))
    assert (outcome.x - data(4) - SHIFT / 2).abs().max() < 1e-5
