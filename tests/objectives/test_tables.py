"""The objective of tables against closed forms, and early stopping."""

import contextlib
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beeline.core.declared import Traits
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Paired
from beeline.evaluation.heldout import ExactPosterior, HeldOut
from beeline.fields.flow import Data, Flow, Network
from beeline.networks.mlp import MLP
from beeline.networks.tabular import TabularMLP
from beeline.objectives.second_order import Helped
from beeline.objectives.tables import RowMatching, calibrate_marginals, columns_of, one_hot_rows
from beeline.paths.affine import Linear
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.times.samplers import At
from beeline.training.checks import Interrupted
from beeline.training.config import Training
from beeline.training.early_stopping import EarlyStopping
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant, WarmupConstantCooldown


class Exact(nn.Module):
    """The exact field of a finite table, with an error added to the numbers or the categories."""

    def __init__(self, groups: list[list[int]], rows: Tensor, number: float = 0.0, state: float = 0.0):
        super().__init__()
        self.traits = Traits(columns=groups)
        self.field, self.error = ExactPosterior(Batch(rows)), (number, state)

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        v = self.field(x, t).clone()
        v[:, 0] += self.error[0]
        mean = Data().value(x, v, t, Linear())
        p = ((mean[:, 1:] + 1) / 2).clamp(1e-6)
        p = (p.log() + self.error[1] * torch.tensor([1.0, -1.0])).softmax(1)
        exact = Data().velocity(torch.cat([mean[:, :1], 2 * p - 1], 1), x, t, Linear())
        return torch.cat([v[:, :1], exact[:, 1:]], 1) if self.error[1] else v


ROWS = torch.tensor([[0.5, 1.0, -1.0]] * 3 + [[-1.0, -1.0, 1.0]])


def test_the_loss_of_categories_at_the_source_is_their_entropy() -> None:
    """At t = 0 the state is independent of the datum: the cross-entropy of the exact field is the entropy."""
    loss = RowMatching(times=At(0.0), known=0.0)(Exact([[1], [2]], ROWS), Batch(ROWS.repeat(100, 1)), Rng(0))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(loss.terms["states"]) == pytest.approx(entropy, abs=1e-4)
    spread = 1 + (0.75 * 0.25) * 1.5**2  # the variance of x1 - x0 given x0
    assert float(loss.terms["numbers"]) == pytest.approx(spread - 1, rel=1e-3)
    assert float(loss.value) == pytest.approx((entropy + spread - 1) / 2, rel=1e-3)


@pytest.mark.parametrize("error", [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)])
def test_the_exact_field_has_the_smallest_loss(error: tuple[float, float]) -> None:
    batch, objective = Batch(ROWS.repeat(500, 1)), RowMatching(known=0.0)
    best = objective(Exact([[1], [2]], ROWS), batch, Rng(0)).value
    assert objective(Exact([[1], [2]], ROWS, *error), batch, Rng(0)).value > best + 1e-3


def test_known_cells_are_left_out_of_the_loss() -> None:
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
        states = math.log(2) * (1 - m[:, 1])  # a new network gives both categories the same probability
        assert torch.allclose(loss.per_sample, (numbers + states) / max(1, blocks), atol=1e-4)


def test_masks_have_every_number_of_cells_and_small_numbers_more_often() -> None:
    n, columns = 20_000, 6
    masks = RowMatching(known=0.5).masks(n, columns, torch.empty(0), Rng(0))
    share = masks.sum(1).long().bincount(minlength=columns).div(n)
    rarer = torch.tensor([math.log((k + 1) / k, columns) if k else 0.0 for k in range(columns)])
    assert torch.allclose(share[1:], ((rarer + 1 / columns) / 4)[1:], atol=0.01)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(masks.mean(0), masks.mean(), atol=0.01)  # all columns equally often
    assert not RowMatching(known=0.0).masks(50, 6, torch.empty(0), Rng(0)).any()


