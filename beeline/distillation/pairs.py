"""Reflow pairs: source points with the data that a flow maps them to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import device_of, eval_mode
from beeline.core.protocols.flows import Source
from beeline.core.protocols.training import Microbatches
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, leaves, map_cond, stack, to
from beeline.couplings.sources import Gaussian
from beeline.couplings.stored import Annealed
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler
from beeline.training.feed.microbatches import InMemory


@dataclass(frozen=True, eq=False)
class AnnealedPairs:
    """Microbatches of stored pairs whose sources are annealed from fresh noise to the stored ones.

    blend of microbatch n = max(0, 1 - n / until);  then as Annealed
    Assumes pairs with a Gaussian source.  The blend is a function of the index of the microbatch, so resumed runs are
    the same.
    Source: Zhu et al. 2024, SlimFlow (arXiv 2407.12718).

    >>> AnnealedPairs(Batch(torch.ones(4, 2), torch.zeros(4, 2)), Rng(0), until=2).microbatch(2, 1).x0
    tensor([[0., 0.]])
    """

    pairs: Batch | Microbatches
    rng: Rng
    until: int  # microbatches with fresh noise: steps x microbatches of a step

    def __post_init__(self) -> None:
        unpaired = isinstance(self.pairs, Batch) and self.pairs.x0 is None
        require(
            self.until >= 1 and not unpaired,
            f"AnnealedPairs got until={self.until} and {'no ' if unpaired else ''}source points; it anneals the "
            "sources of stored pairs: give pairs (reflow_pairs) and a number of microbatches from 1",
        )

    def microbatch(self, number: int, size: int) -> Batch:
        pairs = InMemory(self.pairs, self.rng.fork("order")) if isinstance(self.pairs, Batch) else self.pairs
        batch = pairs.microbatch(number, size)
        return Annealed(max(0.0, 1 - number / self.until))(batch, self.rng.fork("lot", number))


def reflow_pairs(
    flow: Flow,
    sampler: Sampler,
    wanted: int | Batch | Cond,
    rng: Rng,
    *,
    like: Tensor | None = None,
    batch_size: int = 256,
) -> Batch:
    """Pairs (x0, x1 = sampler(flow, x0)) with their conditions, the data of reflow and distillation.

    ``wanted`` is a number of pairs, or conditions (a tree, or a Batch with conditions), one pair for each.
    ``like`` is a tensor of the shape of the data [.., *S]; a Batch has its own.  Source point i depends on the key of
    ``rng`` and on i only, so the pairs do not depend on the batch size, and x0 need not be stored.
    Pairs are computed on the device of the flow and returned on that of ``like``.
    """
    if isinstance(wanted, Batch):
        like = wanted.x1 if like is None else like
        count, cond = len(wanted.x1), wanted.cond
    elif isinstance(wanted, int):
        count, cond = wanted, None
    else:
        cond = wanted
        sizes = {len(leaf) for _, leaf in leaves(cond)}
        require(
            len(sizes) == 1, f"the conditions have {sorted(sizes)} rows; every pair has one of each: give equal numbers"
        )
        count = sizes.pop()
    require(count >= 1, f"reflow_pairs got a number of {count} pairs; give 1 or more")
    require(
        like is not None and like.ndim >= 2,
        "reflow_pairs got no shape of the data; pass like=, a tensor [B,*S] of that shape",
    )
    assert like is not None
    pairs, keyed = [], sampler.seeded(range(count), "pairs", rng.seed, *rng.path)
    with eval_mode(flow.field):
        for start in range(0, count, batch_size):
            rows = range(start, min(start + batch_size, count))
            x0 = starts(flow, rows, rng, like)
            part = _rows(cond, start, start + batch_size, x0.device)
            sample = keyed.for_rows(start, start + batch_size)
            pairs.append(to(Batch(sample(flow, x0, part).to(like.dtype), x0, part), like.device))
    return stack(pairs)


def starts(flow: Flow, seeds: Sequence[int], rng: Rng, like: Tensor) -> Tensor:
    """Source points [len(seeds), *S], each from its own seed."""
    like = like.new_empty((1, *like.shape[1:]), device=device_of(flow.field) or like.device)
    return source_points(flow.source, seeds, rng, like)


def source_points(source: Source, seeds: Sequence[int], rng: Rng, like: Tensor) -> Tensor:
    """Source points [len(seeds), *S] on the device of ``like`` [1, *S], each from its own seed."""
    if isinstance(source, Gaussian):
        return rng.rows(seeds, like)
    return torch.cat([source.sample(like, rng.fork("row", int(seed))) for seed in seeds])


def inverted_pairs(flow: Flow, sampler: Sampler, batch: Batch, *, batch_size: int = 256) -> Batch:
    """Pairs of real data with the source points that the flow maps to them, by inversion."""
    pairs = []
    with eval_mode(flow.field):
        for start in range(0, len(batch.x1), batch_size):
            x1 = batch.x1[start : start + batch_size]
            here = x1.to(device_of(flow.field) or x1.device)
            cond = _rows(batch.cond, start, start + batch_size, here.device)
            x0 = sampler.for_rows(start, start + batch_size).invert(flow, here, cond)
            pairs.append(to(Batch(here, x0.to(x1.dtype), cond), x1.device))
    return stack(pairs)


def refined_pairs(
    flow: Flow,
    guided: Sampler,
    plain: Sampler,
    wanted: int | Batch | Cond,
    rng: Rng,
    *,
    like: Tensor | None = None,
    batch_size: int = 256,
) -> Batch:
    """Pairs (x0, x0') of noise with the noise from which ``plain`` gives the sample of ``guided``; see RefinedNoise.

    x0' = plain^-1(guided(x0)),  as ``x1`` of the batch;  the other arguments are those of ``reflow_pairs``
    """
    pairs = reflow_pairs(flow, guided, wanted, rng, like=like, batch_size=batch_size)
    ends = inverted_pairs(flow, plain, pairs, batch_size=batch_size)
    assert ends.x0 is not None
    return Batch(ends.x0.to(pairs.x1), pairs.x0, pairs.cond)


def _rows(cond: Cond, start: int, end: int, device: torch.device) -> Cond:
    return map_cond(lambda leaf: leaf[start:end].to(device), cond)
