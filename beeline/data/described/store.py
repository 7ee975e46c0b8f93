"""Embeddings of texts on disk: each text is encoded once by an encoder, and read from there by all later runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import read_tensors, sweep, unwritten, write_tensors
from beeline.training.feed.cache import waiting_lock

PART = 1024  # texts of one file
KEYS = "keys"  # the tensor of a file that holds the hashes of its texts
VERSION = 1  # of the files; another one encodes again
HASH = 16  # bytes of the hash of a text

Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]


def cache_folder() -> Path:
    """The folder for embeddings where none is given."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "texts"


@dataclass(frozen=True)
class StoredTexts:
    """The embeddings of N texts: a call gives those of some rows, read from memory-mapped files.

    Rows of empty texts are zeros.
    """

    files: tuple[str, ...]
    place: Tensor  # int64 [N,2]: file and row in it; -1 for an empty text
    shapes: Mapping[str, tuple[int, ...]]  # of one embedding, by name

    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        where = self.place[rows]
        made = {name: torch.zeros(len(where), *shape, dtype=torch.float16) for name, shape in self.shapes.items()}
        for file in where[:, 0].unique().tolist():
            if file < 0:
                continue
            here = where[:, 0] == file
            tensors = _part(self.files[file])
            for name, leaf in made.items():
                leaf[here] = tensors[name][where[here, 1]]
        return made


def stored_texts(
    texts: Sequence[str],
    encode: Encode,
    shapes: Mapping[str, tuple[int, ...]],
    key: str,
    cache: str | None = None,
    about: str = "texts",
) -> StoredTexts:
    """The embeddings of texts in half precision; those that are not in the cache yet are encoded and written to it.

    ``encode`` takes up to PART texts; ``shapes`` are those of one embedding by name; ``key`` identifies the encoder
    with all its settings.  A file is written whole or not at all, so that an interrupted run loses at most one of them.
    A damaged file is encoded again.  Raises BeelineError for a folder that cannot be written, and for embeddings that
    half precision does not hold.
    """
    folder = (cache_folder() if cache is None else Path(cache).expanduser()) / _hash(json.dumps([VERSION, key])).hex()
    wanted = {text: _hash(text) for text in dict.fromkeys(texts) if text}
    known: dict[bytes, tuple[int, int]] = {}
    files: list[str] = []
    if wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with waiting_lock(folder / ".lock"):
                sweep(folder)
                known, files = _index(folder)
                left = [text for text, own in wanted.items() if own not in known]
                if left:
                    _write(folder, left, wanted, encode, about)
                    known, files = _index(folder)
        except OSError as error:
            raise unwritten(folder, error) from error
    place = torch.tensor([known[wanted[text]] if text else (-1, -1) for text in texts]).reshape(-1, 2)
    return StoredTexts(tuple(files), place, dict(shapes))


def _write(folder: Path, texts: list[str], hashes: Mapping[str, bytes], encode: Encode, about: str) -> None:
    """Encode texts and write them in files of PART; texts of similar length are encoded together."""
    from rich.console import Console
    from rich.progress import track

    parts = [texts[i : i + PART] for i in range(0, len(texts), PART)]
    quiet = len(texts) < 4 * PART or not sys.stderr.isatty()
    for part in track(parts, about, console=Console(stderr=True), transient=True, disable=quiet):
        made = {name: leaf.cpu().half() for name, leaf in encode(part).items()}
        require(
            all(bool(leaf.isfinite().all()) for leaf in made.values()),
            f"{about}: an embedding is beyond half precision or not finite; check the weights of the encoder, or use "
            "another one",
        )
        keys = torch.frombuffer(bytearray(b"".join(hashes[text] for text in part)), dtype=torch.uint8)
        name = _hash("".join(hashes[text].hex() for text in part)).hex()
        write_tensors(folder / f"{name}.safetensors", {**made, KEYS: keys.reshape(len(part), HASH)})


def _index(folder: Path) -> tuple[dict[bytes, tuple[int, int]], list[str]]:
    """Where the embedding of every text is, by the hash of the text; and the files."""
    known: dict[bytes, tuple[int, int]] = {}
    files: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                keys = opened.get_tensor(KEYS)
        except Exception:  # a damaged file; the reader raises errors of several types
            file.unlink(missing_ok=True)
            continue
        rows = keys.numpy().tobytes()
        for row in range(len(keys)):
            known[rows[row * HASH : (row + 1) * HASH]] = (len(files), row)
        files.append(str(file))
    return known, files


@functools.lru_cache(maxsize=256)
def _part(file: str) -> dict[str, Tensor]:
    try:
        return read_tensors(Path(file))
    except BeelineError:
        raise BeelineError(
            f"{file} with embeddings of texts is missing or damaged; start again, which encodes the texts of that file"
        ) from None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH]