@pytest.mark.parametrize("gap", [2.0, 20.0, 200.0])
@pytest.mark.parametrize("helped", [False, True])
def test_the_gradient_of_a_category_with_tiny_probability_is_not_zero(gap: float, helped: bool) -> None:
    """The gradient in the logits is p - onehot, for every probability of the category."""
    net = small()
    with torch.no_grad():
        net.backbone.offsets[1:] = torch.tensor([-gap, 0.0])
    batch = Batch(torch.tensor([[0.5, 1.0, -1.0]]).repeat(6, 1))
    field = Helped(Helped(net, nn.Identity()), nn.Identity()) if helped else net
    loss = RowMatching(known=0.0)(field, batch, Rng(0))
    p = torch.tensor([-gap, 0.0]).softmax(0)
    assert torch.allclose(loss.terms["states"], torch.tensor(gap).exp().log1p() if gap < 50 else torch.tensor(gap))
    loss.value.backward()
    known = (p - torch.tensor([1.0, 0.0])) / 2  # a mean over the two blocks of a row
    assert torch.allclose(net.backbone.offsets.grad[1:], known, atol=1e-6)


def test_a_network_without_logits_has_a_gradient_at_probability_zero() -> None:
    with Rng(0).ambient():
        net = Network(TabularMLP([[1], [2]], width=32, depth=1, sharp=False))
    with torch.no_grad():
        net.backbone.offsets[1:] = torch.tensor([-9.0, 9.0])
    loss = RowMatching(known=0.0)(net, Batch(torch.tensor([[0.5, 1.0, -1.0]]).repeat(6, 1)), Rng(0))
    loss.value.backward()
    assert net.backbone.offsets.grad[1] < -100  # the slope of -log p at 1e-5


def test_an_attribute_named_groups_does_not_declare_a_table() -> None:
    net = Network(nn.Conv1d(4, 4, 1, groups=2))
    net.groups, net.known = [[1], [3]], True
    assert columns_of(net) is None


def test_coordinates_of_other_fields_are_numbers() -> None:
    net = Network(MLP(3, width=16))
    assert columns_of(net) is None and columns_of(lambda x, t: x) is None
    assert RowMatching()(net, Batch(ROWS), Rng(0)).per_sample.shape == (4,)


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(BeelineError, match="known=1.5"):
        RowMatching(known=1.5)
    with pytest.raises(BeelineError, match="patience=0"):
        EarlyStopping(patience=0)


def small(seed: int = 0) -> Network:
    with Rng(seed).ambient():
        return Network(TabularMLP([[1], [2]], width=32, depth=1), prediction=Data())


def test_rows_are_completed_with_one_hot_categories_and_known_cells() -> None:
    groups = [[1], [2, 1], [3]]
    x = torch.tensor([[0.3, 1.0, -1.0, 0.2, -1.0, -1.0, 1.0], [2.0, -1.0, 1.0, -0.5, 1.0, -1.0, -1.0]])
    states = torch.tensor([False, True, True, False, True, True, True])
    bent = x + 0.4 * Rng(0).fill(x)
    assert torch.equal(one_hot_rows(bent, groups), torch.where(states, x, bent))


