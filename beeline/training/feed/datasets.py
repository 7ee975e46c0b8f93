"""Data sets of torch as data sources: items are loaded when a microbatch is requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from beeline.core.errors import BeelineError, require
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.training.feed.microbatches import FeedBase, epoch_rows


@dataclass(frozen=True, eq=False)
class FromDataset(FeedBase):
    """A map-style torch Dataset, shuffled every epoch; every item is loaded once per epoch.

    An item is a tensor [*S], a pair (tensor, label or condition), a mapping with ``x1`` and other members of Batch, or
    whatever ``collate`` turns into one of these for a list of items.  A label becomes the condition ``label``.
    Random transforms of items use torch's global generator, seeded by the number of the microbatch.

    >>> data = torch.utils.data.TensorDataset(torch.zeros(6, 2), torch.arange(6))
    >>> FromDataset(data, Rng(0)).microbatch(0, 4).cond["label"].shape
    torch.Size([4])
    """

    dataset: Dataset[Any]
    rng: Rng
    collate: Callable[[list[Any]], Any] = default_collate

    def __post_init__(self) -> None:
        require(
            not isinstance(self.dataset, IterableDataset),
            f"{type(self.dataset).__name__} is an IterableDataset, whose items have no indices, so a run on it could "
            "not be resumed; give a data set with __len__ and __getitem__, or an object with microbatch(number, size)",
        )
        require(len(self) > 0, f"{type(self.dataset).__name__} is empty, but training needs at least one datum")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def rows(self, number: int, size: int) -> Tensor:
        return epoch_rows(self.rng, len(self), number, size)

    def microbatch(self, number: int, size: int) -> Batch:
        with self.rng.fork("items", number).ambient():
            items = self.collate([self.dataset[i] for i in self.rows(number, size).tolist()])
        return as_batch(items)


def from_loader(loader: DataLoader[Any], rng: Rng) -> FromDataset:
    """The data set and the collate function of a DataLoader; batch size and order are those of the training."""
    return FromDataset(loader.dataset, rng, loader.collate_fn)


def as_batch(items: Any) -> Batch:
    """Collated items as a Batch; BeelineError if they are not of a known form."""
    if isinstance(items, Tensor):
        items = (items,)
    if isinstance(items, Mapping) and "x1" in items:
        unknown = sorted(set(items) - {"x1", "x0", "cond", "weight"})
        require(not unknown, f"items of the data set have the unknown keys {unknown}; use x1, x0, cond and weight")
        items = Batch(**items)
    elif isinstance(items, Sequence) and len(items) in (1, 2) and isinstance(items[0], Tensor):
        cond = items[1] if len(items) == 2 else None
        items = Batch(items[0], cond={"label": cond} if isinstance(cond, Tensor) else cond)
    if not isinstance(items, Batch) or not items.x1.is_floating_point():
        form = f"{items.x1.dtype} tensors" if isinstance(items, Batch) else type(items).__name__
        raise BeelineError(
            f"the data set gives {form}, but training needs floating point tensors, pairs (tensor, label), or mappings "
            "with x1; convert the items, or give a DataLoader with a collate_fn that does"
        )
    x1: Tensor = items.x1
    return (
        items
        if x1.dtype != torch.float64
        else Batch(x1.to(torch.get_default_dtype()), items.x0, items.cond, items.weight)
    )
