"""Flows between two data sets, such as image-to-image translation."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

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
    """The rows of a data set as the source of a flow; they are loaded at first use.

    x0 ~ uniform over the held-out rows of ``data`` (or the training rows), encoded by ``modality``
    Assumes that the data can be loaded where the flow is used; ``bundle.translate`` of other data does not need them.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> from beeline.data.image_files import Digits
    >>> digits = Digits()
    >>> DatasetSource(digits, digits.modality().fit(digits.load()[0])).sample(torch.empty(2, 1, 8, 8), Rng(0)).shape
    torch.Size([2, 1, 8, 8])
    """

    data: DataSet
    modality: Modality  # fitted to its training rows
    held: bool = True  # sample held-out rows; False samples training rows, for reflow
    gaussian = False

    @functools.cached_property
    def rows(self) -> Tensor:
        """The rows that are sampled, [N,*S]."""
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
            "a finite data set has no density, so a flow from it has no likelihood; likelihoods need a Gaussian or "
            "Uniform source"
        )


@dataclass(frozen=True)
class PairedDataset(DataSetBase):
    """A source and a target data set, for a flow from one to the other.

    x0 ~ source, x1 ~ target;  with ``aligned``, row i of the source is the partner of row i of the target
    Assumes data of one shape, and a coupling that uses given source points: Paired, PairedOrOT or a transport.  Labels
    of the target are conditions, those of the source are ignored.  Where the paths of aligned pairs cross, the flow
    reproduces the target distribution, but not every pair.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> from beeline.data.distributions.mixtures import GaussianMixture, TwoMoons
    >>> from beeline.data.point_files import DistributionData
    >>> len(PairedDataset(DistributionData(GaussianMixture.ring()), DistributionData(TwoMoons(), n=100)).load()[0])
    100
    """

    source: DataSet
    target: DataSet
    aligned: bool = False  # whether rows are pairs, in their order (image folders: in the order of the file names)
    paired: ClassVar[bool] = True

    def modality(self) -> Modality:
        return self.target.modality()

    def load(self) -> tuple[Any, Any]:
        """(training, held-out) data of the target."""
        return self.target.load()

    def endpoints(self, batch: Batch, held: Batch, rng: Rng) -> Pairs:
        """Both data sets encoded, with source points for every target row."""
        raw, _ = self.source.load()
        modality = self.source.modality().fit(raw)
        modality.check_unchanging(raw)
        source = DatasetSource(self.source, modality)
        x0, x0_held = modality.encode(raw).x1, source.rows
        same_shape(tuple(x0.shape[1:]), tuple(batch.x1.shape[1:]))
        if not self.aligned:
            joined = Joined(InMemory(batch, rng.fork("target")), InMemory(Batch(x0), rng.fork("source")))
            return Pairs(source, beside(batch, x0), beside(held, x0_held), joined)
        for name, mine, theirs in (("training", x0, batch.x1), ("held-out", x0_held, held.x1)):
            require(
                len(mine) == len(theirs),
                f"the source has {len(mine)} {name} data and the target {len(theirs)}, but aligned data are "
                "pairs; give every datum a partner, or set aligned=False",
            )
        pairs = replace(batch, x0=x0)
        return Pairs(source, pairs, replace(held, x0=x0_held), InMemory(pairs, rng))


class Pairs(NamedTuple):
    """Two data sets with their source points."""

    source: DatasetSource
    batch: Batch  # training data with source points
    held: Batch  # held-out data with source points
    feed: Microbatches  # what a network is trained on; data that are not aligned are paired anew in every epoch


def beside(batch: Batch, x0: Tensor) -> Batch:
    """The batch with source points; a shorter source is repeated."""
    return replace(batch, x0=x0[torch.arange(len(batch.x1)) % len(x0)])


@dataclass(frozen=True, eq=False)
class Joined:
    """Target and source data, each shuffled independently."""

    target: InMemory
    source: InMemory

    def microbatch(self, number: int, size: int) -> Batch:
        return replace(self.target.microbatch(number, size), x0=self.source.microbatch(number, size).x1)


def same_shape(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    require(
        source == target,
        f"source data have shape {source} and target data {target}, but both ends of a flow have one shape; convert "
        "them to the same size and channels (resize= for images, columns= for points)",
    )
