"""Arrays from files: what is damaged, foreign or larger than it can be is refused by name, and nothing is unpickled."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import beeline as bl
from beeline.data.arrays import read_arrays
from beeline.data.point_files import PointFile
from beeline.data.points import Points, PointSet


def test_arrays_come_back(tmp_path: Path) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.array([[1, 2]], np.uint8)
    np.save(tmp_path / "a.npy", a)
    np.savez_compressed(tmp_path / "b.npz", first=a, second=b)
    assert np.array_equal(read_arrays(tmp_path / "a.npy")["array"], a)
    found = read_arrays(tmp_path / "b.npz")
    assert np.array_equal(found["first"], a) and np.array_equal(found["second"], b)


@pytest.mark.parametrize("name", ["a.npy", "b.npz"])
def test_damaged_files_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "a.npy", np.arange(40.0).reshape(10, 4))
    np.savez(tmp_path / "b.npz", x=np.arange(40.0), y=np.arange(3))
    whole, generator = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / f"damaged{Path(name).suffix}"
    for case in range(150):
        content = bytearray(whole)
        if case % 2:
            content = content[: int(generator.integers(0, len(whole)))]
        else:
            content[int(generator.integers(0, min(len(whole), 200)))] ^= int(generator.integers(1, 256))
        damaged.write_bytes(bytes(content))
        try:
            read_arrays(damaged)
        except bl.BeelineError as error:
            assert damaged.name in str(error)


def test_claims_beyond_the_file_are_refused(tmp_path: Path) -> None:
    def header(shape: tuple[int, ...]) -> bytes:
        out = io.BytesIO()
        np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": shape})
        return out.getvalue()

    (tmp_path / "huge.npy").write_bytes(header((2_000_000, 1_000_000)) + b"\0" * 64)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", header((2_000_000, 1_000_000)) + b"\0" * 64)
    for name in ("huge.npy", "huge.npz"):
        with pytest.raises(bl.BeelineError, match="cannot be read as|declares an array"):
            read_arrays(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            file.write(header((2**27 + 1000,)))
            for _ in range(1024):
                file.write(bytes(2**20))
            file.write(bytes(8000))
    with pytest.raises(bl.BeelineError, match="times its size, which is refused"):
        read_arrays(tmp_path / "bomb.npz")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(
        bl.BeelineError, match=r"has the extension .npy, but is an archive of arrays; rename it to .npz"
    ):
        read_arrays(tmp_path / "a.npy")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(bl.BeelineError, match="never loaded"):
        read_arrays(tmp_path / "o.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(bl.BeelineError, match="is a pipe, socket or device"):
        PointFile(tmp_path / "pipe.npy").load()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0,1\n1.5,2.5\n3.5,4.5\n", ("0", "1")),  # as pandas writes an array
        (",0,1\n0,1.5,2.5\n1,3.5,4.5\n", ("0", "1")),  # with its index
        (",a,b\n0,1.5,2.5\n1,3.5,4.5\n", ("a", "b")),
        ('"a;b, c",d\n1.5,2.5\n3.5,4.5\n', ("a;b, c", "d")),  # separators inside quotes
        ('"a,b,c";d\n1.5;2.5\n3.5;4.5\n', ("a,b,c", "d")),
        ("1.5,2.5\n3.5,4.5\n", ("x0", "x1")),
    ],
)
def test_headers_of_points(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "p.csv").write_text(text)
    raw = PointFile(tmp_path / "p.csv").read()[0]
    assert raw.columns == names and raw.values.tolist() == [[1.5, 2.5], [3.5, 4.5]]


def test_points_are_written_exactly_and_read_back(tmp_path: Path) -> None:
    values = bl.Rng(0).normal(torch_like(50, 3)).numpy() * np.array([1e-12, 1.0, 1e15])
    raw = PointSet(values, ("温度", "price €", 'a, "b"'))
    Points().fit(raw).save(raw, tmp_path / "p.csv")
    again = PointFile(tmp_path / "p.csv").read()[0]
    assert again.columns == raw.columns and np.array_equal(again.values, raw.values)


def torch_like(*shape: int):  # type: ignore[no-untyped-def]
    import torch

    return torch.empty(*shape, dtype=torch.float64)
