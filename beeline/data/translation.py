"""From one data set to another: picture to picture, or domain to domain, with the same flow and the same engine."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import DataSet, Modality
from beeline.core.protocols.training import Microbatches
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.modality import DataSetBase
from beeline.training.feed.microbatches import InMemory


@dataclass(frozen=True)
class DatasetSource:
    """The rows of a data set as the source of a flow, read when they are first asked for.

    x0 ~ uniform over the held-out rows of data (or the training rows), encoded by the modality
    Assumes that the data can be read again where the flow is used; carrying data of your own
    (``bundle.translate``) does without.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> from beeline.data.image_files import Digits
    >>> digits = Digits()
    >>> DatasetSource(digits, digits.modality().fit(digits.load()[0])).sample(torch.empty(2, 1, 8, 8), Rng(0)).shape
    torch.Size([2, 1, 8, 8])
    """

    data: DataSet
    modality: Modality  # fitted to its training rows
    held: bool = True  # draw from the held-out rows; False is the training rows, for reflow
    gaussian = False

    @functools.cached_property
    def rows(self) -> Tensor:
        """All rows that are drawn from [N,*S]."""
        raw, held = self.data.load()
        return self.modality.encode(held if self.held else raw).x1

    def training(self) -> DatasetSource:
        """The source of the training rows."""
        return replace(self, held=False)

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        same_shape(tuple(self.rows.shape[1:]), tuple(like.shape[1:]))
        return self.rows[rng.integers(len(self.rows), len(like))].to(like.device, like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        raise BeelineError(
            "the density of a source of data was asked for; a finite set of rows has none: likelihoods need a "
            "Gaussian or Uniform source"
        )


@dataclass(frozen=True)
class PairedDataset(DataSetBase):
    """Two data sets, of which one flows into the other.

    x0 ~ source, x1 ~ target;  row i of the one belongs to row i of the other where they are ``aligned``
    Assumes data of one shape on both sides, and a coupling that takes the source points it is given: Paired, Matched,
    or a transport.  Labels of the target are conditions, those of the source are left out.  Where the paths of aligned
    pairs cross, a flow keeps the law of the target and not every partner.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> from beeline.data.distributions.mixtures import GaussianMixture, TwoMoons
    >>> from beeline.data.point_files import DistributionData
    >>> len(PairedDataset(DistributionData(GaussianMixture.ring()), DistributionData(TwoMoons(), n=100)).load()[0])
    100
    """

    source: DataSet
    target: DataSet
    aligned: bool = False  # the rows of both belong together, in their order (files: in the order of their names)

    def modality(self) -> Modality:
        return self.target.modality()

    def load(self) -> tuple[Any, Any]:
        """(training, held-out) data of the target."""
        return self.target.load()

    def endpoints(self, batch: Batch, held: Batch, rng: Rng) -> Pairs:
        """The encoded target with the source beside it; an error where they do not fit together."""
        raw, _ = self.source.load()
        modality = self.source.modality().fit(raw)
        source = DatasetSource(self.source, modality)
        x0, x0_held = modality.encode(raw).x1, source.rows
        same_shape(tuple(x0.shape[1:]), tuple(batch.x1.shape[1:]))
        if not self.aligned:
            joined = Joined(InMemory(batch, rng.fork("target")), InMemory(Batch(x0), rng.fork("source")))
            return Pairs(source, beside(batch, x0), beside(held, x0_held), joined)
        for name, mine, theirs in (("training", x0, batch.x1), ("held-out", x0_held, held.x1)):
            require(
                len(mine) == len(theirs),
                f"the source has {len(mine)} {name} data and the target {len(theirs)}; aligned data come in equal "
                "numbers: give every datum its partner, or say aligned=False",
            )
        pairs = replace(batch, x0=x0)
        return Pairs(source, pairs, replace(held, x0=x0_held), InMemory(pairs, rng))


class Pairs(NamedTuple):
    """Two data sets as a flow takes them."""

    source: DatasetSource
    batch: Batch  # training data with source points
    held: Batch  # held-out data with source points
    feed: Microbatches  # what is learned from; of data that are not aligned, every epoch joins other rows


def beside(batch: Batch, x0: Tensor) -> Batch:
    """The batch with source points, those of a shorter source over again."""
    return replace(batch, x0=x0[torch.arange(len(batch.x1)) % len(x0)])


@dataclass(frozen=True, eq=False)
class Joined:
    """Data and source points, each in an order of its own."""

    target: InMemory
    source: InMemory

    def microbatch(self, number: int, size: int) -> Batch:
        return replace(self.target.microbatch(number, size), x0=self.source.microbatch(number, size).x1)


def same_shape(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    require(
        source == target,
        f"a datum of the source has shape {source} and one of the target {target}; both ends of a flow have one shape: "
        "bring them to the same size and channels (resize= for pictures, columns= for points)",
    )
