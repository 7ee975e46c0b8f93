"""Decoded caches of image folders, feeds encoded by microbatch, and augmentations."""

import dataclasses
import os
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.core.rng import Rng
from beeline.core.types import to
from beeline.data import image_files
from beeline.data.image_files import ImageFile
from beeline.data.images import Image, Images
from beeline.data.pictures import decoding
from beeline.data.pictures.augmentations import Flip, RandomCrop
from beeline.data.pictures.feeds import ImageFeed, release
from beeline.data.pictures.listing import listing
from beeline.data.pictures.pixels import pixels_of, square
from beeline.runs.run import Run, prepare, train
from beeline.training import compare
from beeline.training.feed.microbatches import InMemory

RNG = np.random.default_rng(5)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Forty pictures of several sizes in two classes, one of them grayscale."""
    for module in (image_files, decoding):
        monkeypatch.setattr(module, "CACHED", 8)
    monkeypatch.setattr(decoding, "CHUNK", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(40):
        shape = (12 + i % 3, 17 - i % 5, 3)
        pixels = RNG.integers(0, 256, shape).astype(np.uint8)
        path = tmp_path / "photos" / ("cat" if i < 25 else "dog") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(pixels[..., 0] if i == 30 else pixels).save(path)
    return tmp_path / "photos"


def entries(photos):
    return sorted((photos.parent / "cache" / "beeline" / "images").glob("*/pixels.npy"))


def direct(path, side):
    tile = square(pixels_of(str(path), path.read_bytes()), side)
    return tile if tile.shape[2] == 3 else tile.repeat(3, 2)


def test_the_cache_equals_the_direct_decode(photos):
    data = ImageFile(photos, resize=8)
    train_set, held = data.load()
    stored = {direct(p, 8).tobytes(): p.parent.name for p in photos.rglob("*.png")}
    assert len(stored) == 40 and len(train_set) == 36 and len(held) == 4
    for part in (train_set, held):
        assert isinstance(part.pixels, np.ndarray) and not part.pixels.flags.writeable  # a memory map
        for tile, label in zip(part.pixels, part.labels, strict=True):
            assert stored.pop(tile.tobytes()) == part.names[label]
    assert not stored
    small = dataclasses.replace(data, held_out=0.1)
    few, rest = ImageFile(photos, resize=8).read()[0], small.load()[0]
    assert np.array_equal(few.pixels[: len(few)].shape, (40, 8, 8, 3)) and len(rest) == 36
    paths = sorted(photos.rglob("*.png"))
    assert all(np.array_equal(few.pixels[i], direct(p, 8)) for i, p in enumerate(paths))


def test_in_memory_and_cached_images_are_the_same(photos, monkeypatch):
    cached = ImageFile(photos, resize=8).load()
    for module in (image_files, decoding):
        monkeypatch.setattr(module, "CACHED", 1000)
    for a, b in zip(cached, ImageFile(photos, resize=8).load(), strict=True):
        assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.labels, b.labels) and a.names == b.names


def test_the_next_run_decodes_nothing_and_a_changed_file_is_noticed(photos, monkeypatch):
    first = ImageFile(photos, resize=8).load()[0]
    built = []
    build = decoding._build
    monkeypatch.setattr(decoding, "_build", lambda *args: built.append(1) or build(*args))
    again = ImageFile(photos, resize=8).load()[0]
    assert not built and again.digest == first.digest and np.array_equal(again.pixels, first.pixels)
    changed = next(iter(sorted(photos.rglob("*.png"))))
    before = changed.stat()
    Picture.fromarray(np.zeros((12, 17, 3), np.uint8)).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    other = ImageFile(photos, resize=8).load()
    assert built and len(entries(photos)) == 1, "the entry was replaced"
    assert other[0].digest != first.digest
    everything = np.concatenate([part.pixels for part in other])
    assert (everything == 0).all((1, 2, 3)).sum() == 1
    assert np.array_equal(again.pixels, first.pixels), "an open map keeps its pixels"
    os.utime(changed)  # touched, with the same content: decoded again, and the same data
    assert ImageFile(photos, resize=8).load()[0].digest == other[0].digest and len(built) == 2


def test_grayscale_sets_have_one_channel(photos):
    for path in photos.rglob("*.png"):
        Picture.open(path).convert("L").save(path)
    assert ImageFile(photos, resize=8).load()[0].pixels.shape == (36, 8, 8, 1)
    last = sorted(photos.rglob("*.png"))[-1]
    Picture.fromarray(RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(last)
    assert ImageFile(photos, resize=8).load()[0].pixels.shape == (36, 8, 8, 3)


def test_colours_that_blending_removes_leave_one_channel(photos):
    for path in photos.rglob("*.png"):
        Picture.new("LA", (12, 12), (9, 255)).save(path)
    assert ImageFile(photos, resize=8).load()[0].pixels.shape == (36, 8, 8, 1)


def test_a_broken_file_in_the_middle_is_named_and_leaves_nothing(photos):
    (photos / "cat" / "012.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(bl.BeelineError, match="012.png cannot be read as an image"):
        ImageFile(photos, resize=8).load()
    assert not entries(photos) and not list(photos.parent.rglob(".writing-*"))
    (photos / "cat" / "012.png").unlink()
    with pytest.raises(bl.BeelineError, match="but a model has one size; give resize="):
        ImageFile(photos).load()


def test_a_full_disk_is_refused_before_decoding(photos, monkeypatch):
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(100))
    with pytest.raises(bl.BeelineError, match="40 decoded images take .* MiB .* free some space"):
        ImageFile(photos, resize=8).load()
    assert not entries(photos) and not list(photos.parent.rglob(".writing-*"))


def test_a_cache_folder_that_cannot_be_written(photos, monkeypatch):
    (photos.parent / "cache").write_text("a file")
    expected = [direct(p, 8) for p in sorted(photos.rglob("*.png"))]
    made = ImageFile(photos, resize=8).read()[0]  # without a cache of the user, a temporary file
    assert all(np.array_equal(a, b) for a, b in zip(made.pixels, expected, strict=True))
    with pytest.raises(bl.BeelineError, match="could not be written"):
        ImageFile(photos, resize=8, cache=str(photos.parent / "cache" / "x")).load()


def test_a_damaged_entry_is_built_again(photos):
    first = ImageFile(photos, resize=8).load()[0].pixels.copy()
    file = entries(photos)[0]
    file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(ImageFile(photos, resize=8).load()[0].pixels, first)
    (file.parent / "meta.json").write_text("[]")
    assert np.array_equal(ImageFile(photos, resize=8).load()[0].pixels, first)


def test_the_summary_shows_the_disk_space(photos):
    text = ImageFile(photos, resize=64, cache="/somewhere").summary()
    assert "40 images" in text and "decoded once to 64x64, at most 0 MiB in /somewhere" in text


def test_a_listing_is_that_of_the_folder(photos):
    (photos / ".hidden").mkdir()
    shutil.copy(photos / "cat" / "000.png", photos / ".hidden" / "x.png")
    (photos / "cat" / "notes.txt").write_text("x")
    files = listing(photos)
    paths = sorted(p for p in photos.rglob("*.png") if ".hidden" not in p.parts)
    assert [files.path(i) for i in range(len(files))] == [str(p) for p in paths]
    assert files.sizes.tolist() == [p.stat().st_size for p in paths]
    assert files.skipped == ("cat/notes.txt",) and files.counts() == {"cat": 25, "dog": 15}


def set_of(n=40, side=6):
    raw = Images(RNG.integers(0, 256, (n, side, side, 3)).astype(np.uint8), np.arange(n) % 3)
    return Image().fit(raw), raw


def test_a_feed_gives_what_data_in_memory_give():
    modality, raw = set_of()
    lazy, whole = ImageFeed(modality, raw, bl.Rng(1)), InMemory(modality.encode(raw), bl.Rng(1))
    for number in (0, 3, 7):
        a, b = lazy.microbatch(number, 16), whole.microbatch(number, 16)
        assert torch.equal(a.x1, b.x1) and torch.equal(a.cond["label"], b.cond["label"])
        assert lazy.load(number, 16).x1.dtype == torch.uint8
        assert torch.equal(lazy.encode(to(lazy.load(number, 16), "cpu")).x1, b.x1)


def test_a_feed_with_levels_encodes_them():
    raw = Images((RNG.integers(0, 17, (9, 4, 4)) * 255 / 16).round().astype(np.uint8))
    modality = Image(levels=17).fit(raw)
    feed = ImageFeed(modality, raw, bl.Rng(0))
    assert torch.equal(feed.microbatch(0, 9).x1, modality.encode(raw.rows(feed.rows(0, 9).numpy())).x1)


def test_flips_are_mirrored_copies():
    modality, raw = set_of(400)
    plain = ImageFeed(modality, raw, bl.Rng(1))
    feed = ImageFeed(modality, dataclasses.replace(raw, augment=(Flip(),)), bl.Rng(1))
    x, y = plain.microbatch(2, 300).x1, feed.microbatch(2, 300).x1
    same, mirrored = (x == y).all((1, 2, 3)), (x.flip(-1) == y).all((1, 2, 3))
    assert bool((same ^ mirrored).all()) and 110 < int(mirrored.sum()) < 190
    assert torch.equal(y, feed.microbatch(2, 300).x1)
    assert not torch.equal((feed.microbatch(3, 300).x1 == plain.microbatch(3, 300).x1).all((1, 2, 3)), same)
    everywhere = ImageFeed(modality, dataclasses.replace(raw, augment=(Flip(1.0),)), bl.Rng(1))
    assert torch.equal(everywhere.microbatch(2, 300).x1, x.flip(-1))


def test_crops_are_windows_and_held_out_images_are_the_centre(photos):
    data = ImageFile(photos, resize=6, augment=RandomCrop(2))
    raw, held = data.load()
    assert raw.pixels.shape == (36, 6, 6, 3) and raw.wide.shape == (36, 10, 10, 3)
    plain = ImageFile(photos, resize=10).load()
    assert np.array_equal(raw.pixels, plain[0].pixels[:, 2:-2, 2:-2])
    assert np.array_equal(held.pixels, plain[1].pixels[:, 2:-2, 2:-2]) and held.wide is None and held.augment == ()
    feed = ImageFeed(data.modality().fit(raw), raw, bl.Rng(0))
    rows, x = feed.rows(0, 36), feed.load(0, 36).x1.permute(0, 2, 3, 1).numpy()
    found = set()
    for row, tile in zip(rows.tolist(), x, strict=True):
        places = [
            (i, j) for i in range(5) for j in range(5) if np.array_equal(raw.wide[row, i : i + 6, j : j + 6], tile)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 12, "windows are everywhere"


def test_a_margin_needs_a_size():
    with pytest.raises(bl.BeelineError, match="no margin to crop; give resize="):
        ImageFile("x", augment=RandomCrop(2))
    with pytest.raises(bl.BeelineError, match="margin"):
        ImageFile("x", augment=(3,))


def a_run(photos, steps, workers=0):
    return Run(
        ImageFile(photos, resize=8, augment=(RandomCrop(1), Flip())),
        {"is": "networks.UNet", "width": 8, "multipliers": [1], "attention": False},
        training=bl.Training(steps=steps, batch_size=8, microbatches=2, checkpoint_every=2, workers=workers),
        sampler=bl.Sampler(2),
    )


@pytest.mark.engine
def test_augmented_runs_resume_bit_for_bit_with_workers(photos, tmp_path):
    quiet = {"log": lambda entry: None, "device": "cpu"}
    whole = train(a_run(photos, 6), tmp_path / "whole", **quiet)
    train(a_run(photos, 4, workers=2), tmp_path / "part", **quiet)
    resumed = train(a_run(photos, 6, workers=2), tmp_path / "part", resume=True, **quiet)
    a, b = whole.flow.field.state_dict(), resumed.flow.field.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    Picture.fromarray(np.zeros((12, 17, 3), np.uint8)).save(photos / "cat" / "003.png")
    with pytest.raises(bl.BeelineError, match="the data differ from those of the run"):
        train(a_run(photos, 8), tmp_path / "part", resume=True, **quiet)


def test_large_sets_are_encoded_by_microbatch_and_small_ones_in_memory(photos, monkeypatch):
    run = dataclasses.replace(a_run(photos, 4), data=ImageFile(photos, resize=8))
    assert isinstance(prepare(run).data, bl.Batch)
    monkeypatch.setattr("beeline.data.images.ENCODED", 30 * 8 * 8 * 3)
    monkeypatch.setattr("beeline.runs.run.COMPARED", 12 * 8 * 8 * 3)
    work = prepare(run)
    assert isinstance(work.data, ImageFeed) and len(work.rows) == 12 and len(work.data) == 36
    assert compare.data(work.data)["pixels"] == work.data.raw.digest
    loss = work.heldout(work.networks)
    assert loss.mean is not None and loss.posterior is None, "the posterior of some of the data is no baseline"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a mapping is read from /proc")
def test_pixels_of_a_memory_map_do_not_stay_in_the_memory_of_the_process(tmp_path):
    path, value = tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), np.uint8)
    np.save(path, value)
    raw = Images(np.load(path, mmap_mode="r"))

    def resident() -> int:
        """Bytes of the file that count as memory of the process."""
        parts = Path("/proc/self/smaps").read_text().split(str(path))[1:]
        return sum(int(re.search(r"Rss:\s+(\d+) kB", part)[1]) * 1024 for part in parts)

    assert (raw.pixels == value).all() and resident() >= value.nbytes // 2
    feed = ImageFeed(Image().fit(raw), raw, Rng(0))
    first = feed.load(0, 64).x1
    assert resident() == 0 and torch.equal(feed.load(0, 64).x1, first)
    release(value)  # an array in memory is left alone
    assert feed.load(8, 64).x1.shape == (64, 3, 32, 32)
