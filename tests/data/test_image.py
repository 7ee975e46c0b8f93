"""Images: exact round trips, conditions, previews, and every refusal."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.data.image_files import Digits, ImageFile
from beeline.data.images import Image, Images
from beeline.data.pictures.augmentations import Flip
from beeline.data.points import PointSet
from beeline.data.signals.arrays import ArraySet

NOISE = np.random.default_rng(0)


def pixels(n=40, h=6, w=5, c=3):
    return NOISE.integers(0, 256, (n, h, w, c)).astype(np.uint8)


def png(path, size=(5, 6), mode="RGB", value=None):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    content = np.full(shape, value, np.uint8) if value is not None else NOISE.integers(0, 256, shape).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(content).save(path)
    return content


def encoded(size=(4, 4), mode="L", kind="PNG"):
    out = io.BytesIO()
    Picture.new(mode, size, 7).save(out, kind)
    return out.getvalue()


def parquet(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("rng", [None, bl.Rng(0), bl.Rng(1)])
def test_decode_of_encode_is_the_image(rng):
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(40, 0)
    for raw in (Images(pixels(), NOISE.integers(0, 3, 40)), Images(every)):
        m = Image().fit(raw)
        batch = m.encode(raw, rng)
        assert batch.x1.shape == (40, *m.shape) and batch.x1.dtype == torch.float32
        assert float(batch.x1.abs().max()) <= 1
        assert np.array_equal(m.decode(batch.x1).pixels, raw.pixels)


def test_dequantised_pixels_fill_their_level_evenly():
    raw = Images(np.full((1, 100, 100, 1), 200, np.uint8))
    m = Image().fit(raw)
    x = m.encode(raw, bl.Rng(0)).x1
    u = (x + 1) * 128 - 200
    assert 0 <= float(u.min()) and float(u.max()) <= 1
    assert abs(float(u.mean()) - 0.5) < 0.02 and abs(float(u.var()) - 1 / 12) < 0.005
    assert torch.equal(x, m.encode(raw, bl.Rng(0)).x1)
    assert float(m.encode(raw).x1[0, 0, 0, 0]) == pytest.approx((200.5) / 128 - 1)


def test_decode_clamps():
    m = Image().fit(Images(pixels(1, 1, 2, 1)))
    assert m.decode(torch.tensor([[[[-3.0, 3.0]]]])).pixels.flatten().tolist() == [0, 255]


def test_digits_are_the_known_ones_and_split_the_same_every_time():
    from sklearn.datasets import load_digits

    train, held = Digits().load()
    again, _ = Digits().load()
    assert np.array_equal(train.pixels, again.pixels) and len(train) + len(held) == 1797
    known = load_digits()
    stored = {tuple(d.astype(int).flatten()): t for d, t in zip(known.images, known.target, strict=True)}
    back = np.rint(train.pixels[..., 0] * (16 / 255)).astype(int)
    assert all(stored[tuple(d.flatten())] == t for d, t in zip(back, train.labels, strict=True))
    m = Digits().modality().fit(train)
    assert m.conditions == {"label": {"classes": 10}} and m.shape == (1, 8, 8)
    assert np.array_equal(m.decode(m.encode(held, bl.Rng(2)).x1).pixels, held.pixels)
    assert len(m.encode(train).x1.unique()) == 17


def test_conditions_in_the_form_of_the_user():
    raw = Images(pixels(4), np.array([0, 1, 2, 1]), ("cat", "dog", "fox"))
    m = Image().fit(raw)
    for value in ({"label": "dog"}, {"label": 1}, "dog", 1, "1", 1.0, [1, "dog"], np.array([1, 1])):
        assert torch.equal(m.condition(value, 2)["label"], torch.tensor([1, 1]))
    assert m.condition(None, 2)["label"].tolist() == [3, 3]
    assert m.encode(raw).cond["label"].tolist() == [0, 1, 2, 1]
    assert m.encode(m.decode(m.encode(raw).x1)).cond is None  # what a model makes has no labels
    assert Image().fit(Images(pixels(4))).condition(None, 2) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"label": "dgo"}, "did you mean 'dog'"),
        ({"lable": 1}, "did you mean 'label'"),
        (3, "outside its range"),
        (-1, "outside its range"),
        (1.5, "outside its range"),
        (True, "outside its range"),
        ([0, 1, 1], "3 labels were given for 2 samples"),
    ],
)
def test_refused_conditions(value, message):
    m = Image().fit(Images(pixels(4), np.array([0, 1, 2, 1]), ("cat", "dog", "fox")))
    with pytest.raises(bl.BeelineError, match=message):
        m.condition(value, 2)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_preview_is_a_picture_of_the_pixels(channels):
    raw = Images(pixels(5, 40, 40, channels))
    m = Image()
    assert m.preview_type == "image/png" and m.metrics() == ()
    grid = np.asarray(Picture.open(io.BytesIO(m.preview(raw))))
    tile = grid[1:41, 42:82]
    assert np.array_equal(tile, raw.pixels[1] if channels == 3 else raw.pixels[1, ..., 0])


def test_npz_as_mnist_and_its_parts(tmp_path):
    x, y = pixels(20, c=1)[..., 0], np.arange(20) % 4
    np.savez(tmp_path / "m.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    train, held = ImageFile(str(tmp_path / "m.npz")).load()
    assert np.array_equal(train.pixels[..., 0], x) and held.labels.tolist() == y[:6].tolist()
    np.savez(tmp_path / "i.npz", images=x, labels=y)
    train, held = ImageFile(tmp_path / "i.npz", held_out=0.25).load()
    assert (len(train), len(held)) == (15, 5)
    np.save(tmp_path / "a.npy", x)
    train, held = ImageFile(tmp_path / "a.npy", flip=True, resize=4).load()
    assert train.pixels.shape == (18, 4, 4, 1) and train.labels is None
    assert train.augment == (Flip(),) and held.augment == ()


def test_folders(tmp_path):
    first = png(tmp_path / "flat" / "a.png")
    png(tmp_path / "flat" / "b.png")
    (tmp_path / "flat" / "notes.txt").write_text("not a picture")
    train, held = ImageFile(tmp_path / "flat").load()
    assert train.labels is None and len(train) == len(held) == 1
    assert any(np.array_equal(first, raw.pixels[0]) for raw in (train, held))

    for part, n in (("train", 3), ("test", 2)):
        for k, kind in enumerate(("cat", "dog")):
            for i in range(n):
                png(tmp_path / "classes" / part / kind / f"{i}.png", mode="L", value=100 * k + i)
    train, held = ImageFile(tmp_path / "classes").load()
    assert train.names == ("cat", "dog") and train.pixels.shape == (6, 6, 5, 1)
    assert np.array_equal(train.labels, train.pixels[:, 0, 0, 0] // 100) and held.labels.tolist() == [0, 0, 1, 1]
    train, _ = ImageFile(tmp_path / "classes" / "train", held_out=0.2).load()
    assert len(train) == 5 and train.names == ("cat", "dog")
    png(tmp_path / "mixed" / "a.png", (8, 4), "L")
    png(tmp_path / "mixed" / "b.png", (6, 9))
    train, _ = ImageFile(tmp_path / "mixed", resize=4).load()
    assert train.pixels.shape == (1, 4, 4, 3)


def test_parquet_of_the_hub(tmp_path):
    cells = [{"bytes": encoded(kind=k), "path": None} for k in ("PNG", "JPEG", "PNG")]
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", image=cells, label=[0, 1, 2])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", image=cells[:1], label=[2])
    train, held = ImageFile(tmp_path).load()
    assert train.labels.tolist() == [0, 1, 2] and held.labels.tolist() == [2] and train.pixels[0, 0, 0, 0] == 7
    parquet(tmp_path / "words.parquet", image=cells, label=["fox", "cat", "fox"])
    train, held = ImageFile(tmp_path / "words.parquet", held_out=0.3).load()
    assert train.names == ("cat", "fox") and sorted([*train.labels, *held.labels]) == [0, 1, 1]
    train, _ = ImageFile(tmp_path / "words.parquet", labels=False).load()
    assert train.labels is None


def test_refused_arrays(tmp_path):
    def refused(message, **arrays):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(bl.BeelineError, match=message):
            ImageFile(tmp_path / "bad.npz").load()

    x = pixels(6)
    refused("array images is float64, but images have 8 bits", images=x / 255)
    bad = x / 255
    bad[2, 1, 0, 1] = np.nan
    refused(r"array images, at \[2, 1, 0, 1\]: the value is nan", images=bad)
    refused(r"has shape \(6, 5\)", images=x[:, 0, :, 0])
    refused("holds the arrays pictures", pictures=x)
    refused(
        r"array labels, row 1: the label is 0.5, which is no integer", images=x, labels=np.array([0, 0.5, 0, 0, 0, 0])
    )
    refused("row 3: the label is -1, outside its range", images=x, labels=np.array([0, 0, 0, -1, 0, 0]))
    refused("for 6 data", images=x, labels=np.zeros(5, int))
    refused("holds complex128", images=x, labels=np.zeros(6, complex))
    refused("'d' is a label that", x_train=x, y_train=np.array(list("abcabc")), x_test=x[:1], y_test=np.array(["d"]))
    refused(
        "labels of the test split, row 0: the label is 4",
        x_train=x,
        y_train=np.zeros(6),
        x_test=x,
        y_test=np.full(6, 4),
    )
    refused("the test split has none", x_train=x, y_train=np.zeros(6), x_test=x)
    refused("training images are 6x5 .* test images 5x5", x_train=x, x_test=x[:, :5])
    refused("give at least two", images=x[:1])
    refused("pickled objects", images=np.array([{}, {}], dtype=object))
    np.savez(tmp_path / "good.npz", images=x, labels=np.arange(6))
    with pytest.raises(bl.BeelineError, match="row 3: the label is 3, outside its range; labels here are 0 .. 2"):
        ImageFile(tmp_path / "good.npz", classes=3).load()
    with pytest.raises(bl.BeelineError, match="held_out=1.5"):
        ImageFile(tmp_path / "good.npz", held_out=1.5).load()
    with pytest.raises(bl.BeelineError, match="did you mean 'good.npz'"):
        ImageFile(tmp_path / "god.npz").load()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:200])
    with pytest.raises(bl.BeelineError, match="cannot be read as .npz"):
        ImageFile(tmp_path / "cut.npz").load()
    (tmp_path / "a.zip").touch()
    with pytest.raises(bl.BeelineError, match="is no image data set"):
        ImageFile(tmp_path / "a.zip").load()
    with pytest.raises(bl.BeelineError, match="resize=0"):
        ImageFile("x", resize=0)


def test_refused_folders(tmp_path):
    def refused(message, name):
        with pytest.raises(bl.BeelineError, match=message):
            ImageFile(tmp_path / name).load()

    (tmp_path / "empty").mkdir()
    refused("contains no images", "empty")
    png(tmp_path / "sizes" / "a.png", (5, 6))
    png(tmp_path / "sizes" / "b.png", (7, 6))
    refused("a.png is 6x5 and .*b.png is 6x7, but a model has one size; give resize=, for example resize=5", "sizes")
    png(tmp_path / "both" / "a.png")
    png(tmp_path / "both" / "cat" / "a.png")
    refused("beside the class folders cat", "both")
    png(tmp_path / "damaged" / "a.png")
    whole = (tmp_path / "damaged" / "a.png").read_bytes()
    (tmp_path / "damaged" / "b.png").write_bytes(whole[: len(whole) // 2])
    refused("b.png cannot be read as an image", "damaged")
    (tmp_path / "deep").mkdir()
    Picture.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "deep" / "a.tif")
    refused("floating-point pixels", "deep")
    png(tmp_path / "odd" / "train" / "dog" / "a.png")
    png(tmp_path / "odd" / "test" / "dgo" / "a.png")
    refused("did you mean 'dog'", "odd")


def test_refused_parquet(tmp_path):
    cell = {"bytes": encoded(), "path": None}

    def refused(message, **columns):
        parquet(tmp_path / "t.parquet", **columns)
        with pytest.raises(bl.BeelineError, match=message):
            ImageFile(tmp_path / "t.parquet").load()

    refused("no column 'image'.*did you mean 'img'", img=[cell], label=[0])
    refused("t.parquet, row 1, column image: got NoneType", image=[cell, {"bytes": None, "path": "a"}])
    refused("row 1, column image cannot be read as an image", image=[cell, {"bytes": b"12345", "path": "a"}])
    refused("column label, row 1: the label is -2", image=[cell, cell], label=[0, -2])
    refused("row 1, column label: the label is missing", image=[cell, cell], label=[0, None])
    refused(
        "row 0, column image is 4x4 and .*row 1, column image is 5x4",
        image=[cell, {"bytes": encoded((4, 5)), "path": ""}],
    )
    refused("has no rows", image=[], label=[])
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:50])
    with pytest.raises(bl.BeelineError, match="cannot be read as Parquet"):
        ImageFile(tmp_path / "t.parquet").load()
    parquet(tmp_path / "only" / "test-0.parquet", image=[cell])
    with pytest.raises(bl.BeelineError, match="name it train-"):
        ImageFile(tmp_path / "only").load()
    parquet(tmp_path / "some" / "train-0.parquet", image=[cell], label=["a"])
    parquet(tmp_path / "some" / "train-1.parquet", image=[cell])
    with pytest.raises(bl.BeelineError, match="only some have a column"):
        ImageFile(tmp_path / "some").load()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Images(np.zeros((2, 3, 3, 1))), "images have 8 bits"),
        (lambda: Images(np.zeros((0, 3, 3), np.uint8)), "at least one image"),
        (lambda: Image(levels=1), "has 2 to 256"),
        (lambda: Image().encode(Images(pixels(2))), "fit it first"),
        (lambda: Image().fit(Images(pixels(2))).encode(Images(pixels(2, 4))), "resize them"),
        (lambda: Image().fit(Images(pixels(2))).decode(torch.full((1, 3, 6, 5), torch.nan)), "give finite"),
        (lambda: Image().fit(Images(pixels(2))).condition(1, 1), "have no labels"),
        (lambda: Image(levels=17).fit(Images(np.full((1, 2, 2), 3, np.uint8))), "none of the 17 levels"),
    ],
)
def test_refused_values(act, message):
    with pytest.raises(bl.BeelineError, match=message):
        act()


def test_images_of_named_classes_are_written_and_read_again(tmp_path):
    raw = Images(np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.array([1, 0, 1]), ("cat", "dog"))
    Image().fit(raw).save(raw, tmp_path / "r.npz")
    again, _ = ImageFile(str(tmp_path / "r.npz")).read()
    assert again.names == raw.names and again.labels.tolist() == [1, 0, 1]
    np.savez(tmp_path / "text.npz", images=raw.pixels, labels=np.array(["b", "a", "b"]))
    again, _ = ImageFile(str(tmp_path / "text.npz")).read()
    assert again.names == ("a", "b") and again.labels.tolist() == [1, 0, 1]
    split = {"x_train": raw.pixels, "y_train": np.array(["b", "a", "b"]), "x_test": raw.pixels[:1]}
    np.savez(tmp_path / "split.npz", **split, y_test=np.array(["b"]))
    assert ImageFile(str(tmp_path / "split.npz")).load()[1].labels.tolist() == [1]


def test_numpy_takes_images_points_and_arrays() -> None:
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    assert np.array_equal(np.asarray(Images(pixels)), pixels) and np.asarray(Images(pixels), float).dtype == float
    assert np.array(Images(pixels)) is not pixels and np.array(Images(pixels)).shape == (2, 4, 4, 1)
    assert np.asarray(PointSet(np.ones((3, 2)))).shape == (3, 2)
    assert np.asarray(ArraySet(np.ones((3, 2, 5)))).shape == (3, 2, 5)
