"""Images in tar shards: found by their position, in any order."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from beeline.core.rng import Rng
from beeline.data.images import Image
from beeline.data.pictures.augmentations import Flip, RandomCrop
from beeline.data.records import record_images
from beeline.data.records.tar_shards import TarShards


def png(value: int, side: int = 8, colour: bool = True) -> bytes:
    out = io.BytesIO()
    shape = (side, side, 3) if colour else (side, side)
    Picture.fromarray(np.full(shape, value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """A shard of (key, {ending: content})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, members in samples:
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def shards(folder: Path, count: int = 3, each: int = 20, name: str = "data-{:03d}.tar") -> None:
    """Shards of gray images whose value is their number; the label is the number mod 3."""
    for s in range(count):
        numbers = range(s * each, (s + 1) * each)
        shard(folder / name.format(s), [(f"{i:06d}", {"png": png(i), "cls": str(i % 3).encode()}) for i in numbers])


def test_images_and_labels_of_all_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    data = TarShards(str(tmp_path))
    train, held = data.load()
    assert len(train) == 54 and len(held) == 6 and train.names == ("0", "1", "2")
    values = np.concatenate([train.pixels, held.pixels])[:, 0, 0, 0]
    assert sorted(values.tolist()) == list(range(60))
    assert (values % 3 == np.concatenate([train.labels, held.labels])).all()
    assert "3 shards" in data.summary() and "labels from .cls" in data.summary()


@pytest.mark.parametrize("pattern", ["data-{000..001}.tar", "data-00[01].tar", "data-*.tar", "data-000.tar", ""])
def test_patterns(tmp_path: Path, pattern: str) -> None:
    shards(tmp_path, 2)
    if "[" in pattern:
        with pytest.raises(ValueError, match="names no file|has no shards|cannot be read|does not exist"):
            TarShards(str(tmp_path / pattern)).load()
        return
    assert sum(map(len, TarShards(str(tmp_path / pattern)).load())) == (20 if pattern == "data-000.tar" else 40)


def test_labels_of_json_and_short_texts_and_captions(tmp_path: Path) -> None:
    for name, members, names in (
        ("json", lambda i: {"json": json.dumps({"label": ["cat", "dog"][i % 2], "url": "x"}).encode()}, ("cat", "dog")),
        ("txt", lambda i: {"txt": [b"red", b"blue\n"][i % 2]}, ("blue", "red")),
        ("values", lambda i: {"cls": [b"7", b"1000"][i % 2]}, ("7", "1000")),
        ("caption", lambda i: {"txt": b"a long caption of a picture " * 5}, ()),
        ("none", lambda i: {}, ()),
    ):
        shard(tmp_path / name / "0.tar", [(f"d/{i}", {"png": png(i), **members(i)}) for i in range(10)])
        assert TarShards(str(tmp_path / name)).load()[0].names == names
    assert TarShards(str(tmp_path / "json"), labels=False).load()[0].labels is None


def test_a_split_of_test_shards_is_held_out(tmp_path: Path) -> None:
    shards(tmp_path, 2, 20, "train-{:03d}.tar")
    shards(tmp_path, 1, 6, "test-{:03d}.tar")
    train, held = TarShards(str(tmp_path)).load()
    assert len(train) == 40 and len(held) == 6
    shard(tmp_path / "test-001.tar", [("a", {"png": png(1), "cls": b"9"})])
    with pytest.raises(ValueError, match="the label '9' is one that the training split does not have"):
        TarShards(str(tmp_path)).load()


