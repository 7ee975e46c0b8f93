"""Pairs of a teacher in shards, which any number of processes write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from beeline.core.files import PART, claimed, write_tensors
from beeline.core.modes import device_of, eval_mode
from beeline.core.protocols.training import PairFilter
from beeline.core.rng import Rng
from beeline.core.types import Batch, map_cond, stack, take
from beeline.distillation.pairs import starts
from beeline.distillation.store.conditions import Conditions
from beeline.distillation.store.manifest import DTYPES, Manifest
from beeline.fields.flow import Flow
from beeline.objectives.tables import columns_of, completed_rows
from beeline.sampling.sampler import Sampler
from beeline.sampling.spread import parallel_map

WAIT = 0.2  # seconds until a process looks again for shards that others have not finished


@dataclass(frozen=True, eq=False)
class Maker:
    """Generates the pairs of a teacher by their numbers.

    x0 = source(key, i),  x1 = sampler(flow, x0, cond_i);  as ``reflow_pairs`` with the same key

    >>> Maker(Flow(lambda x, t: 2 + 0 * x), Sampler(1), Rng(0), torch.empty(0, 1)).batch(range(5)).x1.shape
    torch.Size([5, 1])
    """

    flow: Flow
    sampler: Sampler
    rng: Rng
    like: Tensor  # [0,*S] in the dtype of the states
    conditions: Conditions | None = None
    filters: Sequence[PairFilter] = ()
    batch_size: int = 256

    def batch(self, rows: Sequence[int]) -> Batch:
        """The pairs ``rows``, which follow each other, on the CPU; in batches, on all cores of a processor at once."""
        on_cpu = (device_of(self.flow.field) or torch.device("cpu")).type == "cpu"
        # a batch for every thread is faster than several threads for a batch
        size = min(self.batch_size, -(-len(rows) // torch.get_num_threads())) if on_cpu else self.batch_size
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        with eval_mode(self.flow.field):
            made = parallel_map(self._part, parts) if on_cpu else [self._part(part) for part in parts]
        return stack(made)

    def _part(self, rows: Sequence[int]) -> Batch:
        x0 = starts(self.flow, rows, self.rng, self.like)
        cond = None
        if self.conditions is not None:
            cond = map_cond(lambda leaf: leaf.to(x0.device), self.conditions.at(self.conditions.numbers(rows)))
        keyed = self.sampler.seeded(rows, "pairs", self.rng.seed, *self.rng.path)
        pairs = Batch(keyed(self.flow, x0, cond).to(x0.dtype), x0, cond)
        groups = columns_of(self.flow.field)
        return pairs if groups is None else completed_rows(pairs, groups)

    def tensors(self, rows: range, dtype: torch.dtype) -> dict[str, Tensor]:
        """A shard: end points, the numbers of kept pairs where filters removed some, and entries of the conditions."""
        pairs = self.batch(rows)
        kept = torch.arange(len(rows), device=pairs.x1.device)
        for chosen in self.filters:
            some = chosen(take(pairs, kept))
            kept = kept[some.to(kept.device)]
        found = {"x1": pairs.x1[kept].to(dtype)}
        if self.filters:
            found["row"] = rows.start + kept
        if self.conditions is not None:
            found["cond"] = self.conditions.numbers(rows).to(kept.device)[kept]
        return found

    def trial(self, count: int) -> float:
        """Seconds for ``count`` pairs."""
        begun = time.perf_counter()
        self.batch(range(count))
        return max(1e-9, time.perf_counter() - begun)


def fill(
    folder: Path,
    manifest: Manifest,
    make: Maker,
    say: Callable[[int], None] = lambda done: None,
    wait: float = WAIT,
) -> None:
    """Write the shards that are missing; returns when all of them are there, also those of other processes.

    A process claims a shard before it works on it; the claim of a process that died ends with it.  ``say`` is called
    with the number of shards that are there after every shard that this process wrote.
    """
    while missing := absent(folder, manifest):
        before = len(missing)
        for shard in missing:
            path = folder / manifest.file(shard)
            with claimed(folder / f".{path.name}.claim") as mine:
                if not mine or path.is_file():
                    continue
                for left in folder.glob(f".{path.name}.*{PART}"):  # of a process that died
                    left.unlink(missing_ok=True)
                write_tensors(path, make.tensors(manifest.rows(shard), DTYPES[manifest.dtype]))
                before -= 1
                say(manifest.shards - len(absent(folder, manifest)))
        if before == len(missing):
            time.sleep(wait)
    for left in folder.glob(".*.claim"):  # of processes that died
        with claimed(left):
            pass


def absent(folder: Path, manifest: Manifest) -> list[int]:
    """The shards that are not written."""
    return [k for k in range(manifest.shards) if not (folder / manifest.file(k)).is_file()]


def pair_bytes(manifest: Manifest, conditions: Conditions | None) -> int:
    """Bytes of all shards and of the conditions on disk."""
    one = torch.Size(manifest.shape).numel() * DTYPES[manifest.dtype].itemsize
    one += (8 if manifest.filters else 0) + (0 if conditions is None else 4)
    table = 0 if conditions is None else sum(t.numel() * t.element_size() for t in conditions.tensors().values())
    return one * manifest.count + table + 512 * manifest.shards


def usual_shard(numel: int, itemsize: int, count: int, batch_size: int) -> int:
    """Pairs of a shard: about 64 MiB, at least one batch, and at least 16 shards where there are as many batches."""
    wanted = max(1, min(2**26 // (numel * itemsize), -(-count // 16)))
    return min(count, -(-wanted // batch_size) * batch_size)
