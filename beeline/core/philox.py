"""Philox4x64-10: random words as a function of a key and a counter, the same on every device.

Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (doi 10.1145/2063384.2063405).
Words are int64 tensors that hold the bits of unsigned numbers.  On the CPU numpy's generator computes long streams, on
CUDA a kernel that torch compiles at its first use; everywhere else, and for many short streams on the CPU, the rounds
are tensor operations on the device.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Key: TypeAlias = tuple[int, int]  # two unsigned 64-bit words
Pieces: TypeAlias = Iterator[Tensor]

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW, _WORD = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_LONG, _FEW = 512, 64  # words of a row from which, and rows up to which, numpy is faster than tensor operations
_KERNEL = """template <typename T>
void philox(T block, T row, T kind, T key0, T key1, T& w0, T& w1, T& w2, T& w3) {
    unsigned long long c0 = block, c1 = row, c2 = kind, c3 = 0, k0 = key0, k1 = key1;
    for (int i = 0; i < 10; ++i) {
        unsigned long long h0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), l0 = 0xD2E7470EE14C6C93ull * c0;
        unsigned long long h1 = __umul64hi(0xCA5A826395121157ull, c2), l1 = 0xCA5A826395121157ull * c2;
        c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
        k0 += 0x9E3779B97F4A7C15ull; k1 += 0xBB67AE8584CAA73Bull;
    }
    w0 = c0; w1 = c1; w2 = c2; w3 = c3;
}"""
_CHUNK = 1 << 16  # numbers computed at once on a CPU, so that intermediate values stay in its cache


def words(key: Key, rows: Tensor | None, n: int, device: torch.device) -> Pieces:
    """Words [R, n] in pieces one after another in memory.  Row i is a function of ``key`` and rows[i] alone.

    ``rows`` is int64 [R]; None is one row that no number of ``rows`` gives.
    """
    count = 1 if rows is None else len(rows)
    if device.type == "cpu" and (n >= _LONG or count <= _FEW):
        for row in [None] if rows is None else rows.tolist():
            stream = _numpy(key, row)
            for start in range(0, max(n, 1), _CHUNK):
                yield torch.from_numpy(stream.random_raw(min(_CHUNK, n - start)).view(np.int64))[None]
        return
    together = max(1, _CHUNK // max(n, 1)) if device.type == "cpu" else max(count, 1)
    for part in [None] if rows is None else rows.to(device).split(together):
        yield _block(key, part, n, device)


def _numpy(key: Key, row: int | None) -> np.random.Philox:
    # the first of the four words of the counter numbers the blocks; numpy counts on before its first block
    counter = np.array([0, 0, 0, 0] if row is None else [0, row & _WORD, 1, 0], dtype=np.uint64)
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)


def _block(key: Key, rows: Tensor | None, n: int, device: torch.device) -> Tensor:
    """Words [R, n] (R = 1 without rows) on ``device``."""
    blocks = torch.arange(1, -(-n // 4) + 1, dtype=torch.int64, device=device)[None]
    row = torch.zeros_like(blocks[:, :1]) if rows is None else rows[:, None]
    rounds = _compiled() if device.type == "cuda" else _rounds
    state = rounds(blocks, row, int(rows is not None), *map(_signed, key))
    return torch.stack(torch.broadcast_tensors(*state), -1).flatten(1)[:, :n]


def _rounds(block: Tensor, row: Tensor, kind: int, key0: int, key1: int) -> tuple[Tensor, ...]:
    """The four words of every block, [R, blocks] or shapes that broadcast to it, by 450 tensor operations."""
    state = (block, row, torch.full_like(block, kind), torch.zeros_like(block))
    for i in range(10):
        k0, k1 = ((k + i * weyl) & _WORD for k, weyl in zip((key0, key1), _WEYL, strict=True))
        high0, low0 = _multiplied(state[0], _MULTIPLIERS[0])
        high1, low1 = _multiplied(state[2], _MULTIPLIERS[1])
        state = (high1 ^ state[1] ^ _signed(k0), low1, high0 ^ state[3] ^ _signed(k1), low0)
    return state


@functools.cache
def _compiled() -> Callable[..., Any]:
    """``_rounds`` as one CUDA kernel; ``_rounds`` itself where torch cannot compile it."""
    try:
        made = torch.cuda.jiterator._create_multi_output_jit_fn(_KERNEL, 4, kind=0, key0=0, key1=0)

        def kernel(block: Tensor, row: Tensor, kind: int, key0: int, key1: int) -> Any:
            with torch.cuda.device(block.device):
                return made(block, row, kind=kind, key0=key0, key1=key1)

        block, row = torch.arange(1, 4, device="cuda")[None], torch.tensor([[-5], [7]], device="cuda")
        tried = [rounds(block, row, 1, -3, 1 << 62) for rounds in (kernel, _rounds)]
        if all(torch.equal(*pair) for pair in zip(*(torch.broadcast_tensors(*words) for words in tried), strict=True)):
            return kernel
        reason = "it gives other numbers"
    except (RuntimeError, AttributeError, AssertionError) as error:  # the interface of torch is in beta
        reason = str(error)
    warnings.warn(
        f"the CUDA kernel of random numbers is not used, which makes small steps slower: {reason}", stacklevel=2
    )
    return _rounds


def _multiplied(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The high and low word of the unsigned 128-bit product of ``a`` and ``m``."""
    a0, a1, m0, m1 = a & _LOW, (a >> 32) & _LOW, m & _LOW, m >> 32
    p00, p01, p10 = a0 * m0, a0 * m1, a1 * m0
    middle = ((p00 >> 32) & _LOW) + (p01 & _LOW) + (p10 & _LOW)
    high = a1 * m1 + ((p01 >> 32) & _LOW) + ((p10 >> 32) & _LOW) + (middle >> 32)
    return high, a * _signed(m)  # int64 products wrap around


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def uniform(key: Key, rows: Tensor | None, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers [R, n] in [0, 1) with 53 random bits, rounded to ``dtype``; one word a number."""
    below = 1.0 - torch.finfo(dtype).eps / 2  # rounding to a short dtype may reach 1

    def made(word: Tensor) -> Tensor:
        return ((word >> 11) & ((1 << 53) - 1)).double().mul_(2.0**-53).to(dtype).clamp_(max=below)

    return _joined(map(made, words(key, rows, n, device)), 1 if rows is None else len(rows))


def normal(key: Key, rows: Tensor | None, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal numbers [R, n] by the transform of Box and Muller; one word a pair, 32 bits for each uniform."""

    def made(word: Tensor) -> Tensor:
        half = word.contiguous().view(torch.int32).view(*word.shape, 2)
        radius = (half[..., 0] & 0x7FFFFFFF).to(dtype).add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()  # at most 6.7
        angle = half[..., 1].to(dtype).mul_(math.pi * 2.0**-31)
        return torch.stack([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1).flatten(-2)

    return _joined(map(made, words(key, rows, (n + 1) // 2, device)), 1 if rows is None else len(rows))[:, :n]


def _joined(pieces: Iterator[Tensor], count: int) -> Tensor:
    parts = list(pieces)
    return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts]).view(count, -1)
