"""Where images come from: the built-in digits, arrays, folders of pictures, and the hub's parquet files."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from beeline.core.errors import BeelineError, extra, nearest, require
from beeline.core.ranges import Count, Inside, dataclass
from beeline.data.arrays import read_arrays
from beeline.data.images import Image, Images
from beeline.data.labels import Array, check_labels, divide, existing, refuse_unseen
from beeline.data.modality import DataSetBase
from beeline.data.picture import pixels_of, square

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
HELD_OUT = ("test", "testing", "validation", "valid", "val", "dev", "eval")  # held-out parts, the preferred one first
TRAINING = ("train", "training")


@dataclass(frozen=True)
class Digits(DataSetBase):
    """The 1,797 handwritten digits of scikit-learn, 8x8, in 17 levels of grey, with the digit as the label.

    pixel = round(255 k / 16), k = 0 .. 16 the stored value
    Assumes nothing; the held-out part is the same every time.
    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", as in scikit-learn.

    >>> train, held = Digits().load()
    >>> train.pixels.shape, len(held)
    ((1438, 8, 8, 1), 359)
    """

    held_out: Inside = 0.2  # share of the digits kept back, between 0 and 1

    def load(self) -> tuple[Images, Images]:
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
        raw = Images(pixels, data.target, tuple(str(i) for i in range(10)))
        train, held = divide(len(raw), self.held_out, "the digits")
        return raw.rows(train), raw.rows(held)

    def modality(self) -> Image:
        return Image(levels=17)


@dataclass(frozen=True)
class ImageFile(DataSetBase):
    """Pictures from a file or a folder, with labels where it has some.

    .npz with x_train, y_train, x_test, y_test, or with images, labels;  .npy of uint8 [N,H,W] or [N,H,W,C];
    a folder of pictures, or of one subfolder per class (pictures anywhere below it), or of train/ and test/ with such
    subfolders, where no other subfolders stand beside them;
    .parquet of the hub (image: {bytes, path}, label), or a folder with train-*.parquet and test-*.parquet
    Assumes pictures of one size, unless ``resize`` is given.  Grey stays one channel where all are grey; the rest
    becomes RGB.  Orientation is applied, transparent pixels are blended on ``background``, and 16 bits become 8.
    Without a test part, a share that is the same every time is held out.
    Source: none; the layouts that torchvision and the hub's datasets use.

    >>> ImageFile("mnist.npz", resize=16).modality()
    Image(shape=(), classes=0, names=(), levels=256)
    """

    path: str  # a file or a folder
    resize: int | None = None  # pixels per side: the middle square is cut out and scaled to it
    flip: bool = False  # add every training image mirrored left to right
    held_out: Inside = 0.1  # share kept back where the data name no test part
    classes: Count | None = None  # labels run from 0 to classes-1; None to find them in the training part
    image: str = "image"  # the column of the pictures in a parquet file
    label: str | None = None  # the array or parquet column of the labels; None for the usual names, where they exist
    labels: bool = True  # False learns without labels
    background: str = "white"  # the colour under transparent pixels: a name, or #rrggbb

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        require(
            self.resize is None or (isinstance(self.resize, int) and self.resize >= 1),
            f"ImageFile got resize={self.resize!r}; a side has at least one pixel: give a whole number, or None",
        )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError):
            raise BeelineError(
                f"ImageFile got background={self.background!r}, which is no colour; give a name such as white, or "
                "#rrggbb"
            ) from None

    def modality(self) -> Image:
        return Image(classes=self.classes or 0)

    def read(self) -> tuple[Images, Images | None]:
        """(images, test images where the data name a test part), in the order of the file or of the names."""
        place = existing(self.path)
        if place.is_dir():
            return self._folder(place)
        if place.suffix == ".parquet":
            return self._parquet([place], []), None
        if place.suffix in (".npz", ".npy"):
            return self._arrays(place)
        if place.suffix.lower() in PICTURES:
            return self._join([(str(place), place.read_bytes())]), None
        raise BeelineError(
            f"{place} is no data that images can be read from; give a .npz, .npy or .parquet file, a picture, or a "
            "folder of pictures"
        )

    def read_file(self, path: str) -> Images:
        return replace(self, path=path).read()[0]

    def load(self) -> tuple[Images, Images]:
        """(training, held-out) images; every refusal names the file, and the row or the picture in it."""
        place = existing(self.path)
        train, held = self.read()
        self._ranges(train, held, place)
        if held is None:
            learn, keep = divide(len(train), self.held_out, str(place))
            train, held = train.rows(learn), train.rows(keep)
        require(
            train.pixels.shape[1:] == held.pixels.shape[1:],
            f"{place}: the training images are {_size(train)} and the test images {_size(held)}; a model has one size: "
            "give resize=, or bring them to the same channels",
        )
        if self.flip:
            labels = None if train.labels is None else np.concatenate([train.labels, train.labels])
            train = Images(np.concatenate([train.pixels, train.pixels[:, :, ::-1]]), labels, train.names)
        return train, held

    def _ranges(self, train: Images, held: Images | None, place: Path) -> None:
        """Refuse labels outside the range that was given, or that the training part has."""
        if train.labels is None:
            return
        require(
            held is None or held.labels is not None,
            f"{place}: the training part has labels and the test part has none; give both or neither",
        )
        check_labels(train.labels, len(train), self.classes, f"{place}, labels of the training part")
        if held is not None and held.labels is not None:
            where = f"{place}, labels of the test part"
            if self.classes is not None or train.names:
                check_labels(held.labels, len(held), self.classes or len(train.names), where)
            else:
                refuse_unseen(held.labels, train.labels, where)

    def _arrays(self, place: Path) -> tuple[Images, Images | None]:
        data = read_arrays(place)
        data = {"images": data["array"]} if place.suffix == ".npy" else data
        if "x_train" in data:
            train = self._array(place, data, "x_train", self.label or "y_train")
            return train, self._array(place, data, "x_test", "y_test") if "x_test" in data else None
        require(
            "images" in data,
            f"{place} holds the arrays {', '.join(sorted(data)) or 'none'}; images are read from x_train, y_train, "
            "x_test and y_test, or from images and labels: rename them",
        )
        return self._array(place, data, "images", self.label or "labels"), None

    def _array(self, place: Path, data: dict[str, Array], image: str, label: str) -> Images:
        pixels, where = data[image], f"{place}, array {image}"
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(pixels))[0])
            raise BeelineError(
                f"{where}, at {list(first)}: the value is {pixels[first]}; images hold finite numbers: remove it"
            )
        require(
            pixels.dtype == np.uint8,
            f"{where} is {pixels.dtype}; images are 8-bit: scale them to 0 .. 255, round, and save them as uint8",
        )
        require(
            pixels.ndim in (3, 4) and 0 not in pixels.shape and (pixels.ndim == 3 or pixels.shape[3] <= 4),
            f"{where} has shape {pixels.shape}; give [N,H,W], or [N,H,W,C], with at least one image",
        )
        if self.resize:
            pixels = np.stack([square(tile, self.resize) for tile in pixels])
        require(
            not self.labels or self.label is None or label in data,
            f"{place} has no array {label!r} for the labels that were asked for; {nearest(label, data)}",
        )
        labels = data.get(label) if self.labels else None
        return Images(
            pixels, None if labels is None else check_labels(labels, len(pixels), None, f"{place}, array {label}")
        )

    def _folder(self, place: Path) -> tuple[Images, Images | None]:
        tables = sorted(p for p in place.rglob("*.parquet") if not p.name.startswith("."))
        if tables:
            held = next((f for w in HELD_OUT if (f := [p for p in tables if p.name.startswith(w)])), [])
            train = [p for p in tables if p.name.startswith("train")]
            train = train or [p for p in tables if not p.name.startswith(HELD_OUT)]
            require(
                train,
                f"{place} holds {', '.join(p.name for p in tables)}, none of it to learn from; "
                "name the training part train-*.parquet",
            )
            return self._parquet(train, []), self._parquet(held, []) if held else None
        inside = _folders_in(place)
        named = {p.name.lower(): p for p in inside}
        # folders named train and test are classes like any other where more folders stand beside them
        if set(named) <= {*TRAINING, *HELD_OUT} and (first := next((named[w] for w in TRAINING if w in named), None)):
            train_set = self._pictures(first)
            rest = next((named[w] for w in HELD_OUT if w in named), None)
            return train_set, None if rest is None else self._pictures(rest, train_set.names)
        return self._pictures(place), None

    def summary(self) -> str:
        """Number of images in every class folder, and the files that are skipped; "" for a single file."""
        place = existing(self.path)
        if not place.is_dir():
            return ""
        every = [p for p in sorted(place.rglob("*")) if p.is_file() and not _hidden(p, place)]
        pictures = [p for p in every if _is_picture(p)]
        if not pictures:
            return ""
        counts = collections.Counter(str(p.parent.relative_to(place)) for p in pictures)
        lines = [f"{place}: {len(pictures):,} pictures"]
        lines += [f"  {name}: {count:,}" for name, count in list(counts.items())[:20]]
        lines += [f"  and {len(counts) - 20} more folders"] if len(counts) > 20 else []
        other = [p.name for p in every if not _is_picture(p)]
        lines += [f"  passed over, no pictures by their names: {len(other):,} files ({', '.join(other[:5])})"] * bool(
            other
        )
        return "\n".join(lines)

    def _pictures(self, place: Path, names: tuple[str, ...] = ()) -> Images:
        loose = [p for p in sorted(place.iterdir()) if _is_picture(p)]
        found = {p.name: files for p in _folders_in(place) if (files := _below(p))}
        require(
            loose or found,
            f"{place} holds no pictures ({', '.join(PICTURES)}) and no .parquet files; there is nothing to learn from: "
            "give the folder they are in, or that of their class folders",
        )
        require(
            not (loose and found),
            f"{place} holds pictures ({loose[0].name if loose else ''}) beside the class folders {', '.join(found)}; "
            "which class the former have is unknown: move them into a class folder, or away",
        )
        require(
            not (loose and self.label and self.labels),
            f"labels ({self.label}) were asked for, but {place} holds pictures without class folders; "
            "move them into one folder a class, or leave label out",
        )
        if loose or not self.labels:
            every = loose or [p for files in found.values() for p in files]
            return self._join((str(p), p.read_bytes()) for p in every)
        names = names or tuple(found)
        for name in found:
            require(
                name in names,
                f"{place / name} is a class that the training part does not have; {nearest(name, names)}",
            )
        labels = [names.index(name) for name, files in found.items() for _ in files]
        return self._join(((str(p), p.read_bytes()) for files in found.values() for p in files), labels, names)

    def _parquet(self, files: list[Path], names: Iterable[str]) -> Images:
        parquet = extra("pyarrow.parquet", "data")
        names, labels, parts = tuple(names), [], []
        label = self.label or "label"
        for file in files:
            try:
                table = parquet.read_table(file)
            except Exception as error:  # damaged files make arrow raise more than its own errors
                raise BeelineError(
                    f"{file} cannot be read as parquet ({error}); it is damaged or cut short: fetch it again"
                ) from error
            columns = table.column_names
            require(
                self.image in columns,
                f"{file} has no column {self.image!r}; set image= to the column of the pictures: "
                f"{nearest(self.image, columns)}",
            )
            require(table.num_rows > 0, f"{file} has no rows; there is nothing to learn from: fetch it again")
            require(
                self.label is None or not self.labels or label in columns,
                f"{file} has no column {label!r} for the labels that were asked for; {nearest(label, columns)}",
            )
            names = names or _class_names(table, label)
            cells = table.column(self.image).to_pylist()
            parts.append(
                (f"{file}, row {i}, column {self.image}", c.get("bytes") if isinstance(c, dict) else c)
                for i, c in enumerate(cells)
            )
            if self.labels and label in columns:
                labels.append((file, table.column(label).to_pylist()))
        require(
            len(labels) in (0, len(files)),
            f"of {', '.join(str(f) for f in files)} only some have a column {label!r}; give it to all or to none",
        )
        whole, names = _number(labels, label, names)
        return self._join((cell for part in parts for cell in part), whole, names)

    def _join(self, sources: Iterable[tuple[str, Any]], labels: Any = None, names: tuple[str, ...] = ()) -> Images:
        """Pictures of one size in one array; all of them opened before anything else is done."""
        tiles: list[Array] = []
        first = ""
        for where, content in sources:
            tile = self._open(where, content)
            first = first or where
            require(
                not tiles or tile.shape[:2] == tiles[0].shape[:2],
                f"{first} is {_plane(tiles[0]) if tiles else ''} and {where} is {_plane(tile)}; "
                "a model has one size: give resize=, for example "
                f"resize={min(min(t.shape[:2]) for t in [*tiles[:1], tile])}",
            )
            tiles.append(tile)
        if any(tile.shape[2] == 3 for tile in tiles):
            tiles = [tile if tile.shape[2] == 3 else tile.repeat(3, 2) for tile in tiles]
        return Images(np.stack(tiles), None if labels is None else np.asarray(labels), names)

    def _open(self, where: str, content: Any) -> Array:
        tile = pixels_of(where, content, self.background)
        return square(tile, self.resize) if self.resize else tile


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _below(folder: Path) -> list[Path]:
    """All pictures in a folder and in the folders inside it."""
    return [p for p in sorted(folder.rglob("*")) if _is_picture(p) and not _hidden(p, folder)]


def _folders_in(place: Path) -> list[Path]:
    return [p for p in sorted(place.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _class_names(table: Any, label: str) -> tuple[str, ...]:
    """The names of the classes, where the hub wrote them beside the columns."""
    try:
        info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(str(name) for name in info["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _number(labels: list[tuple[Path, list[Any]]], column: str, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Labels of all files as whole numbers; texts are numbered in the order of the alphabet."""
    if not labels:
        return None, names
    for file, cells in labels:
        missing = next((i for i, cell in enumerate(cells) if cell is None), None)
        require(
            missing is None,
            f"{file}, row {missing}, column {column}: there is no label; every row needs one: remove the row, "
            "or set labels=False to learn without labels",
        )
    if all(isinstance(cell, str) for _, cells in labels for cell in cells):
        names = names or tuple(sorted({cell for _, cells in labels for cell in cells}))
        for file, cells in labels:
            odd = next((i for i, cell in enumerate(cells) if cell not in names), None)
            require(
                odd is None,
                f"{file}, row {odd}, column {column}: there is no class {cells[odd or 0]!r}; "
                f"{nearest(cells[odd or 0], names)}",
            )
        return [names.index(cell) for _, cells in labels for cell in cells], names
    classes = len(names) or None
    parts = [check_labels(cells, len(cells), classes, f"{file}, column {column}") for file, cells in labels]
    return np.concatenate(parts), names


def _plane(tile: Array) -> str:
    return f"{tile.shape[0]}x{tile.shape[1]}"


def _size(raw: Images) -> str:
    return f"{raw.pixels.shape[1]}x{raw.pixels.shape[2]} with {raw.pixels.shape[3]} channel(s)"
