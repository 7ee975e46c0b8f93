"""Associative scans in plain torch: work and memory grow with the number of tokens, with forward derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]


def scan(combine: Callable[[Parts, Parts], Parts], parts: Parts) -> Parts:
    """The combinations of parts 1 to i along the second dimension [B,N,...], for all i.

    ``combine`` (earlier, later) is associative.  Pairs are combined, scanned, and the others follow of them: at most
    2 N combinations in 2 log2 N rounds.
    Source: Blelloch 1990, "Prefix sums and their applications".
    """
    n = parts[0].shape[1]
    if n == 1:
        return parts
    first, second = tuple(p[:, 0::2] for p in parts), tuple(p[:, 1::2] for p in parts)
    half = n // 2
    pairs = scan(combine, combine(tuple(p[:, :half] for p in first), second))
    last = (n - 1) // 2
    rest = combine(tuple(p[:, :last] for p in pairs), tuple(p[:, 1:] for p in first)) if last else ()
    found = []
    for i, (p, pair) in enumerate(zip(first, pairs, strict=True)):
        odd = torch.cat([p[:, :1], rest[i]], 1) if last else p[:, :1]
        both = torch.stack([odd[:, :half], pair], 2).flatten(1, 2)
        found.append(torch.cat([both, odd[:, half:]], 1) if n % 2 else both)
    return tuple(found)


def recurrence(decay: Tensor, x: Tensor) -> Tensor:
    """s_i = decay_i s_{i-1} + x_i with s_0 = 0, for decay and x [B,N,...]."""

    def combine(one: Parts, two: Parts) -> Parts:
        return one[0] * two[0], two[0] * one[1] + two[1]

    return scan(combine, (decay, x))[1]


def before(x: Tensor) -> Tensor:
    """x_{i-1} along the second dimension, with a zero at first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
