"""The manifest of stored pairs: what they are, and in which files they lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from beeline.core.errors import BeelineError, require
from beeline.core.files import read_json, write_json

MANIFEST = "pairs.json"
FORMAT = 1
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Manifest:
    """The settings of stored pairs, from which every pair follows; ``notes`` are what was measured of them.

    Pair i of ``count`` depends on the settings and on i alone.  Shard k holds the pairs k shard_size to
    (k + 1) shard_size - 1, without those that filters removed.

    >>> Manifest("ab12", "Linear()", "Gaussian", {}, {}, 0, 10, 4, (2,)).shards
    3
    """

    teacher: str  # SHA-256 of the weights of the teacher
    path: str  # of the teacher
    source_name: str  # of the teacher
    source: Any  # its source as plain data
    sampler: Any  # of the pairs, as plain data; with guidance
    seed: int
    count: int  # pairs that are generated, before filters
    shard_size: int  # pairs
    shape: tuple[int, ...]  # of a datum
    dtype: str = "float32"  # of the stored end points
    conditions: Mapping[str, Any] = field(default_factory=dict)  # where they come from, and a hash of them
    filters: tuple[Any, ...] = ()  # as plain data
    notes: Mapping[str, Any] = field(default_factory=dict)  # bundle of the teacher, drift of the pairs

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size)

    def rows(self, shard: int) -> range:
        """The pairs of a shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    def file(self, shard: int) -> str:
        """The name of the file of a shard."""
        return f"shard-{shard:05d}.safetensors"

    def settings(self) -> dict[str, Any]:
        """All but the notes, as plain data."""
        plain = dataclasses.asdict(self) | {"shape": list(self.shape), "filters": list(self.filters)}
        plain.pop("notes")
        return dict(json.loads(json.dumps(plain)))

    def digest(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the manifest atomically."""
        write_json(folder / MANIFEST, {"format": FORMAT, **self.settings(), "notes": dict(self.notes)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; BeelineError where there is none, or one that is damaged or of a newer version."""
    require(
        (folder / MANIFEST).is_file(),
        f"{folder} holds no pairs (no {MANIFEST}); make them with: beeline pairs BUNDLE -n 10000 --out {folder}",
    )
    data = read_json(folder / MANIFEST)
    try:
        require(
            data["format"] == FORMAT,
            f"{folder / MANIFEST} has format {data['format']}, this version reads {FORMAT}; update beeline",
        )
        known = {f.name: data[f.name] for f in dataclasses.fields(Manifest)}
        known["shape"], known["filters"] = tuple(int(n) for n in known["shape"]), tuple(known["filters"])
        made = Manifest(**known)
        require(
            min(made.count, made.shard_size) >= 1 and made.dtype in DTYPES,
            f"{folder / MANIFEST} names {made.count} pairs in shards of {made.shard_size} as {made.dtype}, which "
            "cannot be; it was edited: make the pairs again",
        )
        return made
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BeelineError):
            raise
        raise BeelineError(
            f"{folder / MANIFEST} lacks {error}, so it is damaged or another file; make the pairs again"
        ) from error
