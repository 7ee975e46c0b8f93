"""Latents on disk: safetensors shards and a manifest, which names only shards that are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import read_json, read_tensors, write_json, write_tensors

MANIFEST = "latents.json"
FORMAT = 1


@dataclass
class Shards:
    """The shards of a folder.  ``settings`` are plain data that identify the latents: encoder, weights, images."""

    folder: Path
    settings: dict[str, Any]
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"train": [], "held": []})
    complete: bool = False

    def rows(self, part: str) -> int:
        """Number of latents of a part, "train" or "held"."""
        return sum(shard["rows"] for shard in self.parts[part])

    def append(self, part: str, latents: Tensor, labels: Tensor | None, lines: Sequence[str] | None = None) -> None:
        """Write a shard, then the manifest that names it; ``lines`` are a text for every latent."""
        name = f"{part}-{len(self.parts[part]):05d}.safetensors"
        tensors = {"latents": latents} | ({} if labels is None else {"labels": labels})
        tensors |= {} if lines is None else {"lines": _bytes(lines)}
        digest = write_tensors(self.folder / name, tensors)
        self.parts[part].append({"file": name, "rows": len(latents), "sha256": digest})
        self.write()

    def finish(self) -> None:
        """Mark the latents as complete."""
        self.complete = True
        self.write()

    def write(self) -> None:
        data = {"format": FORMAT, "complete": self.complete, "settings": self.settings, "parts": self.parts}
        write_json(self.folder / MANIFEST, data)

    def read(self, part: str) -> tuple[list[Tensor], Tensor | None, list[str] | None]:
        """The latents of every shard, memory-mapped, and the labels and lines of all of them."""
        tensors = [read_tensors(self._file(shard)) for shard in self.parts[part]]
        for shard, found in zip(self.parts[part], tensors, strict=True):
            require(
                "latents" in found and len(found["latents"]) == shard["rows"],
                f"{self.folder / shard['file']} does not hold the {shard['rows']} latents of its manifest; encode the "
                "data again",
            )
        labels = [found["labels"] for found in tensors if "labels" in found]
        texts = [_lines(found["lines"]) for found in tensors if "lines" in found]
        lines = [line for part_lines in texts for line in part_lines] if texts else None
        return [found["latents"] for found in tensors], torch.cat(labels) if labels else None, lines

    def _file(self, shard: dict[str, Any]) -> Path:
        name = str(shard["file"])
        require(
            Path(name).name == name and name.endswith(".safetensors"),
            f"{self.folder / MANIFEST} names the file {name!r}; shards lie beside it as safetensors: encode again",
        )
        return self.folder / name


def _bytes(lines: Sequence[str]) -> Tensor:
    """Lines of text as uint8."""
    return torch.frombuffer(bytearray("\n".join(lines).encode()), dtype=torch.uint8)


def _lines(stored: Tensor) -> list[str]:
    return stored.numpy().tobytes().decode().split("\n")


def read_shards(folder: Path) -> Shards:
    """The shards that the manifest of a folder names; BeelineError if it is damaged or of a newer version."""
    data = read_json(folder / MANIFEST)
    try:
        require(
            data["format"] == FORMAT,
            f"{folder / MANIFEST} has format {data['format']}, this version reads {FORMAT}; update beeline",
        )
        parts = {
            part: [{"file": str(s["file"]), "rows": int(s["rows"]), "sha256": str(s["sha256"])} for s in shards]
            for part, shards in dict(data["parts"]).items()
        }
        return Shards(
            folder, dict(data["settings"]), {"train": parts["train"], "held": parts["held"]}, data["complete"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BeelineError(
            f"{folder / MANIFEST} lacks {error}, so it is damaged or another file; encode the data again"
        ) from error
