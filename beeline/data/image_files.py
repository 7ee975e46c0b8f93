"""Image data sets: scikit-learn's digits, array files, folders of images, and Parquet files of the hub."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from beeline.core.declared import check_members
from beeline.core.errors import BeelineError, extra, nearest, require
from beeline.core.protocols.data import Augmentation, ConditionEncoder
from beeline.core.ranges import Count, Inside, dataclass
from beeline.data.arrays import read_arrays
from beeline.data.described.columns import columns_of
from beeline.data.described.descriptions import Columns, Descriptions, described
from beeline.data.images import Image, Images
from beeline.data.labels import Array, check_labels, divide, existing, numbered, refuse_unseen
from beeline.data.modality import DataSetBase
from beeline.data.pictures.augmentations import Flip
from beeline.data.pictures.decoding import CACHED, Decoder, cache_folder, decoded, in_memory
from beeline.data.pictures.folders import HELD_OUT, Labelled, contents, labelled, splits
from beeline.data.pictures.listing import EXTENSIONS, Listing, listing
from beeline.data.pictures.pixels import square


@dataclass(frozen=True)
class Digits(DataSetBase):
    """The 1,797 handwritten digits of scikit-learn: 8x8 pixels, 17 gray levels, the digit as the label.

    pixel = round(255 k / 16), k = 0 .. 16 the stored value
    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", as in scikit-learn.

    >>> train, held = Digits().load()
    >>> train.pixels.shape, len(held)
    ((1438, 8, 8, 1), 359)
    """

    held_out: Inside = 0.2  # held-out fraction, between 0 and 1

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
    """Images from a file or a folder, with labels if it has any.

    .npz with x_train, y_train, x_test, y_test, or with images, labels (integers with ``names`` of the classes if there
    are some, or text);  .npy of uint8 [N,H,W] or [N,H,W,C];
    a folder of images, of one subfolder per class (searched recursively), or of train/ and test/ with such subfolders
    and no other subfolders;
    .parquet of the hub (image: {bytes, path}, label), or a folder with train-*.parquet and test-*.parquet
    Assumes images of one size, unless ``resize`` is given.  If all images are grayscale they have one channel, else
    all become RGB.  EXIF orientation is applied, transparent pixels are blended on ``background``, and 16-bit pixels
    become 8-bit.  Without a test split, a fixed random fraction is held out.  The images of a folder of 256 or more are
    decoded once, into a memory-mapped file in ``cache``; changed files are decoded again.

    >>> ImageFile("mnist.npz", resize=16).modality()
    Image(shape=(), classes=0, names=(), levels=256, sizes=(), described=None)
    """

    path: str  # a file or a folder
    resize: int | None = None  # pixels per side of the central square crop
    flip: bool = False  # mirror half of the training images, chosen anew in every microbatch: augment=Flip()
    held_out: Inside = 0.1  # held-out fraction of data without a test split
    classes: Count | None = None  # number of classes; None infers it from the training split
    image: str = "image"  # the column of the images in a Parquet file
    label: str | None = None  # the array or column of the labels; None for the usual names, if present
    labels: bool = True  # False ignores labels
    background: str = "white"  # colour behind transparent pixels: a name, or #rrggbb
    augment: Augmentation | tuple[Augmentation, ...] = ()  # of training images: Flip(), RandomCrop(4), or both
    cache: str | None = None  # folder for decoded images; None for beeline/images in the cache folder of the user
    # encoders of captions and other columns by the name of their condition; a single one is that of "text"
    conditions: ConditionEncoder | Mapping[str, ConditionEncoder] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        require(
            self.resize is None or (isinstance(self.resize, int) and self.resize >= 1),
            f"ImageFile got resize={self.resize!r}; but a side has at least one pixel; give an integer, or None",
        )
        object.__setattr__(self, "augment", tuple(self.augment) if isinstance(self.augment, list) else self.augment)
        for encoder in {} if self.described is None else self.described.encoders.values():
            check_members(encoder, ConditionEncoder, "give one of 'beeline list condition_encoders'")
        for augmentation in self.augmentations:
            check_members(augmentation, Augmentation, "give one of 'beeline list augmentations', such as Flip()")
        require(
            not self._margin or self.resize,
            f"ImageFile got {self.augment} and no resize, so images have no margin to crop; give resize=, the side of "
            "a crop in pixels",
        )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError):
            raise BeelineError(
                f"ImageFile got background={self.background!r}, which is no colour; give a name such as white, or "
                "#rrggbb"
            ) from None

    def modality(self) -> Image:
        return Image(classes=self.classes or 0, described=self.described)

    @property
    def described(self) -> Descriptions | None:
        """The encoders of captions and other columns; None without any."""
        return described(self.conditions)

    def read(self) -> tuple[Images, Images | None]:
        """(images, test images or None where there is no test split), in the order of the file or of the file names."""
        return self._read(existing(self.path), divided=False)

    def _read(self, place: Path, divided: bool) -> tuple[Images, Images | None]:
        if place.is_dir():
            return self._folder(place, divided)
        if place.suffix == ".parquet":
            return self._parquet([place], []), None
        if place.suffix in (".npz", ".npy"):
            return self._arrays(place)
        if place.suffix.lower() in EXTENSIONS:
            return self._join([(str(place), place.read_bytes())]), None
        raise BeelineError(
            f"{place} is no image data set; give a .npz, .npy or .parquet file, an image, or a folder of images"
        )

    def read_file(self, path: str) -> Images:
        return replace(self, path=path).read()[0]

    def load(self) -> tuple[Images, Images]:
        """(training, held-out) images; ValueError names the file, and the row or the image in it."""
        place = existing(self.path)
        train, held = self._read(place, divided=True)
        self._ranges(train, held, place)
        if held is None:
            learn, keep = divide(len(train), self.held_out, str(place))
            train, held = train.rows(learn), train.rows(keep)
        require(
            train.pixels.shape[1:] == held.pixels.shape[1:],
            f"{place}: the training images are {_size(train)} and the test images {_size(held)}, but a model has "
            "one shape; give resize=, or convert them to the same channels",
        )
        return replace(train, augment=self.augmentations), Images(
            held.pixels, held.labels, held.names, digest=held.digest, columns=held.columns
        )

    def _ranges(self, train: Images, held: Images | None, place: Path) -> None:
        """Refuse labels outside the given range, or outside that of the training split."""
        if train.labels is None:
            return
        require(
            held is None or held.labels is not None,
            f"{place}: the training split has labels and the test split has none; label both or neither",
        )
        check_labels(train.labels, len(train), self.classes, f"{place}, labels of the training split")
        if held is not None and held.labels is not None:
            where = f"{place}, labels of the test split"
            if self.classes is not None or train.names:
                check_labels(held.labels, len(held), self.classes or len(train.names), where)
            else:
                refuse_unseen(held.labels, train.labels, where)

    def _arrays(self, place: Path) -> tuple[Images, Images | None]:
        data = read_arrays(place)
        data = {"images": data["array"]} if place.suffix == ".npy" else data
        names = data["names"].tolist() if "names" in data else ()
        if "x_train" in data:
            train = self._array(place, data, "x_train", self.label or "y_train", names)
            return train, self._array(place, data, "x_test", "y_test", train.names) if "x_test" in data else None
        require(
            "images" in data,
            f"{place} holds the arrays {', '.join(sorted(data)) or 'none'}; images are read from x_train, y_train, "
            "x_test and y_test, or from images and labels: rename them",
        )
        return self._array(place, data, "images", self.label or "labels", names), None

    def _array(self, place: Path, data: dict[str, Array], image: str, label: str, names: Sequence[str]) -> Images:
        pixels, where = data[image], f"{place}, array {image}"
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(pixels))[0])
            raise BeelineError(f"{where}, at {list(first)}: the value is {pixels[first]}; images are finite; remove it")
        require(
            pixels.dtype == np.uint8,
            f"{where} is {pixels.dtype}, but images have 8 bits; scale them to 0 .. 255, round, and save them as uint8",
        )
        require(
            pixels.ndim in (3, 4) and 0 not in pixels.shape and (pixels.ndim == 3 or pixels.shape[3] <= 4),
            f"{where} has shape {pixels.shape}; give [N,H,W], or [N,H,W,C], with at least one image",
        )
        if self._side is not None:
            pixels = np.stack([square(tile, self._side) for tile in pixels])
        require(
            not self.labels or self.label is None or label in data,
            f"{place} has no array {label!r} for the labels; {nearest(label, data)}",
        )
        columns = None if self.described is None else self.described.chosen(data, len(pixels))
        if not self.labels or label not in data:
            return replace(Images.inside(pixels, self._margin), columns=columns)
        where = f"{place}, array {label}"
        labels, known = numbered(data[label], [str(name) for name in names], where)
        labels = check_labels(labels, len(pixels), len(known) or None, where)
        return replace(Images.inside(pixels, self._margin, labels, known), columns=columns)

    def _folder(self, place: Path, divided: bool) -> tuple[Images, Images | None]:
        """The splits of a folder; with ``divided``, a fraction is held out where there is no test split."""
        files = listing(place)
        tables = [place / name for name in sorted(files.skipped) if name.endswith(".parquet")]
        if tables:
            held = next((f for w in HELD_OUT if (f := [p for p in tables if p.name.startswith(w)])), [])
            train = [p for p in tables if p.name.startswith("train")]
            train = train or [p for p in tables if not p.name.startswith(HELD_OUT)]
            require(
                train,
                f"{place} holds {', '.join(p.name for p in tables)}, none of which is a training "
                "split; name it train-*.parquet",
            )
            return self._parquet(train, []), self._parquet(held, []) if held else None
        parts = splits(place)
        if parts is None:
            every = self._labelled(files)
            return self._divided(every, place) if divided else (self._decoded(every), None)
        learned = self._labelled(listing(parts[0]))
        if parts[1] is None and divided:
            return self._divided(learned, place)
        unseen = None if parts[1] is None else self._labelled(listing(parts[1]), learned.names)
        return self._decoded(learned), None if unseen is None else self._decoded(unseen)

    def summary(self) -> str:
        """What a folder contains, and the disk space of its decoded images; "" for a single file."""
        place = existing(self.path)
        if not place.is_dir():
            return ""
        files = listing(place)
        lines = contents(files)
        if self.conditions is not None and len(files):
            found = {name: sum(v is not None for v in part) for name, part in columns_of(files).values.items()}
            lines += [f"  column {name}: {count:,} of {len(files):,} images" for name, count in found.items()]
        side = self._side
        if side is not None and len(files) >= CACHED:
            size, folder = len(files) * 3 * side**2, self.cache or cache_folder()
            lines.append(f"  decoded once to {side}x{side}, at most {size / 2**20:,.0f} MiB in {folder}")
        return "\n".join(lines)

    def _labelled(self, files: Listing, names: tuple[str, ...] = ()) -> Labelled:
        found = labelled(files, names, classes=self.labels, required=self.label or "")
        return found if self.conditions is None else replace(found, columns=columns_of(files))

    def _divided(self, files: Labelled, place: Path) -> tuple[Images, Images]:
        """(training, held-out) images of files in one folder."""
        if len(files) < CACHED:
            whole = self._decoded(files)
            learn, keep = divide(len(files), self.held_out, str(place))
            return whole.rows(learn), whole.rows(keep)
        learn, keep = divide(len(files), self.held_out, str(place))
        # both parts are views of one file
        whole = self._decoded(files.rows(np.concatenate([learn, keep])), self.held_out)
        train = replace(whole.rows(slice(len(learn))), digest=f"{whole.digest}[:{len(learn)}]")
        held = replace(whole.rows(slice(len(learn), None)), digest=f"{whole.digest}[{len(learn)}:]")
        return train, held

    def _decoded(self, files: Labelled, held_out: float = 0.0) -> Images:
        """The images of files, from the cache if there are many; ``held_out`` identifies their order."""
        settings = {"side": self._side, "background": self.background, "held_out": held_out}
        pixels, digest = decoded(files.files, self._decoder, settings, self.cache)
        inside = Images.inside(pixels, self._margin, files.labels, files.names)
        return replace(inside, digest=digest, columns=files.columns)

    def _parquet(self, files: list[Path], names: Iterable[str]) -> Images:
        parquet = extra("pyarrow.parquet", "data")
        names, labels, parts = tuple(names), [], []
        more: dict[str, list[Any]] = {}
        label = self.label or "label"
        for file in files:
            try:
                table = parquet.read_table(file)
            except Exception as error:  # on damaged files Arrow raises errors of many types
                raise BeelineError(
                    f"{file} cannot be read as Parquet ({error}), so it is damaged or truncated; download it again"
                ) from error
            columns = table.column_names
            require(
                self.image in columns,
                f"{file} has no column {self.image!r}; set image= to the column of the images: "
                f"{nearest(self.image, columns)}",
            )
            require(table.num_rows > 0, f"{file} has no rows; download it again")
            require(
                self.label is None or not self.labels or label in columns,
                f"{file} has no column {label!r} for the labels; {nearest(label, columns)}",
            )
            names = names or _class_names(table, label)
            cells = table.column(self.image).to_pylist()
            parts.append(
                (f"{file}, row {i}, column {self.image}", c.get("bytes") if isinstance(c, dict) else c)
                for i, c in enumerate(cells)
            )
            if self.labels and label in columns:
                labels.append((file, table.column(label).to_pylist()))
            for name in () if self.described is None else self.described.columns & set(columns):
                more.setdefault(name, []).extend(table.column(name).to_pylist())
        require(
            len(labels) in (0, len(files)),
            f"of {', '.join(str(f) for f in files)} only some have a column {label!r}; give it to all or to none",
        )
        whole, names = _number(labels, label, names)
        made = self._join((cell for part in parts for cell in part), whole, names)
        return made if self.conditions is None else replace(made, columns=Columns(more))

    def _join(self, sources: Iterable[tuple[str, Any]], labels: Any = None, names: tuple[str, ...] = ()) -> Images:
        """Decode encoded images of one size into one array."""
        pixels = in_memory(sources, self._decoder)
        return Images.inside(pixels, self._margin, None if labels is None else np.asarray(labels), names)

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """All augmentations of training images."""
        given = self.augment if isinstance(self.augment, tuple) else (self.augment,)
        return (*given, Flip()) if self.flip else given

    @property
    def _margin(self) -> int:
        return sum(augmentation.margin for augmentation in self.augmentations)

    @property
    def _side(self) -> int | None:
        """Pixels per side of stored images: those of the model, and a margin for crops."""
        return None if self.resize is None else self.resize + 2 * self._margin

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.background, None if self._side is None else functools.partial(square, side=self._side))


def _class_names(table: Any, label: str) -> tuple[str, ...]:
    """The class names in the metadata of a file of the hub; () if there are none."""
    try:
        info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(str(name) for name in info["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _number(labels: list[tuple[Path, list[Any]]], column: str, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The labels of all files as integers; text labels are numbered alphabetically."""
    if not labels:
        return None, names
    for file, cells in labels:
        missing = next((i for i, cell in enumerate(cells) if cell is None), None)
        require(
            missing is None,
            f"{file}, row {missing}, column {column}: the label is missing; remove the row, or set labels=False",
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


def _size(raw: Images) -> str:
    return f"{raw.pixels.shape[1]}x{raw.pixels.shape[2]} with {raw.pixels.shape[3]} channel(s)"
