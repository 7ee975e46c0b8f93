"""The modality of symbol sequences of one length, one-hot: data of simplex and token paths."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import replacing, write_text
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.metric import MetricBase
from beeline.data.modality import ModalityBase


@dataclass(frozen=True)
class Sequences(ModalityBase):
    """Texts of one length over an alphabet, every character one-hot.

    x[i, k] = 1 if character i is symbol k, else 0;  decode: argmax over k
    Assumes at least two symbols.

    >>> Sequences().fit(["AB", "BB"]).encode(["BA"]).x1
    tensor([[[0., 1.],
             [1., 0.]]])
    """

    alphabet: str = ""  # the symbols in the order of their entries; set by ``fit``
    length: Whole = 0  # characters per text; set by ``fit``
    preview_type = "text/html"
    continuous = False
    formats = (".txt", ".npz", "")  # that ``save`` writes; the last is a directory

    @property
    def shape(self) -> tuple[int, ...]:
        """(length, symbols), empty before fitting."""
        return (self.length, len(self.alphabet)) if self.alphabet else ()

    def fit(self, raw: Sequence[str]) -> Sequences:
        """A new modality with the alphabet and the length of ``raw``."""
        require(len(raw) > 0, "got no sequences; give at least two")
        found = "".join(sorted(set().union(*raw)))
        require(
            len(found) >= 2,
            f"the sequences use the symbols {found!r}, but at least two are needed; give other data",
        )
        made = replace(self, alphabet=found, length=len(raw[0]))
        made._numbers(raw)
        return made

    def encode(self, raw: Sequence[str], rng: Rng | None = None) -> Batch:
        """One-hot float32 [N,L,K]; ``rng`` is not used."""
        require(bool(self.alphabet), "the modality has no alphabet; fit it first: modality.fit(raw)")
        return Batch(torch.nn.functional.one_hot(self._numbers(raw), len(self.alphabet)).float())

    def decode(self, x: Tensor) -> list[str]:
        """Texts from [N,L,K], by the largest entry of each position."""
        require(
            x.shape[1:] == self.shape and bool(x.isfinite().all()),
            f"a tensor of shape {tuple(x.shape)} cannot be decoded to sequences of shape {self.shape or '()'}, or is "
            "not finite; give finite [N,L,K] of that shape, and fit the modality first",
        )
        return ["".join(self.alphabet[k] for k in row) for row in x.argmax(-1).tolist()]

    def preview(self, raw: Sequence[str], most: int = 64) -> bytes:
        """An HTML list of the first ``most`` texts."""
        lines = "\n".join(html.escape(text) for text in raw[:most])
        return f"<pre>{lines}</pre>\n".encode()

    def save(self, raw: Sequence[str], path: Path) -> None:
        """Write a text file with one sequence per line (.txt), or the array ``sequences`` (.npz).

        A directory gets ``sequences.txt``.
        """
        if path.suffix == ".npz":
            with replacing(path) as file, open(file, "wb") as out:
                np.savez_compressed(out, sequences=np.array(raw, dtype=str))
            return
        place = path if path.suffix else path / "sequences.txt"
        write_text(place, "".join(f"{text}\n" for text in raw))

    def metrics(self) -> Sequence[Any]:
        """Divergences of symbol and bigram frequencies."""
        return (NGramDivergence(1), NGramDivergence(2))[: self.length]

    def _numbers(self, raw: Sequence[str]) -> Tensor:
        """The indices of the symbols, [N,L]; ValueError names the sequence and the position."""
        place = {symbol: k for k, symbol in enumerate(self.alphabet)}
        for row, text in enumerate(raw):
            require(
                len(text) == self.length,
                f"sequence {row} has {len(text)} symbols where others have {self.length}, but sequences have one "
                "length; truncate or pad it",
            )
            odd = next((i for i, symbol in enumerate(text) if symbol not in place), None)
            if odd is not None:
                raise BeelineError(
                    f"sequence {row} has {text[odd]!r} as symbol {odd}, which is not in the alphabet; "
                    f"{nearest(text[odd], self.alphabet)}"
                )
        return torch.tensor([[place[symbol] for symbol in text] for text in raw]).reshape(len(raw), self.length)


@dataclass(frozen=True)
class NGramDivergence(MetricBase):
    """Jensen-Shannon divergence between the frequencies of n-grams of ``size`` symbols, over all positions.

    H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q the frequencies, in nats: from 0 (equal) to ln 2 (disjoint)
    Assumes one-hot data [N,L,K].  At finite sample sizes it is biased upwards by about (n-grams that occur) /
    (8 positions); compare it with the real-vs-real baseline.
    Source: Lin 1991, "Divergence measures based on the Shannon entropy".

    >>> x = torch.eye(2)[torch.tensor([[0, 1]])]
    >>> NGramDivergence(1)(x, x, Rng(0))
    0.0
    """

    size: int = 2  # 1 for symbols, 2 for bigrams

    def __post_init__(self) -> None:
        require(
            isinstance(self.size, int) and self.size >= 1,
            f"NGramDivergence got size={self.size!r}, but an n-gram has one symbol or more; give 1 or 2",
        )

    @property
    def name(self) -> str:
        known = {1: "symbol divergence", 2: "bigram divergence"}
        return known.get(self.size, f"{self.size}-gram divergence")

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "lower"

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float:
        p, q = (self.frequencies(x) for x in (real, made))
        return max(float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2), 0.0)

    def frequencies(self, x: Tensor) -> Tensor:
        """Frequencies of the n-grams, [K^size] in float64, of one-hot data [N,L,K]."""
        require(
            x.ndim == 3 and x.shape[1] >= self.size,
            f"the data have shape {tuple(x.shape)}, but {self.size}-grams need one-hot [N,L,K] with L of at least "
            f"{self.size}; give such data",
        )
        symbol, k = x.argmax(-1), x.shape[-1]
        places = x.shape[1] - self.size + 1
        code = sum(symbol[:, i : i + places] * k ** (self.size - 1 - i) for i in range(self.size))
        assert isinstance(code, Tensor)
        count = torch.bincount(code.flatten().cpu(), minlength=k**self.size).double()
        return count / count.sum()


def entropy(p: Tensor) -> Tensor:
    """-sum p log p, in nats."""
    return -torch.special.xlogy(p, p).sum()
