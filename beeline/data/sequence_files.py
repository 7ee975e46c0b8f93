"""Data sets of symbol sequences: text files, and samples of a Markov chain."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import Inside, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.data.labels import divide, existing
from beeline.data.modality import DataSetBase
from beeline.data.sequences import Sequences


@dataclass(frozen=True)
class SequenceFile(DataSetBase):
    """Sequences from a text file, one per line, all of one length; every character is a symbol.

    A fixed random fraction ``held_out`` of the lines is held out.
    Assumes UTF-8.  Empty lines at the end are ignored.

    >>> SequenceFile("peptides.txt").modality()
    Sequences(alphabet='', length=0)
    """

    path: str  # a text file
    held_out: Inside = 0.1  # held-out fraction, between 0 and 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def modality(self) -> Sequences:
        return Sequences()

    def load(self) -> tuple[list[str], list[str]]:
        """(training, held-out) sequences; ValueError names the file and the line."""
        place = existing(self.path)
        try:
            lines = place.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise BeelineError(f"{place} cannot be read as text ({error}); save it in UTF-8") from error
        require(len(lines) >= 2, f"{place} has {len(lines)} sequences; give at least two, one per line")
        for number, line in enumerate(lines, 1):
            require(
                len(line) == len(lines[0]) and bool(line),
                f"{place}, line {number}: there are {len(line)} symbols where line 1 has {len(lines[0])}, but "
                "sequences have one length; truncate or pad the line",
            )
        train, held = divide(len(lines), self.held_out, str(place))
        known = set().union(*(lines[i] for i in train))
        for i in held:
            new = sorted(set(lines[i]) - known)
            require(
                not new,
                f"{place}, line {i + 1}: the symbol {''.join(new[:1])!r} is in held-out sequences only, so it "
                "cannot be learned; give more sequences with it, or a smaller held_out",
            )
        return [lines[i] for i in train], [lines[i] for i in held]


@dataclass(frozen=True)
class MarkovChain(DataSetBase):
    """Samples of a random Markov chain, whose statistics are known exactly.

    first symbol uniform;  P(k -> l) = softmax_l(sharpness g_kl),  g standard normal with the random key ``seed``

    >>> MarkovChain("AB").ngrams(2).shape
    torch.Size([4])
    """

    symbols: str = "ACGT"  # the alphabet, each character one symbol
    length: int = 8  # symbols of a sequence
    sharpness: NonNegative = 1.5  # 0 for uniform transitions; 1 to 3 is usual
    n: int = 20_000  # training sequences
    kept: int = 5_000  # held-out sequences
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            len(set(self.symbols)) == len(self.symbols) >= 2 and min(self.length, self.n, self.kept) >= 1,
            f"MarkovChain got symbols={self.symbols!r}, length={self.length}, n={self.n}, kept={self.kept}, but "
            "it needs two or more distinct symbols and sizes of 1 or more; give for example 'ACGT' and length=8",
        )

    def modality(self) -> Sequences:
        return Sequences()

    def transitions(self) -> Tensor:
        """The transition probabilities P(k -> l), [K,K] in float64."""
        k = len(self.symbols)
        return torch.softmax(self.sharpness * Rng(self.seed).fork("step").normal(torch.empty(k, k).double()), 1)

    def ngrams(self, size: int) -> Tensor:
        """The exact frequencies [K^size] of n-grams of ``size`` symbols over all positions; see NGramDivergence."""
        step, k = self.transitions(), len(self.symbols)
        here, total = torch.full((k,), 1 / k, dtype=torch.float64), torch.zeros(k**size, dtype=torch.float64)
        for _ in range(self.length - size + 1):
            run = here
            for _ in range(size - 1):
                run = (run.reshape(-1, k)[:, :, None] * step).flatten()
            total, here = total + run, here @ step
        return total / total.sum()

    def load(self) -> tuple[list[str], list[str]]:
        """(training, held-out) sequences."""
        return self._sample("train", self.n), self._sample("held-out", self.kept)

    def _sample(self, name: str, n: int) -> list[str]:
        rng, edges = Rng(self.seed).fork(name), self.transitions().cumsum(1)
        symbol = rng.fork(0).integers(len(self.symbols), n)
        rows = [symbol]
        for i in range(1, self.length):
            u = rng.fork(i).uniform(n, edges)[:, None] * edges[symbol][:, -1:]
            symbol = (edges[symbol] <= u).sum(1).clamp(max=len(self.symbols) - 1)
            rows.append(symbol)
        return ["".join(self.symbols[k] for k in row) for row in torch.stack(rows, 1).tolist()]
