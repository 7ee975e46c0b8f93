"""bfloat16 numbers stored without loss in fewer bits: their exponents in a Huffman code."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Range, dataclass
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format, pack, unpack

LONGEST = 15  # bits of a code word, so that a length takes 4 bits and a table of all windows is small
CHUNK = 256  # numbers whose codes are read one after another; chunks are read side by side


@dataclass(frozen=True)
class EntropyCoded(Format):
    """bfloat16 numbers, bit for bit, with their exponents in a Huffman code.

    number = sign (1 bit) | exponent (8 bits, of which a weight has 2.6 bits of entropy) | mantissa (7 bits)
    A number takes 8 + exponent_bits + 16 / 256 bits, and a layer 128 bytes for the lengths of its code words.  The
    space of the codes is fixed, so that the size of a file is known beforehand; weights whose codes need more are
    refused.  Of float32 weights it stores the nearest bfloat16.  Decoding is slow: use it with ``kept=True``.
    Source: Zhang et al. 2025, DFloat11 (arXiv 2504.11651).  Raises ValueError for weights of longer codes.

    >>> w = torch.tensor([[1.0, -0.5, 0.0, 3.0]]).bfloat16()
    >>> form = EntropyCoded()
    >>> torch.equal(form.decode(form.encode(w), 1, 4), w)
    True
    """

    exponent_bits: Annotated[float, Range(least=1, most=8)] = 3.0  # of space for every number

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        numbers = w.bfloat16().contiguous().view(torch.int16).int() & 0xFFFF
        exponents = (numbers >> 7 & 0xFF).flatten()
        lengths = torch.tensor(code_lengths(exponents.bincount(minlength=256).tolist()), device=w.device)
        sizes = lengths[exponents]
        total, space = int(sizes.sum()), math.ceil(self.exponent_bits * w.numel() / 8)
        require(
            total <= 8 * space,
            f"EntropyCoded got exponent_bits={self.exponent_bits:g} for a weight {list(w.shape)} whose exponents take "
            f"{math.ceil(1000 * total / w.numel()) / 1000:g} bits in their Huffman code: set exponent_bits to this "
            "or more",
        )
        bits = torch.zeros(8 * space, dtype=torch.uint8, device=w.device)
        ends, words = sizes.cumsum(0), code_words(lengths)[exponents]
        for k in range(int(lengths.max())):  # the last bits of all words, those before them, ...
            some = sizes > k
            bits[ends[some] - 1 - k] = (words[some] >> k & 1).to(torch.uint8)
        return {
            "rest": (numbers >> 8 & 0x80 | numbers & 0x7F).to(torch.uint8),
            "codes": pack(bits.view(-1, 8).flip(1), 1).flatten(),
            "chunks": F.pad(sizes, (0, -len(sizes) % CHUNK)).view(-1, CHUNK).sum(1).to(torch.int16),
            "lengths": pack(lengths.to(torch.uint8)[None], 4).flatten(),
            "like": w.new_empty(0),  # with the dtype of the weight, which follows those of the network
        }

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        lengths, codes, rest = unpack(stored["lengths"][None], 4, 256)[0].long(), stored["codes"], stored["rest"].int()
        # every window of LONGEST bits begins with one code word, as canonical words are sorted by length and symbol
        order = (lengths * 256 + torch.arange(256, device=lengths.device)).argsort()[int((lengths == 0).sum()) :]
        repeats = 2 ** (LONGEST - lengths[order])
        symbols = F.pad(order.repeat_interleave(repeats), (0, 2**LONGEST - int(repeats.sum())))
        parts = F.pad(codes.int(), (0, 3))
        windows = parts[:-2] << 16 | parts[1:-1] << 8 | parts[2:]  # 24 bits from every byte on
        sizes = stored["chunks"].long()
        at, found = sizes.cumsum(0) - sizes, []
        for _ in range(min(CHUNK, out * into)):
            byte = (at >> 3).clamp(max=len(codes))  # the last chunk may be shorter
            symbol = symbols[windows[byte].long() >> (24 - LONGEST - (at & 7)) & 2**LONGEST - 1]
            found.append(symbol)
            at = at + lengths[symbol]
        exponents = torch.stack(found, 1).flatten()[: out * into].view(out, into).int()
        numbers = (rest & 0x80) << 8 | exponents << 7 | rest & 0x7F
        return numbers.to(torch.int16).view(torch.bfloat16).to(stored["like"].dtype)


def code_lengths(counts: Sequence[int]) -> list[int]:
    """The lengths of the words of a Huffman code for symbols with these counts; 0 for those that do not occur.

    Counts are halved until no word is longer than LONGEST.
    """
    lengths = [0] * len(counts)
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
        return lengths
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, first, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*left, *right):
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, first, left + right))
    return lengths if max(lengths) <= LONGEST else code_lengths([(count + 1) // 2 for count in counts])


def code_words(lengths: Tensor) -> Tensor:
    """The canonical words [symbols] of a code as integers: those of longer words and later symbols are larger."""
    words, word, before = torch.zeros_like(lengths), 0, 0
    for length, symbol in sorted((n, k) for k, n in enumerate(lengths.tolist()) if n):
        word <<= length - before
        words[symbol] = word
        word, before = word + 1, length
    return words
