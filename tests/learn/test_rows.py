"""The objective of tables against closed forms, and training that ends in time."""

import math

import pytest
import torch
from torch import Tensor, nn

from beeline.core.coupling import Paired
from beeline.core.field import Data, Network
from beeline.core.path import Linear
from beeline.core.rng import Rng
from beeline.core.times import At
from beeline.core.types import Batch, BeelineError
from beeline.learn.early import Patience, fit_patiently
from beeline.learn.heldout import HeldOut, Posterior
from beeline.learn.rate import WarmupConstantCooldown
from beeline.learn.rows import RowMatching, groups_of
from beeline.learn.trainer import Training, fit
from beeline.nets.small import MLP
from beeline.nets.tabular import TabularMLP


class Exact(nn.Module):
    """The exact field of a finite table, with an error of its own on the numbers or the states."""

    def __init__(self, groups: list[list[int]], rows: Tensor, number: float = 0.0, state: float = 0.0):
        super().__init__()
        self.groups, self.field, self.error = groups, Posterior(Batch(rows)), (number, state)

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        v = self.field(x, t).clone()
        v[:, 0] += self.error[0]
        mean = Data().value(x, v, t, Linear())
        p = ((mean[:, 1:] + 1) / 2).clamp(1e-6)
        p = (p.log() + self.error[1] * torch.tensor([1.0, -1.0])).softmax(1)
        exact = Data().velocity(torch.cat([mean[:, :1], 2 * p - 1], 1), x, t, Linear())
        return torch.cat([v[:, :1], exact[:, 1:]], 1) if self.error[1] else v


ROWS = torch.tensor([[0.5, 1.0, -1.0]] * 3 + [[-1.0, -1.0, 1.0]])


def test_states_cost_their_entropy_at_the_source() -> None:
    """At t = 0 nothing is known of the datum: the cross-entropy of the exact field is the entropy of the state."""
    loss = RowMatching(times=At(0.0), known=0.0)(Exact([[1], [2]], ROWS), Batch(ROWS.repeat(100, 1)), Rng(0))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(loss.terms["states"]) == pytest.approx(entropy, abs=1e-4)
    spread = 1 + (0.75 * 0.25) * 1.5**2  # the variance of x1 - x0 given x0
    assert float(loss.terms["numbers"]) == pytest.approx(spread - 1, rel=1e-3)
    assert float(loss.value) == pytest.approx((entropy + spread - 1) / 2, rel=1e-3)


@pytest.mark.parametrize("error", [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)])
def test_the_exact_field_has_the_least_loss(error: tuple[float, float]) -> None:
    batch, objective = Batch(ROWS.repeat(500, 1)), RowMatching(known=0.0)
    best = objective(Exact([[1], [2]], ROWS), batch, Rng(0)).value
    assert objective(Exact([[1], [2]], ROWS, *error), batch, Rng(0)).value > best + 1e-3


def test_known_cells_cost_nothing_and_leave_the_mean() -> None:
    with Rng(0).ambient():
        net = Network(
            TabularMLP([[1], [2]], width=16, conditions={"known": {"size": 3}, "mask": {"size": 2}}), prediction=Data()
        )
    x0 = Rng(1).normal(ROWS)
    for mask, blocks in (([1.0, 0.0], 1), ([0.0, 0.0], 2), ([1.0, 1.0], 0)):
        m = torch.tensor([mask] * 4)
        cond = {"known": ROWS * m[:, [0, 1, 1]], "mask": m}
        loss = RowMatching(coupling=Paired(), times=At(0.0))(net, Batch(ROWS, x0, cond), Rng(0))
        numbers = (ROWS[:, 0] - x0[:, 0]).square() * (1 - m[:, 0])
        states = math.log(2) * (1 - m[:, 1])  # a new network gives both states the same probability
        assert torch.allclose(loss.per_sample, (numbers + states) / max(1, blocks), atol=1e-4)


def test_masks_hold_every_number_of_cells() -> None:
    masks = RowMatching(known=0.5).masks(4000, 6, torch.empty(0), Rng(0))
    count = masks.sum(1)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (count > 0).float().mean() == pytest.approx(0.5 * (1 - 1 / 7), abs=0.03)  # 0 to 6 cells equally often
    assert not RowMatching(known=0.0).masks(50, 6, torch.empty(0), Rng(0)).any()


def test_any_other_field_is_learned_as_numbers() -> None:
    net = Network(MLP(3, width=16))
    assert groups_of(net) is None and groups_of(lambda x, t: x) is None
    assert RowMatching()(net, Batch(ROWS), Rng(0)).per_sample.shape == (4,)


def test_a_share_is_a_share() -> None:
    with pytest.raises(BeelineError, match="known=1.5"):
        RowMatching(known=1.5)
    with pytest.raises(BeelineError, match="looks are counted from 1"):
        Patience(looks=0)


def small(seed: int = 0) -> Network:
    with Rng(seed).ambient():
        return Network(TabularMLP([[1], [2]], width=32, depth=1), prediction=Data())


def test_training_stops_and_cools_down_as_a_shorter_run_would() -> None:
    """Four rows are learned by heart at once, so the held-out loss rises; what comes back is the run that was cut."""
    held = HeldOut(RowMatching(known=0.0), Batch(-ROWS), every=10, draws=4)
    rate = WarmupConstantCooldown(peak=3e-2, warmup=2, cooldown=0.2)
    training = Training(steps=400, lot=16, rate=rate)
    notes: list[str] = []
    made, looks = fit_patiently(
        small(), RowMatching(known=0.0), ROWS, training, patience=Patience(3), heldout=held, rng=Rng(7),
        log=lambda e: notes.append(e.get("note", "")),
    )  # fmt: skip
    best = int(min(looks, key=lambda look: look["loss"])["step"])
    assert len(looks) == best // 10 + 3 < 40 and any("cooling down" in n for n in notes)
    shorter = Training(steps=round(best / 0.8), lot=16, rate=rate)
    alone = fit(small(), RowMatching(known=0.0), ROWS, shorter, rng=Rng(7), log=lambda e: None)
    for a, b in zip(made.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_that_goes_on_improving_runs_to_its_end() -> None:
    held = HeldOut(RowMatching(known=0.0), Batch(ROWS), every=10, draws=4)
    made, looks = fit_patiently(
        small(),
        RowMatching(known=0.0),
        ROWS,
        Training(steps=40, lot=16),
        patience=Patience(3),
        heldout=held,
        rng=Rng(7),
    )
    assert [look["step"] for look in looks] == [10, 20, 30, 40]
