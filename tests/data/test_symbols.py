"""Sequences of symbols: round trips, exact statistics of the chain, divergences with known values, every refusal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.data.sequence_files import MarkovChain, SequenceFile
from beeline.data.sequences import NGramDivergence, Sequences


def test_texts_come_back() -> None:
    raw = ["GATC", "CCAT", "TTTT"]
    modality = Sequences().fit(raw)
    assert modality.alphabet == "ACGT" and modality.shape == (4, 4) and modality.conditions == {}
    x = modality.encode(raw).x1
    assert x.shape == (3, 4, 4) and torch.equal(x.sum(-1), torch.ones(3, 4)) and modality.decode(x) == raw
    assert config.build(config.describe(modality)) == modality
    assert modality.condition(None, 3) is None and Sequences().shape == ()


def test_preview_and_file(tmp_path: Path) -> None:
    modality = Sequences().fit(["a<", "<a"])
    assert modality.preview(["a<"]) == b"<pre>a&lt;</pre>\n" and modality.preview_type == "text/html"
    modality.save(["a<", "<a"], tmp_path / "made.txt")
    train, held = SequenceFile(str(tmp_path / "made.txt"), held_out=0.5).load()
    assert sorted(train + held) == ["<a", "a<"]


def one_hot(texts: list[str]) -> Tensor:
    return Sequences("ABC", len(texts[0])).encode(texts).x1


def test_divergences_of_known_distributions() -> None:
    same, other = one_hot(["AAB", "ABA"]), one_hot(["CCC"])
    for size in (1, 2):
        assert NGramDivergence(size)(same, same, Rng(0)) == 0.0
        assert abs(NGramDivergence(size)(same, other, Rng(0)) - math.log(2)) < 1e-12  # disjoint
    # (2/3, 1/3) against (1, 0), by hand
    p, q = 2 / 3, 5 / 6
    entropy = lambda a: -(a * math.log(a) + (1 - a) * math.log(1 - a))  # noqa: E731
    assert abs(NGramDivergence(1)(same, one_hot(["AAA"]), Rng(0)) - (entropy(q) - entropy(p) / 2)) < 1e-12
    assert NGramDivergence(2).frequencies(same).reshape(3, 3)[0, 1] == 0.5 and NGramDivergence(2).better == "lower"
    assert [m.name for m in Sequences("AB", 1).metrics()] == ["symbol divergence"]


def test_the_chain_has_the_statistics_it_says() -> None:
    chain = MarkovChain("ABC", length=5, n=40_000, kept=10)
    raw, held = chain.load()
    assert raw == chain.load()[0] and len(held) == 10
    x = Sequences().fit(raw).encode(raw).x1
    for size in (1, 2, 3):
        exact = chain.ngrams(size)
        assert abs(float(exact.sum()) - 1) < 1e-12
        assert float((NGramDivergence(size).frequencies(x) - exact).abs().max()) < 0.004
    # runs of the whole length: the distribution of a sequence, by the product of its steps
    step, whole = chain.transitions(), chain.ngrams(5)
    path = [2, 0, 1, 1, 2]
    known = math.prod(float(step[a, b]) for a, b in zip(path, path[1:], strict=False)) / 3
    assert abs(float(whole[sum(k * 3**i for i, k in enumerate(reversed(path)))]) - known) < 1e-12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AB\nABA\n", "line 2: there are 3 symbols where line 1 has 2"),
        ("AB\n\nBA\n", "line 2: there are 0 symbols"),
        ("AB\n", "give at least two"),
        ("AB\nAB\nAC\n", "held-out sequences only"),
    ],
)
def test_files_that_will_not_do(text: str, words: str, tmp_path: Path) -> None:
    place = tmp_path / "symbols.txt"
    place.write_text(text)
    with pytest.raises(ValueError, match=words):
        for share in (0.3, 0.6):
            SequenceFile(str(place), held_out=share).load()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "symbols.txt").write_bytes(b"\xff\xfe\x00\xd8\n")
    with pytest.raises(ValueError, match="save it in UTF-8"):
        SequenceFile(str(tmp_path / "symbols.txt")).load()
    with pytest.raises(ValueError, match="does not exist"):
        SequenceFile(str(tmp_path / "none.txt")).load()


def test_refusals() -> None:
    modality = Sequences().fit(["AB", "BA"])
    for call, words in [
        (lambda: Sequences().fit([]), "no sequences"),
        (lambda: Sequences().fit(["AA"]), "at least two are needed"),
        (lambda: Sequences().fit(["AB", "A"]), "sequence 1 has 1 symbols"),
        (lambda: Sequences().encode(["AB"]), "fit it first"),
        (lambda: modality.encode(["AX"]), "'X' as symbol 1"),
        (lambda: modality.decode(torch.full((1, 2, 2), math.nan)), "give finite"),
        (lambda: modality.condition(3, 2), "has no conditions"),
        (lambda: NGramDivergence(0), "one symbol or more"),
        (lambda: NGramDivergence(3)(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), Rng(0)), "L of at least"),
        (lambda: MarkovChain("AA"), "distinct symbols"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()  # type: ignore[no-untyped-call]


def test_sequences_are_written_as_an_array_and_into_a_directory(tmp_path):
    texts = ["AB", "BB"]
    m = Sequences().fit(texts)
    m.save(texts, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as stored:
        assert stored["sequences"].tolist() == texts
    m.save(texts, tmp_path / "folder")
    assert (tmp_path / "folder" / "sequences.txt").read_text() == "AB\nBB\n"
