"""Images in buckets of aspect ratios: every microbatch of one size, exact resume, samples of a chosen size."""

import collections

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.data.pictures import buckets, decoding
from beeline.data.pictures.augmentations import Flip, RandomCrop
from beeline.data.pictures.buckets import ImageBuckets, bucket_sizes, nearest_buckets, sizes_of
from beeline.data.pictures.feeds import BucketFeed
from beeline.data.pictures.listing import listing
from beeline.data.pictures.pixels import cropped, pixels_of, square
from beeline.networks.dit import DiT
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.run import Run, prepare, train

RNG = np.random.default_rng(8)
SHAPES = [(40, 40), (40, 64), (66, 40), (33, 30), (20, 60)]  # height, width


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(50):
        height, width = SHAPES[(i // 2) % 5] if i < 40 else (40, 40)
        path = tmp_path / "photos" / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize(("side", "ratio", "step"), [(64, 2.0, 8), (32, 2.0, 8), (256, 2.5, 32), (16, 1.0, 8)])
def test_buckets_have_near_equal_area(side, ratio, step):
    sizes = bucket_sizes(side, ratio, step)
    assert (side, side) in sizes and len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % step == width % step == 0 and (width, height) in sizes
        assert max(height, width) <= ratio * min(height, width)
        assert abs(height * width / side**2 - 1) <= 0.2


def test_images_go_to_the_bucket_of_the_nearest_ratio():
    sizes = bucket_sizes(32, 2.0, 8)  # 24x40, 24x48, 32x32, 40x24, 48x24
    found = nearest_buckets(np.array([(100, 100), (24, 40), (400, 100), (100, 900), (90, 110)]), sizes)
    assert [sizes[k] for k in found] == [(32, 32), (24, 40), (48, 24), (24, 48), (32, 32)]


def test_crops_keep_the_aspect_ratio_of_the_bucket():
    tile = RNG.integers(0, 256, (30, 60, 3)).astype(np.uint8)
    assert np.array_equal(cropped(tile, 10, 10), square(tile, 10))
    assert np.array_equal(cropped(tile, 30, 20), tile[:, 20:40])
    assert np.array_equal(cropped(tile, 10, 60), tile[10:20])
    assert cropped(tile[..., 0], 8, 24).shape == (8, 24) and cropped(tile, 7, 3).shape == (7, 3, 3)


def feed_of(photos, **settings):
    raw, held = ImageBuckets(photos, side=32, **settings).load()
    modality = ImageBuckets(photos).modality().fit(raw)
    return modality, raw, held, modality.microbatches(raw, bl.Rng(3))


def test_every_microbatch_is_of_one_bucket_and_an_epoch_holds_every_image(photos):
    modality, raw, held, feed = feed_of(photos)
    assert isinstance(feed, BucketFeed) and raw.pixels.shape[1:3] == (32, 32) == held.pixels.shape[1:3]
    assert modality.shape == (3, 32, 32) and not modality.fixed_size
    assert modality.sizes == ((24, 40), (24, 48), (32, 32), (40, 24))
    size, sizes = 4, {part.pixels.shape[1:3]: part for part in (raw, *raw.buckets)}
    epoch = sum(-(-len(part) // size) for part in sizes.values())
    seen = collections.defaultdict(list)
    for number in range(epoch):
        batch = feed.load(number, size)
        assert torch.equal(batch.x1, feed.load(number, size).x1)
        height_width = tuple(batch.x1.shape[2:])
        seen[height_width] += [x.numpy().tobytes() for x in batch.x1]
        stored = {
            np.ascontiguousarray(t.transpose(2, 0, 1)).tobytes(): k
            for t, k in zip(sizes[height_width].pixels, sizes[height_width].labels, strict=True)
        }
        assert [stored[x.numpy().tobytes()] for x in batch.x1] == batch.cond["label"].tolist()
    for found, part in sizes.items():
        assert len(set(seen[found])) == len(part), "every image occurs in an epoch"
        assert len(seen[found]) - len(part) < size
    orders = [[feed.place(e * epoch + k, size)[0] for k in range(epoch)] for e in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert [feed.place(n, size) for n in range(3 * epoch)] != [feed.place(n, 3) for n in range(3 * epoch)]
    places = [feed.place(n, size) for n in range(3 * epoch)]
    assert len(set(places)) == len(places)


def test_the_pixels_are_those_of_the_direct_crop(photos):
    raw, held = ImageBuckets(photos, side=32, labels=False).load()
    stored = collections.Counter(t.tobytes() for part in (raw, *raw.buckets, held) for t in part.pixels)
    assert raw.labels is None and sum(stored.values()) == 50 - sum(len(p) == 0 for p in raw.buckets) - 3
    sizes, files = bucket_sizes(32, 2.0, 8), listing(photos)
    for i, k in enumerate(nearest_buckets(sizes_of(files), sizes)):
        with open(files.path(i), "rb") as file:
            tile = cropped(pixels_of(files.path(i), file.read()), *sizes[k])
        assert stored[tile.tobytes()] == 1 or sizes[k] != (32, 32)  # held-out images of other buckets are not used


def test_cached_buckets_are_the_same(photos, monkeypatch):
    plain = feed_of(photos, augment=(RandomCrop(1), Flip()))[3]
    for module in (buckets, decoding):
        monkeypatch.setattr(module, "CACHED", 5)
    monkeypatch.setattr(decoding, "CHUNK", 7)
    for _ in range(2):  # built, and read
        feed = feed_of(photos, augment=(RandomCrop(1), Flip()))[3]
        assert all(torch.equal(feed.load(n, 4).x1, plain.load(n, 4).x1) for n in range(8))
    assert list((photos.parent / "cache").rglob("*.sizes.npy"))


def test_turned_and_gray_images(photos):
    exif = Picture.Exif()
    exif[buckets.ORIENTATION] = 6
    for path in photos.rglob("*.png"):
        path.unlink()
    for i in range(4):
        Picture.fromarray(RNG.integers(0, 256, (40, 64)).astype(np.uint8)).save(photos / f"{i}.jpg", exif=exif)
        Picture.fromarray(RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(photos / f"c{i}.jpg")
    Picture.fromarray(RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(photos / "more.jpg")
    raw, _ = ImageBuckets(photos, side=32).load()
    assert [part.pixels.shape[1:] for part in raw.buckets] == [(40, 24, 3)]
    assert len(np.unique(raw.buckets[0].pixels - raw.buckets[0].pixels[..., :1])) == 1


def test_a_test_split(photos):
    for name in ("train", "test"):
        for folder in ("class0", "class1"):
            (photos / name / folder).mkdir(parents=True)
    for i, path in enumerate(sorted(photos.glob("class*/*.png"))):
        path.rename(photos / ("test" if i % 5 == 0 else "train") / path.parent.name / path.name)
    for folder in ("class0", "class1"):
        (photos / folder).rmdir()
    raw, held = ImageBuckets(photos, side=32).load()
    assert sum(len(part) for part in (raw, *raw.buckets)) == 40 and 0 < len(held) <= 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 4, "step": 8}, "there is no bucket; give a smaller step"),
        ({"augment": 3}, "margin"),
        ({"ratio": 0.5}, "ratio=0.5"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(bl.BeelineError, match=message):
        ImageBuckets("photos", **settings)


def a_run(photos, network="UNet", **settings):
    sizes = {"UNet": {"width": 8, "multipliers": [1, 1], "attention": False}, "DiT": {"width": 16, "depth": 1}}
    return Run(
        ImageBuckets(photos, side=32, augment=Flip()),
        {"is": f"networks.{network}", **sizes.get(network, {})},
        FlowMatching(drop=Drop(0.1)),
        training=bl.Training(batch_size=8, microbatches=2, checkpoint_every=3, **settings),
        sampler=bl.Sampler(2),
    )


def test_networks_of_one_size_are_refused(photos):
    with pytest.raises(bl.BeelineError, match="several sizes, but networks.MLP takes one; set network=UNet"):
        prepare(a_run(photos, "MLP", steps=2))
    assert prepare(a_run(photos, "DiT", steps=2)).networks.traits.any_size


def test_training_resumes_bit_for_bit_and_samples_have_a_chosen_size(photos, tmp_path):
    quiet = {"log": lambda entry: None, "device": "cpu"}
    whole = train(a_run(photos, steps=6), tmp_path / "whole", **quiet)
    train(a_run(photos, steps=3), tmp_path / "part", **quiet)
    bundle = train(a_run(photos, steps=6), tmp_path / "part", resume=True, **quiet)
    a, b = whole.flow.field.state_dict(), bundle.flow.field.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = bl.load(tmp_path / "part", device="cpu")
    assert again.sample(2).pixels.shape == (2, 32, 32, 3)
    assert again.sample(2, size="24x40").pixels.shape == (2, 24, 40, 3)
    labelled = again.sample(3, cond={"size": list(again.modality.sizes[-1]), "label": "class1"})
    assert labelled.pixels.shape[1:3] == again.modality.sizes[-1] and labelled.labels.tolist() == [1, 1, 1]
    with pytest.raises(bl.BeelineError, match="no bucket of the size '9x9'.*valid names"):
        again.sample(2, size="9x9")


def test_a_transformer_takes_other_sizes():
    net = DiT((3, 16, 16), width=16, depth=1, any_size=True)
    torch.nn.init.normal_(net.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    same = DiT((3, 16, 24), width=16, depth=1)
    same.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.3, 0.6])
    assert torch.equal(net(x, t), same(x, t)), "positions are those of a network built for the size"
    assert net.traits.any_size and not same.traits.any_size
