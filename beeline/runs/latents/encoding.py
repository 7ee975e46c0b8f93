"""Images encoded once by an autoencoder: the folder of latents, and the data set that reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beeline.config import build as config
from beeline.core.declared import check_members
from beeline.core.errors import require
from beeline.core.files import locked, sweep
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.protocols.data import Autoencoder, ConditionEncoder, DataSet
from beeline.core.ranges import dataclass
from beeline.data.described.descriptions import Columns, described
from beeline.data.images import Image, Images
from beeline.data.latents.modality import LatentImage, LatentImages
from beeline.data.latents.shards import MANIFEST, Shards, read_shards
from beeline.data.modality import DataSetBase

SHARD = 1024  # latents of one file


@dataclass(frozen=True)
class Latents(DataSetBase):
    """Latents of images that ``beeline encode`` has written to a folder, with the labels and captions of the images.

    datum i = encode(image i) in half precision, in shards of 1,024; training and held-out images as they were divided
    Assumes that the autoencoder of the folder can be loaded; samples are decoded by it.

    >>> Latents("latents").path
    'latents'
    """

    path: str  # folder with latents.json and shards
    # encoders of captions and other columns by the name of their condition; None for those of the encoded images
    conditions: ConditionEncoder | Mapping[str, ConditionEncoder] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def load(self) -> tuple[LatentImages, LatentImages]:
        """(training, held-out) latents, memory-mapped."""
        shards = self._shards()
        train, held = (self._part(shards, part) for part in ("train", "held"))
        return train, held

    def modality(self) -> LatentImage:
        settings = self._shards().settings
        autoencoder, image = config.build(settings["autoencoder"]), config.build(settings["image"])
        require(
            isinstance(image, Image),
            f"{Path(self.path) / MANIFEST} describes {type(image).__name__} in place of images; encode the data again",
        )
        check_members(autoencoder, Autoencoder, "encode the data again")
        assert isinstance(image, Image)
        return LatentImage(autoencoder, replace(image, described=described(self.conditions) or image.described))

    def summary(self) -> str:
        """Number of latents and their autoencoder."""
        shards = self._shards()
        count = f"{shards.rows('train'):,} training and {shards.rows('held'):,} held-out latents"
        return f"{self.path}: {count} of {shards.settings['autoencoder']['is']}"

    def read_file(self, path: str) -> LatentImages:
        return Latents(path).load()[0]

    def _shards(self) -> Shards:
        folder = Path(self.path).expanduser()
        require(
            (folder / MANIFEST).is_file(),
            f"{folder} holds no latents (no {MANIFEST}); write them with: beeline encode IMAGES --encoder ENCODER "
            f"--out {folder}",
        )
        shards = read_shards(folder)
        require(
            shards.complete,
            f"{folder} holds {shards.rows('train'):,} training latents and is not complete; run the same beeline "
            "encode again, which continues it",
        )
        return shards

    def _part(self, shards: Shards, part: str) -> LatentImages:
        latents, labels, lines = shards.read(part)
        hashes = [shards.settings["autoencoder"], shards.settings["weights"], shards.parts[part]]
        digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:32]
        names = tuple(shards.settings["image"].get("names", ()))
        columns = None if lines is None else Columns.of_lines(lines)
        return LatentImages(tuple(latents), None if labels is None else labels.numpy(), names, digest, columns)


def encode_data(
    data: DataSet,
    autoencoder: Autoencoder,
    out: str | Path,
    *,
    device: Device = AUTO,
    say: Callable[[str], None] = lambda text: None,
) -> Latents:
    """Encode the images of a data set and write their latents in half precision to a folder.

    The folder is complete when its manifest says so; after an interruption the same call continues with the next
    shard.  ``say`` is called with a line of text about sizes, and after every shard.

    Raises BeelineError for data that are no images of one size, for augmentations, for a folder that holds other
    files or latents, and for a full disk.
    """
    out, where = Path(out), resolve_device(device)
    check_members(autoencoder, Autoencoder, "give one of 'beeline list autoencoders'")
    raw, held = data.load()
    require(
        isinstance(raw, Images) and not raw.buckets,
        f"{type(data).__name__} holds no images of one size, and only those are encoded; give a folder of images with "
        "data.resize",
    )
    require(
        not raw.augment,
        f"{type(data).__name__} augments images by {raw.augment}, but latents are encoded once; leave the augmentation "
        "out",
    )
    own = data.modality()
    assert isinstance(own, Image)
    # their encoders are not needed here: columns are stored as they are
    image = replace(replace(own, described=None).fit(raw), described=own.described)
    modality = LatentImage(autoencoder, image, weights=autoencoder.digest())
    shape = tuple(modality.latents(raw.rows(slice(1)), where).shape[1:])
    settings = {
        "autoencoder": config.describe(autoencoder),
        "weights": modality.weights,
        "image": config.describe(modality.image),
        "shape": list(shape),
        "images": {"train": _identity(raw), "held": _identity(held)},
    }
    settings = json.loads(json.dumps(settings))
    with locked(out):
        sweep(out)
        shards = _started(out, settings)
        left = len(raw) + len(held) - shards.rows("train") - shards.rows("held")
        size = 2 * left * torch.Size(shape).numel()
        free = shutil.disk_usage(out).free
        say(f"{left:,} images to encode to latents {list(shape)}, {size / 2**20:,.0f} MiB in {out}")
        require(
            size <= free,
            f"the latents take {size / 2**20:,.0f} MiB in {out}, where {free / 2**20:,.0f} MiB are free; free some "
            "space, or give another folder",
        )
        for part, images in (("train", raw), ("held", held)):
            _encode_part(shards, part, images, modality, where, say)
        if not shards.complete:
            shards.finish()
    return Latents(str(out))


def _started(out: Path, settings: dict[str, Any]) -> Shards:
    """The shards in a folder that were written with the same settings; none in an empty folder."""
    if (out / MANIFEST).is_file():
        shards = read_shards(out)
        changed = [name for name in settings if shards.settings.get(name) != settings[name]]
        require(
            not changed,
            f"{out} holds latents with another {' and '.join(changed)}, and nothing is overwritten; give another "
            "folder",
        )
        return shards
    own = {p.name for p in out.iterdir() if p.name != ".lock"}
    require(not own, f"{out} holds other files ({', '.join(sorted(own)[:3])}); give an empty or a new folder")
    return Shards(out, settings)


def _encode_part(
    shards: Shards, part: str, images: Images, modality: LatentImage, where: torch.device, say: Callable[[str], None]
) -> None:
    """Encode the images of a part that have no shard yet."""
    labels = modality.image.label_condition_of(images)
    while (start := shards.rows(part)) < len(images):
        end = min(start + SHARD, len(images))
        latents = modality.latents(images.rows(slice(start, end)), where)
        stored = latents.half()
        require(
            bool(stored.isfinite().all()),
            f"the latents of images {start} to {end} reach {float(latents.abs().max()):.3g}, beyond half precision; "
            "use another autoencoder",
        )
        here = images.rows(slice(start, end)).columns
        lines = None if here is None else here.lines()
        shards.append(part, stored, None if labels is None else labels["label"][start:end], lines)
        say(f"{part}: {end:,} of {len(images):,}")


def _identity(raw: Images) -> list[Any]:
    """What identifies images: their number, and hashes of their pixels and of what describes them."""
    return [len(raw), raw.fingerprint(), *([] if raw.columns is None else [raw.columns.digest])]
