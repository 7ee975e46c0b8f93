"""Stored pairs as a data source of a training."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import read_tensors
from beeline.core.protocols.flows import Source
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.pairs import source_points
from beeline.distillation.store.conditions import Conditions, tree_of
from beeline.distillation.store.making import absent
from beeline.distillation.store.manifest import Manifest, read_manifest
from beeline.training.feed.microbatches import FeedBase, epoch_rows

CONDITIONS = "conditions.safetensors"
KEY = "pairs"  # the name of the key of the noise under the seed of a store


@dataclass(frozen=True, eq=False)
class PairStore(FeedBase):
    """Stored pairs with their noise regenerated: a microbatch is a function of its number and size.

    x0 of pair i = source(key, i);  x1 and the number of its condition are read from its shard
    Every pair occurs once per epoch.  The shards are memory-mapped, so they may be larger than memory.
    Assumes a complete store: ``opened`` refuses others.
    """

    folder: Path
    manifest: Manifest
    source: Source
    starts: Tensor  # [shards + 1], how many pairs the shards before hold
    sampler: Any = None  # of the pairs
    rng: Rng = field(default_factory=lambda: Rng(0).fork("order"))  # of the order of the pairs

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"pairs": self.manifest.digest(), "kept": len(self)}

    def ordered(self, rng: Rng) -> PairStore:
        """The pairs in another order."""
        return replace(self, rng=rng)

    def rows(self, number: int, size: int) -> Tensor:
        """Which of the pairs a microbatch holds."""
        return epoch_rows(self.rng, len(self), number, size)

    def microbatch(self, number: int, size: int) -> Batch:
        return self.take(self.rows(number, size))

    def take(self, index: Tensor) -> Batch:
        """The pairs ``index`` [B], from 0 to len - 1, with x0, x1 and conditions.

        States are in float32, or in float64 where they are stored so.
        """
        order = index.argsort(stable=True)
        sorted_, shards = index[order], torch.searchsorted(self.starts, index[order], right=True) - 1
        x1: list[Tensor] = []
        seeds: list[Tensor] = []
        numbers: list[Tensor] = []
        done = 0
        for shard, count in zip(
            *(part.tolist() for part in shards.unique_consecutive(return_counts=True)), strict=True
        ):
            tensors = self._shard(shard)
            at = sorted_[done : done + count] - self.starts[shard]
            done += count
            x1.append(tensors["x1"][at])
            seeds.append(tensors["row"][at] if "row" in tensors else self.manifest.rows(shard).start + at)
            if "cond" in tensors:
                numbers.append(tensors["cond"][at])
        back = order.argsort()
        ends = torch.cat(x1)[back]
        ends = ends if ends.dtype == torch.float64 else ends.float()
        x0 = source_points(self.source, torch.cat(seeds)[back].tolist(), self.key, ends[:1])
        table = self._conditions()
        return Batch(ends, x0, None if table is None else table.at(torch.cat(numbers)[back]))

    def head(self, count: int) -> Batch:
        """The first pairs, at most ``count``."""
        return self.take(torch.arange(min(count, len(self))))

    @property
    def key(self) -> Rng:
        """The key of the noise."""
        return pair_key(self.manifest.seed)

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers of the pairs ``index`` [B] in the order of ``take``: another row where filters removed some."""
        shards = (torch.searchsorted(self.starts, index, right=True) - 1).tolist()
        at = (index - self.starts[shards]).tolist()
        return torch.tensor([self._number(shard, i) for shard, i in zip(shards, at, strict=True)])

    def _number(self, shard: int, i: int) -> int:
        tensors = self._shard(shard)
        return int(tensors["row"][i]) if "row" in tensors else self.manifest.rows(shard).start + i

    def _shard(self, shard: int) -> dict[str, Tensor]:
        return mapped(self.folder / self.manifest.file(shard))

    def _conditions(self) -> Conditions | None:
        if not self.manifest.conditions:
            return None
        return Conditions(tree_of(mapped(self.folder / CONDITIONS)), torch.empty(0, dtype=torch.long), self.rng)


def pair_key(seed: int) -> Rng:
    """The key of the noise of the pairs of a store with this seed."""
    return Rng(seed).fork(KEY)


def mapped(path: Path) -> dict[str, Tensor]:
    """The memory-mapped tensors of a file, which is read again only where it was replaced."""
    return _mapped(path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=4096)
def _mapped(path: Path, changed: int) -> dict[str, Tensor]:
    return read_tensors(path)


def opened(folder: Path, source: Source, sampler: Any = None) -> PairStore:
    """A complete store; BeelineError where shards are missing or damaged."""
    manifest = read_manifest(folder)
    missing = absent(folder, manifest)
    require(
        not missing,
        f"{folder} holds {manifest.shards - len(missing)} of {manifest.shards} shards, so it is not complete; run the "
        "same beeline pairs again, which continues it",
    )
    counts = torch.tensor([kept(folder / manifest.file(k), manifest.shape) for k in range(manifest.shards)])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    require(
        int(starts[-1]) > 0,
        f"{folder} holds no pairs, because its filters removed all of them; make pairs with weaker filters",
    )
    return PairStore(folder, manifest, source, starts, sampler)


def kept(path: Path, shape: tuple[int, ...]) -> int:
    """The number of pairs in a shard; BeelineError for one that is damaged or of another shape."""
    try:
        with safe_open(path, framework="pt") as file:
            found = tuple(file.get_slice("x1").get_shape())
    except (SafetensorError, OSError) as error:
        raise BeelineError(
            f"{path} is damaged ({str(error).splitlines()[0]}); it was probably cut while being copied: delete it, and "
            "run the same beeline pairs again"
        ) from None
    require(
        found[1:] == shape,
        f"{path} holds data of shape {list(found[1:])} and not {list(shape)}; delete it, and run the same beeline "
        "pairs again",
    )
    return int(found[0])
