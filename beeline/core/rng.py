"""Random numbers as values: the same key gives the same numbers, always and everywhere."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beeline.core.types import require


@dataclass(frozen=True)
class Rng:
    """A key, not a generator: reading it twice gives the same numbers; ``fork`` makes an independent one.

    Numbers are drawn on the CPU from a hash of the key and moved to the device of ``like``, so that one key
    means one set of numbers on every device and on any number of processes.  The global random state of torch,
    numpy and Python is neither read nor changed.

    generator = seed of blake2b(seed, names)
    Assumes that the names of a fork say what it is for.
    Source: none; counter-based generators work alike (Salmon et al. 2011, doi 10.1145/2063384.2063405).

    >>> Rng(0).fork("noise", 3).normal(torch.empty(4, 2)).shape
    torch.Size([4, 2])
    """

    seed: int
    path: tuple[int | str | float, ...] = ()

    def fork(self, *names: int | str | float) -> Rng:
        """A new stream, independent of this one and of every fork under other names."""
        return Rng(self.seed, self.path + names)

    def key(self) -> int:
        """The 63-bit integer that this key hashes to."""
        text = repr((int(self.seed), self.path)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

    def generator(self) -> torch.Generator:
        """A fresh CPU generator at the start of this stream, for functions that take one."""
        return torch.Generator().manual_seed(self.key())

    @contextlib.contextmanager
    def ambient(self) -> Iterator[None]:
        """Lend this stream to code that knows only torch's global state (module initialisation, dropout).

        The global state of the CPU, and of the current CUDA device in use, is put back afterwards.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            # torch.manual_seed would queue work for devices that are not in use, at half a millisecond a call
            torch.default_generator.manual_seed(self.key())
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(self.key())
            yield

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, dtype and device of ``like``."""
        made = torch.randn(like.shape, generator=self.generator(), dtype=_working(like.dtype))
        return made.to(like.device, like.dtype)

    def uniform(self, n: int, like: Tensor) -> Tensor:
        """[n] numbers in [0, 1), with the dtype and device of ``like``."""
        return self.fill(like.new_empty(n))

    def fill(self, like: Tensor) -> Tensor:
        """Numbers in [0, 1) with the shape, dtype and device of ``like``."""
        made = torch.rand(like.shape, generator=self.generator(), dtype=_working(like.dtype))
        made = made.to(like.dtype)
        # rounding to a short dtype may reach 1, which is outside the promise
        return made.clamp_(max=1.0 - torch.finfo(like.dtype).eps / 2).to(like.device)

    def integers(self, high: int, n: int) -> Tensor:
        """[n] integers (int64, CPU) in [0, high), with replacement."""
        return torch.randint(high, (n,), generator=self.generator())

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 .. n-1 (int64, CPU)."""
        return torch.randperm(n, generator=self.generator())

    def rows(self, seeds: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal rows [len(seeds), *S] for ``like`` [B, *S]: row i depends on seeds[i] alone."""
        require(len(seeds) > 0, "got no seeds; a batch needs at least one: pass one integer per sample")
        row = like.new_empty(like.shape[1:])
        return torch.stack([self.fork("row", int(seed)).normal(row) for seed in seeds])


def keys_of(x: Tensor) -> list[int]:
    """An integer for every row of ``x`` [B,*S], from its bits: the key of noise that belongs to that row alone."""
    rows = x.detach().cpu().double().contiguous().flatten(1).numpy()
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big") >> 1 for row in rows]


def _working(dtype: torch.dtype) -> torch.dtype:
    require(dtype.is_floating_point, f"random numbers were asked for as {dtype}; ask with a floating point tensor")
    return torch.float64 if dtype == torch.float64 else torch.float32
