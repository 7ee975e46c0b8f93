"""Sequences of symbols of one length, as one-hot rows: the data of paths on the simplex and of tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import write_text
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.metric import MetricBase
from beeline.data.modality import ModalityBase


@dataclass(frozen=True)
class Sequences(ModalityBase):
    """Texts of one length over an alphabet, every character one-hot.

    x[i, k] = 1 if character i is symbol k, else 0;  back: the symbol with the largest entry
    Assumes at least two symbols, each one character.  A state inside the simplex is not a symbol yet: the classifier of
    a Posterior network has named it before it comes here, where the Sampler drew it.
    Source: none.

    >>> Sequences().fit(["AB", "BB"]).encode(["BA"]).x1
    tensor([[[0., 1.],
             [1., 0.]]])
    """

    alphabet: str = ""  # the symbols in the order of their entries; learned by fitting
    length: Whole = 0  # characters of a text; learned by fitting
    preview_type = "text/html"
    continuous = False
    formats = (".txt",)  # what ``save`` writes

    @property
    def shape(self) -> tuple[int, ...]:
        """(length, symbols), empty before fitting."""
        return (self.length, len(self.alphabet)) if self.alphabet else ()

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        return {}

    def fit(self, raw: Sequence[str]) -> Sequences:
        """A new modality with the alphabet and the length of ``raw``."""
        require(len(raw) > 0, "there are no sequences to learn symbols from; give at least two")
        found = "".join(sorted(set().union(*raw)))
        require(
            len(found) >= 2,
            f"the sequences use the symbols {found!r}; with fewer than two there is nothing to learn: give other data",
        )
        made = replace(self, alphabet=found, length=len(raw[0]))
        made._numbers(raw)
        return made

    def encode(self, raw: Sequence[str], rng: Rng | None = None) -> Batch:
        """One-hot numbers [N,L,K] (float32); ``rng`` is not needed."""
        require(bool(self.alphabet), "sequences were given to a modality that knows no symbols; fit it first")
        return Batch(torch.nn.functional.one_hot(self._numbers(raw), len(self.alphabet)).float())

    def decode(self, x: Tensor) -> list[str]:
        """The texts of the largest entries of [N,L,K]."""
        require(
            x.shape[1:] == self.shape and bool(x.isfinite().all()),
            f"numbers of shape {tuple(x.shape)} were to become sequences of {self.shape or '()'}; give finite [N,L,K] "
            "of that size, from a fitted modality",
        )
        return ["".join(self.alphabet[k] for k in row) for row in x.argmax(-1).tolist()]

    def condition(self, value: Any, n: int) -> Cond:
        require(value is None, f"the condition {value!r} was given, but sequences have no labels here; leave it out")
        return None

    def preview(self, raw: Sequence[str], most: int = 64) -> bytes:
        """An HTML list of the first texts, in letters of one width."""
        lines = "\n".join(html.escape(text) for text in raw[:most])
        return f"<pre>{lines}</pre>\n".encode()

    def save(self, raw: Sequence[str], path: Path) -> None:
        """A text file (.txt), one sequence a line."""
        write_text(path, "".join(f"{text}\n" for text in raw))

    def metrics(self) -> Sequence[Any]:
        """The laws of single symbols and of neighbours."""
        return (Grams(1), Grams(2))[: self.length]

    def _numbers(self, raw: Sequence[str]) -> Tensor:
        """The symbols by number, [N,L]; refused with the place where it cannot be."""
        place = {symbol: k for k, symbol in enumerate(self.alphabet)}
        for row, text in enumerate(raw):
            require(
                len(text) == self.length,
                f"sequence {row} has {len(text)} symbols where others have {self.length}; they share one length: cut "
                "or fill it",
            )
            odd = next((i for i, symbol in enumerate(text) if symbol not in place), None)
            if odd is not None:
                raise BeelineError(
                    f"sequence {row} has {text[odd]!r} as symbol {odd}, which was not learned; "
                    f"{nearest(text[odd], self.alphabet)}"
                )
        return torch.tensor([[place[symbol] for symbol in text] for text in raw]).reshape(len(raw), self.length)


@dataclass(frozen=True)
class Grams(MetricBase):
    """How far apart the laws of runs of ``size`` neighbouring symbols are, over all places of a sequence.

    H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q the frequencies, in nats: 0 for equal laws, ln 2 for disjoint ones
    Assumes one-hot data [N,L,K].  It is biased upwards by about (runs that occur) / (8 places) at finite numbers: look
    at the floor.
    Source: Lin 1991, "Divergence measures based on the Shannon entropy".

    >>> x = torch.eye(2)[torch.tensor([[0, 1]])]
    >>> Grams(1)(x, x, Rng(0))
    0.0
    """

    size: int = 2  # 1 for single symbols, 2 for neighbours

    def __post_init__(self) -> None:
        require(
            isinstance(self.size, int) and self.size >= 1,
            f"Grams got size={self.size!r}; a run has one symbol or more: give 1 or 2",
        )

    @property
    def name(self) -> str:
        known = {1: "divergence of symbols", 2: "divergence of neighbours"}
        return known.get(self.size, f"divergence of {self.size} neighbours")

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "lower"

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float:
        p, q = (self.law(x) for x in (real, made))
        return max(float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2), 0.0)

    def law(self, x: Tensor) -> Tensor:
        """Frequencies of the runs [K^size] in one-hot data, in float64."""
        require(
            x.ndim == 3 and x.shape[1] >= self.size,
            f"runs of {self.size} symbols were to be counted in data of shape {tuple(x.shape)}; give one-hot [N,L,K] "
            "of that length at least",
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