class Prior(nn.Module):
    """The exact expected datum of one column of three categories with the offsets as their log frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(3), requires_grad=False)

    @property
    def traits(self) -> Traits:
        return Traits(columns=((3,),), offsets=self.offsets)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        states, t = 2 * torch.eye(3) - 1, t[:, None, None]
        far = (x[:, None] - t * states).square().sum(2) / (2 * (1 - t[:, 0]).square())
        return torch.softmax(self.offsets - far, 1) @ states


def test_category_frequencies_are_calibrated() -> None:
    """Wrong offsets become the log frequencies, up to a constant, to which the softmax is invariant."""
    known = torch.tensor([0.7, 0.2, 0.1])
    state = torch.multinomial(known, 20_000, True, generator=Rng(1).generator())
    flow = Flow(Network(Prior(), prediction=Data()))
    made = calibrate_marginals(
        flow, Sampler(30, solver=EULER), 2.0 * nn.functional.one_hot(state, 3) - 1, Rng(2), rounds=5
    )
    assert torch.allclose(torch.softmax(made.field.backbone.offsets, 0), known, atol=0.02)
    assert not flow.field.backbone.offsets.any()  # the given flow is not changed
    plain = Flow(Network(MLP(3, width=16)))
    assert calibrate_marginals(plain, Sampler(2), ROWS, Rng(0)) is plain


RATE = WarmupConstantCooldown(peak=3e-2, warmup=2, cooldown=0.2)
IMPATIENT = Training(
    steps=400, batch_size=16, lr=RATE, early_stopping=EarlyStopping(3, every=10), checkpoint_every=7, checkpoint_keep=1
)


def learned(training: Training, held: Tensor | None = None, **more: Any) -> Network:
    look = None if held is None else HeldOut(RowMatching(known=0.0), Batch(held), every=10, repeats=4)
    made: Network = fit(
        small(), RowMatching(known=0.0), ROWS, training, callbacks=() if look is None else (look,), rng=Rng(7), **more
    )
    return made


def same(one: Network, other: Network) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_early_stopping_equals_a_shorter_run() -> None:
    """Four rows are memorised at once, so the held-out loss rises; the result equals that of the shorter run."""
    entries: list[dict[str, Any]] = []
    made = learned(IMPATIENT, -ROWS, log=entries.append)
    said = next(e for e in entries if "steps" in e)
    looks = [e["heldout"]["ema"]["value"] for e in entries[: entries.index(said)] if "heldout" in e]
    best = 10 * (looks.index(min(looks)) + 1)
    assert said["step"] == best and len(looks) == best // 10 + 3 < 40
    assert said["steps"] == entries[-1]["step"] and round(said["steps"] * 0.8) == best
    assert same(made, learned(Training(steps=said["steps"], batch_size=16, lr=RATE), log=lambda e: None))


def test_a_run_killed_during_the_cooldown_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = learned(IMPATIENT, -ROWS, log=lambda e: None, checkpoint_dir=tmp_path / "whole")

    class Killed(Exception):  # noqa: N818
        pass

    for nth in (3, 8, 60, 80):  # log entries before and after early stopping
        count, keep = 0, tmp_path / str(nth)

        def fall(entry: dict[str, Any], nth: int = nth) -> None:
            nonlocal count
            count += 1
            if count == nth:
                raise Killed

        with contextlib.suppress(Killed):
            learned(IMPATIENT, -ROWS, log=fall, checkpoint_dir=keep)
        again = keep if list(keep.glob("step-*")) else None
        assert same(whole, learned(IMPATIENT, -ROWS, log=lambda e: None, checkpoint_dir=keep, resume=again))


def test_training_that_improves_runs_to_the_last_step() -> None:
    entries: list[dict[str, Any]] = []
    learned(Training(steps=40, batch_size=16, early_stopping=EarlyStopping(3, every=10)), ROWS, log=entries.append)
    assert [e["step"] for e in entries if "heldout" in e] == [10, 20, 30, 40] and entries[-1]["step"] == 40


def test_a_constant_learning_rate_stops_at_the_best_step() -> None:
    entries: list[dict[str, Any]] = []
    training = Training(steps=400, batch_size=16, lr=Constant(3e-2), early_stopping=EarlyStopping(2, every=10))
    made = learned(training, -ROWS, log=entries.append)
    end = entries[-1]["steps"]
    assert same(made, learned(Training(steps=end, batch_size=16, lr=Constant(3e-2)), log=lambda e: None))


def test_early_stopping_needs_a_held_out_loss() -> None:
    with pytest.raises(BeelineError, match="early_stopping needs a held-out loss"):
        learned(IMPATIENT, log=lambda e: None)


def test_a_run_without_a_checkpoint_directory_says_that_nothing_is_saved() -> None:
    def stop(entry: dict[str, Any]) -> None:
        if entry.get("step") == 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="nothing was saved"):
        learned(IMPATIENT, -ROWS, log=stop)
