"""Delta velocities: FlowEdit and delta denoising scores are its ends, exactly."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.editing.dynamics import noise_at
from beeline.sampling.editing.flow_edit import DeltaVelocity, FlowEdit, difference
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import EULER, HEUN
from benchmarks.editing_parts.exact import Exact, distance

EXACT = Exact()


def given(n=64, seed=0):
    batch = EXACT.data(n, bl.Rng(seed))
    old = batch.cond["label"]
    return batch.x1, old, (old + 1) % EXACT.labels


@pytest.mark.parametrize("solver", [EULER, HEUN], ids=["euler", "heun"])
@pytest.mark.parametrize("draws", [1, 2])
def test_shift_1_is_flow_edit_bit_for_bit(solver, draws):
    x, old, new = given()
    run = (EXACT.flow, x, old, new, bl.Sampler(12, solver=solver), bl.Rng(3))
    made = DeltaVelocity(1.0, progressive=False, start=0.2, draws=draws)(*run)
    assert torch.equal(made, FlowEdit(0.2, draws)(*run))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shift_0_is_the_direction_of_delta_denoising_scores(seed):
    """(E_new - E_old) / t of predictions of the noise by any velocities."""
    x, t = bl.Rng(seed).fork("x").normal(torch.empty(8, 3, dtype=torch.float64)), 0.4
    old, new = torch.zeros(8), torch.ones(8)
    w = bl.Rng(seed).fork("w").normal(torch.empty(2, 3, 3, dtype=torch.float64))

    def v(x, t, cond):
        return torch.tanh(torch.einsum("bij,bj->bi", w[cond.long()], x)) * (1 + t[:, None])

    edit = DeltaVelocity(0.0, progressive=False, start=t)
    # from z = x, so that the networks differ alone
    z = edit(bl.Flow(v), x, old, new, bl.Sampler(1, solver=EULER), bl.Rng(seed))
    e = noise_at(bl.Rng(seed), torch.tensor([t]), x, 0)
    noisy, at = t * x + (1 - t) * e, torch.full((8,), t, dtype=torch.float64)
    predicted = [noisy - t * v(noisy, at, c) for c in (old, new)]
    assert torch.allclose(z, x - (1 - t) * (predicted[1] - predicted[0]) / t, atol=1e-6)
    # from another z the pull is a part of the direction
    other = x + bl.Rng(seed).fork("z").normal(x)
    drift = lambda cond, guidance=None: lambda x, t: v(x, t, cond)  # noqa: E731
    f = difference(x, old, new, bl.Rng(seed), 1, Plain(), edit._lack)(drift)
    states = [t * part + (1 - t) * e for part in (x, other)]
    predicted = [s - t * v(s, at, c) for s, c in zip(states, (old, new), strict=True)]
    assert torch.allclose(-f(other, at), (predicted[1] - predicted[0]) / t, atol=1e-6)


def test_lower_shifts_keep_more_and_change_less():
    x, old, new = given(256)
    sampler, moved, fit = bl.Sampler(50, solver=EULER), [], []
    for shift in (0.0, 0.5, 1.0):
        made = DeltaVelocity(shift, progressive=False)(EXACT.flow, x, old, new, sampler, bl.Rng(0))
        moved.append(float(distance(made, x).mean()))
        fit.append(float(EXACT.likelihood(made, new).mean()))
    assert moved == sorted(moved) and fit == sorted(fit) and moved[0] < 0.8 * moved[2]


@pytest.mark.parametrize("edit", [DeltaVelocity(), DeltaVelocity(0.0, rate=1.5), FlowEdit(0.0, draws=2)], ids=repr)
def test_equal_conditions_move_nothing_and_the_outside_stays(edit):
    x, old, new = given()
    assert torch.equal(edit(EXACT.flow, x, old, old, bl.Sampler(10), bl.Rng(0)), x)
    outcome = edited(edit, EXACT.flow, x, old, new, bl.Sampler(10), bl.Rng(0), region=GivenRegion((0.0, 1.0)))
    assert torch.equal(outcome.x[:, 0], x[:, 0]) and float(outcome.change.mean()) > 0.3


def test_flow_edit_with_a_plain_part_at_its_end():
    x, old, new = given(256)
    run = (EXACT.flow, x, old, new, bl.Sampler(30, solver=EULER), bl.Rng(0))
    plain, ended = FlowEdit(0.0)(*run), FlowEdit(0.0, until=0.7)(*run)
    assert float(EXACT.likelihood(ended, new).mean()) > float(EXACT.likelihood(plain, new).mean())
    assert edited(FlowEdit(0.0, until=0.7), *run).evaluations == 2 * 21 + 9
    late = FlowEdit(0.0, until=0.99)(EXACT.flow, x, old, old, bl.Sampler(100), bl.Rng(0))
    assert 0 < float((late - x).abs().max()) < 0.2  # noise of the last hundredth alone
    with pytest.raises(BeelineError, match="start"):
        FlowEdit(0.5, until=0.4)
