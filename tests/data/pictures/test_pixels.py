"""Pictures as people's files have them: orientation, transparency, palettes, depth, frames; folders of any depth."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import beeline as bl
from beeline.data.image_files import ImageFile
from beeline.data.images import Image, Images
from beeline.data.pictures.pixels import pixels_of


def encoded(picture: Picture.Image, kind: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def picture(path: Path, value: int = 7, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.new("L", size, value).save(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {  # how a camera stores the upright picture under each mark (EXIF 2.3, 4.6.4)
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Picture.Exif()
    exif[0x0112] = orientation
    content = encoded(Picture.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(pixels_of("a.png", content)[..., 0], upright)


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_transparent_pixels_are_blended(background: str, colour: tuple[int, ...]) -> None:
    content = np.zeros((1, 3, 4), np.uint8)
    content[0] = [(200, 100, 50, 255), (9, 9, 9, 0), (0, 0, 0, 128)]
    made = pixels_of("a.png", encoded(Picture.fromarray(content)), background)
    assert made[0, 0].tolist() == [200, 100, 50] and made[0, 1].tolist() == list(colour)
    assert np.allclose(made[0, 2], np.array(colour) * (127 / 255), atol=1)
    grey = np.array([[[10, 255], [99, 0]]], np.uint8)
    made = pixels_of("a.png", encoded(Picture.fromarray(grey)), background)
    assert made.shape[2] == (1 if background == "white" else 3) and made[0, 0, 0] == 10 and made[0, 1, 0] == colour[0]


def test_palettes_depth_and_print_colours() -> None:
    coloured = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    palette = Picture.fromarray(coloured).convert("P", palette=Picture.Palette.ADAPTIVE)
    assert np.array_equal(pixels_of("a.png", encoded(palette)), coloured)
    clear = encoded(palette, transparency=palette.getpixel((0, 0)))
    assert pixels_of("a.png", clear)[0, 0].tolist() == [255, 255, 255]
    deep = Picture.fromarray(np.array([[0, 257, 65535]], np.uint16))
    assert pixels_of("a.png", encoded(deep))[0, :, 0].tolist() == [0, 1, 255]
    one = Picture.fromarray(np.array([[True, False]]))
    assert pixels_of("a.png", encoded(one))[0, :, 0].tolist() == [255, 0]
    printed = Picture.new("CMYK", (2, 2), (0, 255, 255, 0))
    assert np.abs(pixels_of("a.tif", encoded(printed, "TIFF"))[0, 0].astype(int) - [255, 0, 0]).max() <= 1


def test_what_cannot_be_one_picture_is_refused() -> None:
    frames = [Picture.new("L", (4, 4), v) for v in (0, 200)]
    with pytest.raises(bl.BeelineError, match="a.gif is an animation of 2 frames"):
        pixels_of("a.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    with pytest.raises(bl.BeelineError, match="floating-point pixels"):
        pixels_of("a.tif", encoded(Picture.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    with pytest.raises(bl.BeelineError, match="beyond 16 bits"):
        pixels_of("a.tif", encoded(Picture.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"))
    with pytest.raises(bl.BeelineError, match="which is no colour; give a name such as white"):
        ImageFile("photos", background="whit")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_pictures_are_read_or_refused_by_name(kind: str) -> None:
    whole = encoded(Picture.effect_noise((20, 20), 50).convert("L" if kind != "WEBP" else "RGB"), kind)
    generator = np.random.default_rng(0)
    for case in range(60):
        content = bytearray(whole)
        if case % 2:
            content = content[: int(generator.integers(0, len(whole)))]
        else:
            content[int(generator.integers(0, len(whole)))] ^= int(generator.integers(1, 256))
        try:
            made = pixels_of(f"damaged.{kind}", bytes(content))
            assert made.dtype == np.uint8 and made.ndim == 3
        except bl.BeelineError as error:
            assert f"damaged.{kind}" in str(error)


def test_classes_may_be_called_train_and_pictures_lie_deeper(tmp_path: Path) -> None:
    for k, name in enumerate(("bus", "car", "train")):
        for i in range(3):
            picture(tmp_path / "a" / name / f"{i}.png", 10 * k)
    train, held = ImageFile(tmp_path / "a").load()
    assert train.names == ("bus", "car", "train") and len(train) + len(held) == 9
    for i in range(3):
        picture(tmp_path / "b" / "cat" / f"{i}.png", 0)
        picture(tmp_path / "b" / "dog" / "2021" / "may" / f"{i}.png", 100)
    train, held = ImageFile(tmp_path / "b").load()
    whole = np.concatenate([train.pixels, held.pixels])[:, 0, 0, 0], np.concatenate([train.labels, held.labels])
    assert train.names == ("cat", "dog") and len(whole[0]) == 6 and np.array_equal(whole[0] // 100, whole[1])
    for part in ("Training", "dev"):
        for name in ("x", "y"):
            picture(tmp_path / "c" / part / name / "0.png")
    train, held = ImageFile(tmp_path / "c").load()
    assert len(train) == len(held) == 2 and train.names == ("x", "y")


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "dog" / "b.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    shown = ImageFile(tmp_path).summary()
    assert "2 images" in shown and "cat: 1" in shown and "1 files (notes.txt)" in shown


def test_labels_that_are_asked_for_and_missing_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 2, 2), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, kind=np.array([0, 1, 0, 1]))
    assert ImageFile(tmp_path / "a.npz").load()[0].labels is None
    assert ImageFile(tmp_path / "a.npz", label="kind").load()[0].labels is not None
    with pytest.raises(bl.BeelineError, match="no array 'kinds' for the labels; did you mean 'kind'"):
        ImageFile(tmp_path / "a.npz", label="kinds").load()
    picture(tmp_path / "flat" / "a.png")
    picture(tmp_path / "flat" / "b.png")
    with pytest.raises(bl.BeelineError, match="has no class folders"):
        ImageFile(tmp_path / "flat", label="kind").load()


def test_labels_are_values(tmp_path: Path) -> None:
    pixels = np.zeros((6, 2, 2, 1), np.uint8)
    raw = Images(pixels, np.array([1, 2, 10, 1, 2, 10]))
    made = Image().fit(raw)
    assert made.classes == 3 and made.names == ("1", "2", "10")
    assert made.encode(raw).cond["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert made.condition({"label": 10}, 1)["label"].tolist() == [2] == made.condition("10", 1)["label"].tolist()
    with pytest.raises(bl.BeelineError, match="the label 0 is outside its range"):
        made.condition({"label": 0}, 1)
    with pytest.raises(
        bl.BeelineError, match="row 0: the label is 3, which the training (split does|data do) not have"
    ):
        made.encode(Images(pixels[:1], np.array([3])))
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=raw.labels, x_test=pixels[:1], y_test=np.array([0]))
    with pytest.raises(bl.BeelineError, match="labels of the test split, row 0: the label is 0, which the training"):
        ImageFile(tmp_path / "a.npz").load()


def test_labels_that_were_asked_for_stand_beside_the_pictures() -> None:
    pixels = np.zeros((4, 2, 2, 1), np.uint8)
    named = Image().fit(Images(pixels, np.array([0, 1, 0, 1]), ("cat", "dog")))
    made = named.with_condition(Images(pixels[:2]), {"label": "dog"})
    assert made.labels is not None and made.labels.tolist() == [1, 1] and made.names == ("cat", "dog")
    valued = Image().fit(Images(pixels, np.array([1, 2, 1, 10])))
    made = valued.with_condition(Images(pixels[:3]), [10, 1, 2])
    assert made.labels is not None and made.labels.tolist() == [10, 1, 2]
    assert named.with_condition(Images(pixels[:2]), None).labels is None
