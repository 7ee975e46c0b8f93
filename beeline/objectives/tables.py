"""The objective of tables: squared error of numbers, cross-entropy of categories."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map, traits_of
from beeline.core.errors import require
from beeline.core.modes import eval_mode, wide_batch
from beeline.core.protocols.flows import Prediction
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Data, Flow, Network, evaluate_field
from beeline.objectives.losses.basic import squared
from beeline.objectives.matching import Drop, Example, FlowMatching
from beeline.objectives.second_order import Helped
from beeline.paths.affine import AffinePath
from beeline.sampling.sampler import Sampler
from beeline.sampling.spread import parallel_map

Groups = Sequence[Sequence[int]]
"""Per column of a table the widths of its blocks of coordinates: 1 for a number, K for one of K categories."""

BLOCK = 2048  # rows sampled at once, whose features fit into the cache of a processor


@dataclass(frozen=True)
class RowMatching(FlowMatching):
    """Flow matching of table rows, with some cells as conditions.

    mean over unknown blocks of |v_number - v_t|^2 and of -log p(category | x_t), where E[x1 | x_t] = 2 p - 1
    Assumes an affine path, and a network that declares the columns of its table; for other fields all coordinates are
    numbers.  p is the softmax of the network's logits where it gives them.  Both terms have their minimum at the
    velocity of flow matching: the posterior mean of a one-hot code is the probability of the category.
    Source: Eijkelboom et al. 2024, "Variational flow matching" (arXiv 2406.04843), CatFlow, with squared error for
    numbers; known cells as conditions after Zheng and Charoenphakdee 2022 (arXiv 2210.17128).

    >>> loss = RowMatching()(lambda x, t, cond=None: -x, Batch(torch.zeros(4, 2)), Rng(0))
    >>> loss.per_sample.shape
    torch.Size([4])
    """

    drop: Drop | None = field(default_factory=lambda: Drop(0.0, 0))  # zeros stand for no known cell
    prediction: Prediction = field(
        default_factory=Data
    )  # of the network; the errors are those above for every prediction
    known: float = 0.5  # share of rows with some cells given, 0 to 1; the others are trained as whole rows

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False)  # squared errors of a mean do not compare with cross-entropies

    def __post_init__(self) -> None:
        require(
            0 <= self.known <= 1,
            f"RowMatching got known={self.known}; it is the share of rows with some cells given: give 0 to 1 (0.5 is "
            "usual)",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        """The loss of a velocity field on rows ``batch.x1`` [B,D]."""
        groups, batch = columns_of(field), wide_batch(batch)
        if groups is None:
            return super().__call__(field, batch, rng)
        if batch.cond is None and self.known:
            batch = self.reveal(batch, groups, rng.fork("known"))
        example = self.examples(batch, rng, field)
        net = field
        while isinstance(net, Helped):
            net = net.field
        if isinstance(net, Network) and not is_map(net) and traits_of(net).logits:
            predicted, raw = net(example.x, example.t, example.batch.cond, logits=True)
            return self.row_loss(predicted, example, groups, raw)
        predicted = evaluate_field(field, example.x, example.t, example.batch.cond)
        return self.row_loss(predicted, example, groups)

    def reveal(self, batch: Batch, groups: Groups, rng: Rng) -> Batch:
        """The rows with some of their cells as the condition: "known" [B,D] and "mask" [B,columns]."""
        mask = self.masks(len(batch.x1), len(groups), batch.x1, rng)
        column = _places(_frozen(groups))[0].to(mask.device)
        return replace(batch, cond={"known": batch.x1 * mask[:, column], "mask": mask})

    def masks(self, n: int, columns: int, like: Tensor, rng: Rng) -> Tensor:
        """[n, columns]: 1 where a cell is known.

        In half of the rows with known cells their number is log-uniform, in the other half uniform.
        """
        some, few, u = rng.fork("share").fill(like.new_empty(3, n))
        count = torch.where(few < 0.5, columns**u, columns * u).floor()
        order = rng.fork("cells").fill(like.new_empty(n, columns)).argsort(1).argsort(1)
        return ((order < count[:, None]) & (some < self.known)[:, None]).to(like.dtype)

    def row_loss(self, predicted: Tensor, example: Example, groups: Groups, raw: Tensor | None = None) -> Loss:
        """The loss of velocities [B,D] at the states of an example; ``raw`` are the logits [B,D] of the network."""
        batch, t, x, v = example
        require(
            isinstance(self.path, AffinePath),
            f"RowMatching got the path {type(self.path).__name__}, on which a velocity implies no posterior mean; use "
            "an affine path such as Linear()",
        )
        assert isinstance(self.path, AffinePath)
        require(
            self.distance is squared,
            f"RowMatching got the distance {self.distance}; its errors are squared errors of numbers and "
            "cross-entropies of categories: leave the distance out",
        )
        column, numbers, where, state, owner = (part.to(x.device) for part in _places(_frozen(groups)))
        free = x.new_ones(len(x), len(groups))
        if isinstance(batch.cond, dict) and isinstance(batch.cond.get("mask"), Tensor):
            free = 1 - batch.cond["mask"]
        error = (predicted - v)[:, numbers].square() * free[:, column[numbers]]
        total = error.sum(1)
        if len(owner):
            mean, target = (Data().value(x, slope, t, self.path)[:, where] for slope in (predicted, v))
            here = x.new_zeros(len(x), len(owner))
            if raw is None:
                p = here.index_add(1, state, ((mean + 1) / 2) * (target > 0))  # of the category in the data
                surprise = -_log(p)
            else:
                surprise = -here.index_add(1, state, _log_softmax(raw[:, where].to(x), state, here) * (target > 0))
            surprise = surprise * free[:, owner]
            total = total + surprise.sum(1)
        blocks = free[:, column[numbers]].sum(1) + free[:, owner].sum(1)
        per_row = self.weight(t) * total / blocks.clamp(min=1)
        if batch.weight is not None:
            per_row = per_row * batch.weight
        value = per_row.mean()
        terms = {"loss": value.detach()}
        if len(numbers):
            terms["numbers"] = error.detach().mean()
        if len(owner):
            terms["states"] = surprise.detach().mean()
        return Loss(value, terms, per_row.detach(), t.detach())


def _log_softmax(raw: Tensor, state: Tensor, here: Tensor) -> Tensor:
    """The log-softmax of logits [B,K] within the blocks ``state`` [K]; ``here`` [B,blocks] is zero."""
    top = torch.full_like(here, -torch.inf).scatter_reduce(1, state.expand(len(raw), -1), raw.detach(), "amax")
    shifted = raw - top[:, state]
    return shifted - here.index_add(1, state, shifted.exp()).log()[:, state]


def _log(p: Tensor) -> Tensor:
    """log p, continued by its tangent below 1e-5, so that the gradient is finite and not zero."""
    least = 1e-5
    return p.clamp(min=least).log() + (p - least).clamp(max=0) / least


def one_hot_rows(x: Tensor, groups: Groups) -> Tensor:
    """Rows [B,D] with one-hot categories: the largest coordinate of every block at 1 and the others at -1."""
    parts = []
    for part in x.split([width for group in groups for width in group], 1):
        state = part.shape[1] > 1
        parts.append(2 * torch.nn.functional.one_hot(part.argmax(1), part.shape[1]).to(x) - 1 if state else part)
    return torch.cat(parts, 1)


def completed_rows(rows: Batch, groups: Groups) -> Batch:
    """Sampled rows with one-hot categories, and with their known cells as given."""
    x1 = one_hot_rows(rows.x1, groups)
    if isinstance(rows.cond, dict) and "mask" in rows.cond:
        column = _places(_frozen(groups))[0].to(x1.device)
        x1 = torch.where(rows.cond["mask"][:, column] > 0, rows.cond["known"], x1)
    return replace(rows, x1=x1)


def calibrate_marginals(flow: Flow, sampler: Sampler, x1: Tensor, rng: Rng, *, rounds: int | None = None) -> Flow:
    """The flow with category frequencies calibrated to the data: ``rounds`` times, offsets of its logits are moved.

    offset <- offset + 0.7 log(frequency in x1 / frequency in sampled rows), steps of at most 1; 3 to 16 rounds by
    default, as many as 48 evaluations a row allow
    It is iterative proportional fitting of one-column marginals in the logits.
    Assumes a network for tables that declares the bias of its output, ``offsets`` [D]; other flows are returned
    unchanged.
    """
    traits = traits_of(flow.field)
    groups = traits.columns
    if groups is None or traits.offsets is None:
        return flow
    rounds = max(3, min(16, 48 // (sampler.evaluations or 16))) if rounds is None else rounds
    rows = max(4_000, min(20_000, 10 * len(x1)))
    calibrated = copy.deepcopy(flow)
    offsets = traits_of(calibrated.field).offsets
    assert offsets is not None
    widths = [width for group in groups for width in group]

    def block(number: int) -> Tensor:
        like = x1.new_empty(BLOCK, x1.shape[1])
        keyed = sampler.seeded(range(number * BLOCK, (number + 1) * BLOCK), key.seed, *key.path)
        return keyed(calibrated, calibrated.source.sample(like, key.fork(number)).to(offsets.device)).to(x1.device)

    def shares(x: Tensor) -> Tensor:
        return (one_hot_rows(x, groups).mean(0) + 1) / 2 + 1 / rows

    known, states = shares(x1), torch.tensor([w > 1 for w in widths for _ in range(w)], device=x1.device)
    with eval_mode(calibrated.field):
        for number in range(rounds):
            key = rng.fork(number)
            sampled = torch.cat(parallel_map(block, range(-(-rows // BLOCK))))
            move = (0.7 * (known / shares(sampled)).log()).clamp(-1, 1)  # a frequency of zero is not a measurement
            offsets += torch.where(states, move, 0.0).to(offsets)
    return calibrated


def columns_of(field: Any) -> Groups | None:
    """The columns that a network for tables declares; None for other fields."""
    return traits_of(field).columns


def _frozen(groups: Groups) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group) for group in groups)


@lru_cache(maxsize=16)
def _places(groups: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Column of every coordinate; coordinates of numbers; coordinates of categories, their block, and its column."""
    column: list[int] = []
    numbers: list[int] = []
    where: list[int] = []
    state: list[int] = []
    owner: list[int] = []
    for c, group in enumerate(groups):
        for width in group:
            start = len(column)
            column += [c] * width
            if width == 1:
                numbers.append(start)
            else:
                where += range(start, start + width)
                state += [len(owner)] * width
                owner.append(c)
    parts = (torch.tensor(part, dtype=torch.int64) for part in (column, numbers, where, state, owner))
    return tuple(parts)  # type: ignore[return-value]
