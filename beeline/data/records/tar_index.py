"""An index of the images in tar shards, from the headers of their members."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, require
from beeline.core.files import replacing
from beeline.data.arrays import read_arrays
from beeline.data.labels import Array
from beeline.data.pictures.listing import EXTENSIONS

LABEL_ENDINGS = ("cls", "json", "txt")
"""Members of a sample that may have its label, the preferred one first."""
JSON_LABELS = ("label", "cls", "class", "class_id", "y")
"""Entries of a .json member that may be the label, the preferred one first."""
LONGEST = 64  # characters of a label; longer texts are captions
CACHED = 32 * 2**20  # bytes of a shard from which its index is kept on disk


def shard_files(path: str) -> list[Path]:
    """The shards of a folder, of a pattern such as data-{000..099}.tar or data-*.tar, or one shard."""
    place = Path(path).expanduser()
    if place.is_dir():
        return sorted(p for p in place.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith("."))
    found = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if found is not None:
        first, last = found.groups()
        names = [
            f"{path[: found.start()]}{i:0{len(first)}d}{path[found.end() :]}" for i in range(int(first), int(last) + 1)
        ]
        missing = [name for name in names if not Path(name).expanduser().is_file()]
        require(
            names and not missing,
            f"{path} names {len(names)} shards, of which {len(missing)} are missing, first {missing[:1]}; check the "
            "numbers and the folder",
        )
        return [Path(name).expanduser() for name in names]
    if "*" in place.name:
        return sorted(place.parent.glob(place.name))
    return [place]


def is_shards(path: str) -> bool:
    """Whether a path is a shard, a pattern of shards, or a folder with shards."""
    place = Path(path).expanduser()
    if place.is_dir():
        return any(p.suffix.lower() == ".tar" for p in place.iterdir())
    return place.name.lower().endswith(".tar")


class Index:
    """Images of shards: ``shard`` [N], ``offset`` [N] and ``size`` [N] in bytes, and label texts [N] by ending."""

    def __init__(self, files: Sequence[Path], ending: str | None = None):
        self.files = list(files)
        parts = [_index(file) for file in self.files]
        self.shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part["offset"]) for part in parts])
        self.offset = np.concatenate([part["offset"] for part in parts])
        self.size = np.concatenate([part["size"] for part in parts])
        self.ending, self.texts = _labels(self.files, parts, ending)

    def __len__(self) -> int:
        return len(self.offset)


def _labels(files: Sequence[Path], parts: Sequence[Any], given: str | None) -> tuple[str | None, Array | None]:
    """(ending, label texts [N]) of the first kind of label that all samples have; (None, None) without any."""
    for ending in LABEL_ENDINGS if given is None else (given,):
        texts = [part[ending] for part in parts]
        have = sum(int((text != "").sum()) for text in texts)
        if not have:
            continue
        lacking = next((i for i, text in enumerate(texts) if (text == "").any()), None)
        if lacking is not None and ending == LABEL_ENDINGS[0]:
            row = int((texts[lacking] == "").argmax())
            raise BeelineError(
                f"{files[lacking]}: sample {row} ({member_name(files[lacking], parts[lacking]['offset'][row])}) has no "
                f"label .{ending}, which others have; add it, or set labels=False"
            )
        if lacking is None:
            return ending, np.concatenate(texts)
    require(
        given is None,
        f"label={given!r} was given for shards, but not every sample has a member .{given} with a label of at most "
        f"{LONGEST} characters; give one of {', '.join(LABEL_ENDINGS)}, or labels=False",
    )
    return None, None


def member_name(file: Path, offset: int) -> str:
    """The name of the member whose content begins at ``offset``, from its header."""
    with open(file, "rb") as opened:
        opened.seek(int(offset) - tarfile.BLOCKSIZE)
        header = opened.read(tarfile.BLOCKSIZE)
    with suppress(tarfile.HeaderError):
        return tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
    return f"byte {offset}"


def _index(file: Path) -> dict[str, Array]:
    """The index of one shard, read from the cache where the shard is large and unchanged."""
    stat = file.stat()
    if stat.st_size < CACHED:
        return _scan(file)
    key = f"2 {file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(home) / "beeline" / "shards" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if kept.is_file():
        with suppress(BeelineError):
            return read_arrays(kept)
    found = _scan(file)
    with suppress(BeelineError):  # a home that cannot be written: the next run scans again
        with replacing(kept) as temporary, open(temporary, "wb") as out:
            np.savez(out, **found)  # type: ignore[arg-type]
    return found


def _scan(file: Path) -> dict[str, Array]:
    """Offset and size of the image and the text of the labels of every sample of a shard, from one pass."""
    samples: dict[str, dict[str, Any]] = {}
    endings: Counter[str] = Counter()
    length = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if not member.isreg() or name.startswith("."):
                    continue
                require(
                    member.offset_data + member.size <= length and not member.issparse(),
                    f"{file} ends within {member.name}, so it was cut; copy it again",
                )
                stem, _, ending = name.partition(".")
                ending = ending.lower()
                endings[ending] += 1
                sample = samples.setdefault(f"{folder}/{stem}", {})
                if f".{ending}" in EXTENSIONS:
                    sample.setdefault("image", (member.offset_data, member.size))
                elif ending in LABEL_ENDINGS and member.size <= 65536:
                    opened = archive.extractfile(member)
                    assert opened is not None
                    sample[ending] = _text(ending, opened.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BeelineError(
            f"{file} cannot be read as a tar file ({error}), so it is compressed, damaged or of another kind; shards "
            "are plain tar files, in which images can be found without reading all of it: decompress it, or copy it "
            "again"
        ) from error
    found = [sample for sample in samples.values() if "image" in sample]
    kinds = ", ".join(f"{n} .{ending}" for ending, n in endings.most_common(5))
    require(
        found,
        f"{file} holds {kinds or 'no files'}, and no images ({', '.join(EXTENSIONS)}); shards have an image and its "
        "label in each sample, as 000001.jpg and 000001.cls",
    )
    made = {
        "offset": np.array([sample["image"][0] for sample in found], np.int64),
        "size": np.array([sample["image"][1] for sample in found], np.int64),
    }
    return made | {ending: np.array([sample.get(ending, "") for sample in found], "U") for ending in LABEL_ENDINGS}


def _text(ending: str, content: bytes) -> str:
    """The label in a member: its text, or an entry of its JSON; "" where there is none that is short enough."""
    try:
        text = content.decode("utf-8").strip()
        if ending.startswith("json"):
            found = json.loads(text)
            value = (
                next((found[name] for name in JSON_LABELS if name in found), None) if isinstance(found, dict) else found
            )
            text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    except (UnicodeDecodeError, ValueError, RecursionError):
        return ""
    return text if len(text) <= LONGEST else ""