def test_large_data_are_decoded_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path)
    monkeypatch.setattr(record_images, "IN_MEMORY", 0)
    data = TarShards(str(tmp_path), first=10, buffer=16)
    raw, _ = data.load()
    assert len(raw) == 10
    modality = data.modality().fit(raw)
    assert modality.classes == 3
    feed = data.microbatches(modality, Rng(0))
    assert feed is not None and len(feed) == 54
    epoch = [feed.microbatch(k, 9) for k in range(6)]
    values = np.concatenate([modality.decode(batch.x1).pixels[:, 0, 0, 0] for batch in epoch])
    assert len(set(values.tolist())) == 54  # every image once
    labels = np.concatenate([batch.cond["label"].numpy() for batch in epoch])
    assert (values % 3 == labels).all()
    again = data.microbatches(modality, Rng(0)).microbatch(4, 9)
    assert (again.x1 == epoch[4].x1).all()
    assert (feed.microbatch(0, 9).x1 != feed.microbatch(6, 9).x1).any()  # the next epoch has another order


def test_augmented_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = io.BytesIO()
    Picture.fromarray(np.tile(np.arange(0, 160, 20, dtype=np.uint8), (8, 1))).save(ramp, "PNG")
    shard(tmp_path / "0.tar", [(str(i), {"png": ramp.getvalue()}) for i in range(40)])
    data = TarShards(str(tmp_path), augment=Flip())
    raw, _ = data.load()
    feed = data.modality().fit(raw).microbatches(raw, Rng(0))
    assert feed is not None and data.microbatches(Image(), Rng(0)) is None
    rising = (feed.microbatch(0, 32).x1.diff(dim=-1) > 0).flatten(1).all(1)
    assert 8 < int(rising.sum()) < 24
    monkeypatch.setattr(record_images, "IN_MEMORY", 0)
    data = TarShards(str(tmp_path), resize=6, augment=(RandomCrop(1), Flip()))
    raw, _ = data.load()
    streamed = data.microbatches(data.modality().fit(raw), Rng(0))
    assert raw.pixels.shape[1:3] == (6, 6) and streamed is not None
    x = streamed.microbatch(0, 32).x1
    assert x.shape == (32, 1, 6, 6) and 8 < int((x.diff(dim=-1) > 0).flatten(1).all(1).sum()) < 24
    assert len(x[:, 0, 0, 0].unique()) > 2  # the crops begin at several pixels


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        ([("a", {"wav": b"RIFF", "json": b"{}"})], "holds 1 .wav, 1 .json, and no images"),
        ([("a", {"png": png(1), "cls": b"1"}), ("b", {"png": png(2)})], r"sample 1 \(b.png\) has no label .cls"),
        ([("a", {"png": png(1)}), ("b", {"png": b"no image"})], "at byte .* cannot be read as an image"),
        ([("a", {"png": png(1)}), ("b", {"png": png(2, side=9)}), ("c", {"png": png(2)})], "but a model has one size"),
    ],
)
def test_what_cannot_be_learned_is_named(tmp_path: Path, samples: list, match: str) -> None:
    shard(tmp_path / "0.tar", samples)
    with pytest.raises(ValueError, match=match):
        TarShards(str(tmp_path), held_out=0.4).load()


def test_damaged_shards(tmp_path: Path) -> None:
    shards(tmp_path, 1)
    whole = (tmp_path / "data-000.tar").read_bytes()
    (tmp_path / "data-000.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match="data-000.tar"):
        TarShards(str(tmp_path)).load()
    (tmp_path / "data-000.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        TarShards(str(tmp_path)).load()
    with pytest.raises(ValueError, match="3 shards, of which 2 are missing"):
        TarShards(str(tmp_path / "data-{000..002}.tar")).load()


def test_the_index_of_a_large_shard_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beeline.data.records import tar_index

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tar_index, "CACHED", 0)
    shards(tmp_path / "s", 1)
    first = tar_index.Index([tmp_path / "s" / "data-000.tar"])
    monkeypatch.setattr(tar_index, "_scan", lambda file: pytest.fail("scanned again"))
    second = tar_index.Index([tmp_path / "s" / "data-000.tar"])
    assert (first.offset == second.offset).all() and (first.texts == second.texts).all()
