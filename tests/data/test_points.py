"""Points: round trips, files, distributions as data sets, and every refusal."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.data.point_files import DistributionData, PointFile
from beeline.data.points import Points, PointSet

NOISE = np.random.default_rng(0)


def cloud(n=50):
    return NOISE.normal([3.0, -200.0], [0.5, 40.0], (n, 2))


def test_encode_standardises_and_decode_puts_back():
    raw = PointSet(cloud(), ("a", "b"), np.arange(50) % 3)
    m = Points().fit(raw)
    batch = m.encode(raw)
    assert batch.x1.dtype == torch.float32 and m.shape == (2,) and m.conditions == {"label": {"classes": 3}}
    assert np.allclose(batch.x1.double().mean(0), 0, atol=1e-6) and np.allclose(
        batch.x1.double().std(0, correction=0), 1
    )
    back = m.decode(batch.x1)
    assert np.allclose(back.values, raw.values, rtol=0, atol=1e-6 * raw.values.std(0)) and back.columns == ("a", "b")
    assert batch.cond["label"].tolist() == raw.labels.tolist()
    exact = m.decode(torch.from_numpy((raw.values - m.mean) / np.asarray(m.std)))
    assert np.allclose(exact.values, raw.values, rtol=1e-14)
    assert m.encode(back).cond is None  # what a model makes has no labels
    assert Points(m.columns, list(m.mean), list(m.std), m.classes) == m  # as it comes back from a file


def test_plain_numbers_stay_as_they_are():
    raw = PointSet(cloud().astype(np.float32))
    m = Points(standardise=False).fit(raw)
    assert np.array_equal(m.decode(m.encode(raw).x1).values, raw.values) and m.columns == ("x0", "x1")
    assert m.condition(None, 3) is None


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_preview_is_a_png(dim):
    raw = PointSet(NOISE.normal(size=(20, dim)), labels=np.arange(20) % 2)
    picture = Picture.open(io.BytesIO(Points().preview(raw)))
    assert picture.size == (400, 400) and np.asarray(picture).std() > 0
    assert Points().preview_type == "image/png" and Points().metrics() == ()


@pytest.mark.parametrize("head", ["height,width\n", "", "\ufeffheight,width\n"])
@pytest.mark.parametrize("cut", [",", ";", "\t"])
def test_csv_with_and_without_header(tmp_path, head, cut):
    values = cloud(20)
    lines = "".join(f"{a!r}{cut} {b!r}\n" for a, b in values.tolist())
    (tmp_path / "p.csv").write_text(head.replace(",", cut) + lines + "\n", encoding="utf-8")
    train, held = PointFile(tmp_path / "p.csv", held_out=0.2).load()
    assert train.columns == (("height", "width") if head else ("x0", "x1"))
    assert (len(train), len(held)) == (16, 4)
    whole = np.concatenate([train.values, held.values])
    assert np.array_equal(whole[np.lexsort(whole.T)], values[np.lexsort(values.T)])
    again, _ = PointFile(tmp_path / "p.csv", held_out=0.2).load()
    assert np.array_equal(again.values, train.values)


def test_labels_by_name_and_by_number(tmp_path):
    rows = "".join(f"{i},{'fox' if i % 2 else 'cat'},{i % 2},note {i}\n" for i in range(20))
    (tmp_path / "p.csv").write_text("size,kind,code,text\n" + rows)
    train, held = PointFile(tmp_path / "p.csv", label="kind", columns=("size",)).load()
    assert train.names == ("cat", "fox") and np.array_equal(train.labels, train.values[:, 0] % 2)
    m = PointFile(tmp_path / "p.csv").modality().fit(train)
    assert m.condition({"label": "fox"}, 2)["label"].tolist() == [1, 1]
    train, _ = PointFile(tmp_path / "p.csv", label="code", columns=("size",)).load()
    assert train.names == () and np.array_equal(train.labels, train.values[:, 0] % 2)
    np.save(tmp_path / "p.npy", np.stack([np.arange(20.0), np.arange(20) % 2], 1))
    train, _ = PointFile(tmp_path / "p.npy", label="x1").load()
    assert train.columns == ("x0",) and np.array_equal(train.labels, train.values[:, 0] % 2)


def test_a_distribution_as_a_data_set():
    distribution = bl.distributions.GaussianMixture.ring(4, labelled=True)
    data = DistributionData(distribution, n=300, kept=50, seed=3)
    train, held = data.load()
    assert np.array_equal(data.load()[0].values, train.values) and (len(train), len(held)) == (300, 50)
    assert not set(train.values[:, 0]) & set(held.values[:, 0])
    assert not np.array_equal(DistributionData(distribution, n=300, seed=4).load()[0].values, train.values)
    assert np.linalg.norm(train.values - np.array(distribution.means)[train.labels], axis=1).max() < 0.3 * 5
    m = data.modality().fit(train)
    assert np.allclose(m.encode(train).x1.numpy(), train.values, rtol=1e-6) and m.conditions == distribution.conditions
    assert abs(DistributionData(distribution, n=300, standardise=True).modality().fit(train).std[0] - 1) > 0.5


def test_refused_csv(tmp_path):
    def refused(message, text, **settings):
        (tmp_path / "p.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(bl.BeelineError, match=message):
            PointFile(tmp_path / "p.csv", **settings).load()

    refused("p.csv, line 3, column 'b': got 'nan'", "a,b\n1,2\n3,nan\n")
    refused("p.csv, line 3, column 'b': got 'inf'", "a,b\n1,2\n3,inf\n")
    refused("p.csv, line 4, column 'a': got 'n/a'", "a,b\n1,2\n\nn/a,3\n")
    refused("line 1, column 'x1': got 'b'", "1,b\n1,2\n")
    refused("line 2, column 'b': got ''", "a,b\n1,\n2,3\n")
    refused("line 3: there are 3 cells where line 1 has 2", "a,b\n1,2\n1,2,3\n")
    refused("is empty", "\n\n")
    refused("a header but no lines", "a,b\n")
    refused("appear twice", "a,a\n1,2\n")
    refused("did you mean 'kind'", "kind,b\n1,2\n1,3\n", label="kin")
    refused("at least one column", "kind\n1\n0\n", label="kind")
    refused("line 3: the label is 0.5", "kind,b\n1,2\n0.5,3\n", label="kind")
    refused("line 2: the label is missing", "kind,b\n,2\ncat,3\n", label="kind")
    refused("are held out, so it", "kind,b\n" + "".join(f"{i},{i}\n" for i in range(9)), label="kind")
    refused("cannot be read as text", b"a,b\n\xff\xfe,1\n")
    refused("give at least two", "a,b\n1,2\n")


def test_refused_files(tmp_path):
    def refused(message, name):
        with pytest.raises(bl.BeelineError, match=message):
            PointFile(tmp_path / name).load()

    values = cloud(5)
    values[3, 1] = np.nan
    np.save(tmp_path / "p.npy", values)
    refused(r"p.npy, row 3, column 'x1': the value is nan", "p.npy")
    refused("did you mean 'p.npy'", "q.npy")
    np.save(tmp_path / "flat.npy", values[None, :2])
    refused(r"of shape \(1, 2, \d+\)", "flat.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:140])
    refused("cannot be read as .npy", "cut.npy")
    (tmp_path / "p.xls").touch()
    refused("is no file of points", "p.xls")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: PointSet(np.zeros(3)), r"give numbers \[N,D\]"),
        (lambda: PointSet(np.zeros((3, 2)), ("a",)), "1 column names for 2"),
        (lambda: PointSet(np.array([[1.0, np.inf]]), ("a", "b")), "row 0, column 'b': the value is inf"),
        (lambda: PointSet(np.zeros((2, 1)), labels=np.array([0, 1]), names=("a",)), "outside its range"),
        (
            lambda: Points().fit(PointSet(np.array([[1.0, 2.0], [3.0, 2.0]]), ("a", "b"))),
            "column 'b' has the value 2",
        ),
        (lambda: Points().encode(PointSet(cloud())), "fit it first"),
        (
            lambda: Points().fit(PointSet(cloud())).encode(PointSet(cloud(), ("b", "a"))),
            "same columns in the same order",
        ),
        (lambda: Points().fit(PointSet(cloud())).decode(torch.zeros(1, 3)), "give finite"),
        (lambda: Points().fit(PointSet(cloud())).condition({"label": 1}, 1), "no condition 'label'|have no labels"),
        (lambda: DistributionData(bl.distributions.TwoMoons(), n=0), "is at least 1"),
    ],
)
def test_refused_values(act, message):
    with pytest.raises(bl.BeelineError, match=message):
        act()


def test_points_are_written_with_labels_and_read_again(tmp_path: Path) -> None:
    raw = PointSet(np.array([[1.5, 2.0], [0.1, -3.0], [4.0, 5.0]]), ("a", "b"), np.array([1, 0, 1]), ("cat", "dog"))
    m = Points().fit(raw)
    m.save(raw, tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as stored:
        assert sorted(stored) == ["labels", "names", "points"]
        np.testing.assert_array_equal(stored["points"], raw.values)
    m.save(raw, tmp_path / "folder")
    assert (tmp_path / "folder" / "points.csv").read_text().splitlines() == [
        "a,b,label",
        "1.5,2.0,dog",
        "0.1,-3.0,cat",
        "4.0,5.0,dog",
    ]
    assert (tmp_path / "folder" / "preview.png").read_bytes().startswith(b"\x89PNG")
    for file, label in (("p.npz", "labels"), ("folder/points.csv", "label")):
        again, _ = PointFile(tmp_path / file, label=label).read()
        np.testing.assert_array_equal(again.values, raw.values)
        assert [again.names[k] for k in again.labels] == ["dog", "cat", "dog"]
    np.savez(tmp_path / "text.npz", points=raw.values, labels=np.array(["x", "y", "x"]))
    assert PointFile(tmp_path / "text.npz", label="labels").read()[0].names == ("x", "y")
    np.savez(tmp_path / "bad.npz", points=raw.values, labels=np.array([0, 1, 2]), names=np.array(["x", "y"]))
    with pytest.raises(bl.BeelineError, match="outside its range"):
        PointFile(tmp_path / "bad.npz", label="labels").read()
