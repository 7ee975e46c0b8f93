"""Methods that learn from pairs of a teacher: where the pairs come from."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch

from beeline.core.declared import traits_of
from beeline.core.errors import BeelineError, require
from beeline.core.modes import eval_mode
from beeline.core.protocols.training import Distillation, Microbatches
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, stack, take
from beeline.distillation.feeds import Mixed, OnlinePairs, WithNoise
from beeline.distillation.pairs import inverted_pairs, reflow_pairs, starts
from beeline.fields.flow import Flow
from beeline.objectives.tables import RowMatching, columns_of, completed_rows
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.training.feed.microbatches import InMemory
from beeline.training.feed.sources import as_microbatches

FEW = 64  # pairs of a rehearsal
SHOWN = 1024  # pairs that stand for those generated during the training


@dataclass(frozen=True)
class PairMethod(Distillation):
    """Base of methods that learn from pairs (x0, x1) of a teacher.

    The pairs are generated before the training, or read from a ``store`` of ``beeline pairs``, or generated for every
    microbatch (``online``).  A share of them may be of real data: with the source points that the teacher's inversion
    gives (``reverse``), or with new noise (``real``).
    """

    sampler: Sampler = field(default_factory=lambda: Sampler(50))  # of the pairs; its guidance is learned too
    count: int | None = None  # pairs; None is one for every datum, with its condition
    reverse: float = field(default=0.0, kw_only=True)  # share of pairs by inversion of real data
    real: Share = field(default=0.0, kw_only=True)  # share of real data with new noise, which is not reflow
    online: bool = field(default=False, kw_only=True)  # whether pairs are generated for every microbatch
    store: str | None = field(default=None, kw_only=True)  # folder of stored pairs, with their sampler

    def __post_init__(self) -> None:
        name = type(self).__name__
        require(0 <= self.reverse <= 1, f"{name} got reverse={self.reverse}; it is a share of the pairs: give 0 to 1")
        require(
            self.count is None or self.count >= 1,
            f"{name} got count={self.count}; it is a number of pairs: give 1 or more, or none for one per datum",
        )
        require(
            not (self.store and self.online),
            f"{name} got store={self.store!r} and online=True; pairs are read or generated: give one of them",
        )
        require(
            self.count is None or not (self.store or self.online),
            f"{name} got count={self.count} and pairs that are {'stored' if self.store else 'generated online'}, which "
            "have no other number: leave the count out",
        )
        require(
            self.real < 1 and (self.reverse < 1 or not (self.store or self.online)),
            f"{name} got the shares real={self.real} and reverse={self.reverse} of real data; pairs of the teacher "
            "take the rest: give less than 1",
        )

    def next_round(self) -> PairMethod:
        # the stored pairs are of the teacher of this round, whose guidance its student has learned
        return replace(self, store=None, sampler=replace(self.sampler, guidance=Plain()))

    def fitted(self, teacher: Flow, batch: Batch, rng: Rng) -> PairMethod:
        check_guidance(self.sampler, teacher, batch)
        return self

    def taught(self, sampler: Sampler) -> Sampler:
        return replace(sampler, guidance=self.sampler.guidance)

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        count = min(SHOWN, len(batch.x1)) if self.online else self.count
        return teacher_pairs(self.sampler, count, self.reverse, teacher, batch, rng)

    def with_pairs(self, count: int) -> Any:
        return self if self.store or self.online else replace(self, count=count)

    def rehearsal(self) -> Any:
        return replace(self.with_pairs(FEW), sampler=replace(self.sampler, steps=2))

    def heldout(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return teacher_pairs(self.sampler, None, self.reverse, teacher, batch, rng)

    def supply(self, teacher: Flow, data: Any, batch: Batch, rng: Rng) -> Batch | Microbatches:
        batch = with_known_cells(teacher, replace(batch, weight=None), rng)
        feed, anchors = data, 0 if isinstance(data, Batch) else round(self.reverse * len(data))
        if self.online:
            conditions = InMemory(batch, rng.fork("conditions"))
            feed = OnlinePairs(teacher, self.sampler, conditions, rng.fork("online"))
            anchors = round(self.reverse * len(batch.x1))
        if anchors:
            chosen = rng.fork("anchors").permutation(len(batch.x1))[:anchors].to(batch.x1.device)
            inverted = inverted_pairs(teacher, self.sampler, take(batch, chosen))
            feed = Mixed(feed, InMemory(inverted, rng.fork("anchor order")), self.reverse)
        feed = self.feed(teacher, feed, rng)
        if self.real:
            pairs = as_microbatches(feed, rng.fork("pair order"))
            noised = WithNoise(InMemory(batch, rng.fork("real order")), teacher.source, rng.fork("real noise"))
            feed = Mixed(pairs, noised, self.real)
        return feed


def check_guidance(sampler: Sampler, flow: Flow, batch: Batch) -> None:
    """BeelineError for guidance that changes nothing, as that towards a condition of a flow without conditions.

    Two data are sampled with it and without it.
    """
    if isinstance(sampler.guidance, Plain) or batch.cond is not None:
        return
    x0 = starts(flow, range(2), Rng(0).fork("guidance"), batch.x1[:1])
    same, why = True, "has nothing to be guided by"
    with eval_mode(flow.field):
        try:
            guided, plain = (
                replace(sampler, guidance=how).seeded(range(2))(flow, x0) for how in (sampler.guidance, Plain())
            )
            same = torch.equal(guided, plain)
        except BeelineError as error:
            why += f" ({str(error).partition(';')[0]})"
    require(
        not same,
        f"pairs were requested with the guidance {type(sampler.guidance).__name__} of a teacher without conditions, "
        f"which {why}; leave the guidance out: set the sampler's guidance to Plain",
    )


def teacher_pairs(sampler: Sampler, count: int | None, reverse: float, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
    """Pairs for a student: from the source by sampling, and a share from the data by inversion."""
    groups = columns_of(teacher.field)
    batch = with_known_cells(teacher, batch, rng)
    total = len(batch.x1) if count is None else count
    back = round(reverse * total)
    parts = []
    if total > back:
        some = batch
        if total - back != len(batch.x1):
            some = take(batch, rng.fork("conditions").integers(len(batch.x1), total - back).to(batch.x1.device))
        size = max(256, 2**18 // batch.x1[0].numel())
        pairs = reflow_pairs(teacher, sampler, some, rng.fork("pairs"), batch_size=size)
        parts.append(pairs if groups is None else completed_rows(pairs, groups))
    if back:
        chosen = rng.fork("anchors").integers(len(batch.x1), back).to(batch.x1.device)
        parts.append(inverted_pairs(teacher, sampler, take(batch, chosen)))
    return replace(stack(parts), weight=None)


def with_known_cells(teacher: Flow, batch: Batch, rng: Rng) -> Batch:
    """The batch with some cells as conditions, for the network of a table that takes known cells; itself for others."""
    groups = columns_of(teacher.field)
    if groups is not None and batch.cond is None and traits_of(teacher.field).cells:
        return RowMatching().reveal(batch, groups, rng.fork("known"))
    return batch
