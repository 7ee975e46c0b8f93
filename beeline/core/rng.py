"""Random numbers as values: the same key gives the same numbers, always and everywhere."""

from __future__ import annotations

import contextlib
import hashlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core import philox
from beeline.core.errors import BeelineError, require


@dataclass(frozen=True)
class Rng:
    """A key, not a generator: reading it twice gives the same numbers; ``fork`` returns an independent one.

    Numbers are computed on the device of ``like``.  A key gives the same numbers on every device, in every dtype (to
    rounding) and on any number of processes.  The global random state of torch, numpy and Python is neither read nor
    changed.

    words = Philox4x64(key = blake2b(seed, names), counter)
    Assumes that the names of a fork say what it is for.  Equal numbers are the same name; a float counts in float32.
    Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (doi 10.1145/2063384.2063405).

    >>> Rng(0).fork("noise", 3).normal(torch.empty(4, 2)).shape
    torch.Size([4, 2])
    """

    seed: int  # any whole number
    path: tuple[int | str | float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", _whole(self.seed, "the seed of an Rng"))
        object.__setattr__(self, "path", tuple(_name(part) for part in self.path))

    def fork(self, *names: int | str | float) -> Rng:
        """A new stream, independent of this one and of every fork under other names."""
        return Rng(self.seed, self.path + names)

    def words(self) -> tuple[int, int]:
        """The two unsigned 64-bit words that this key hashes to."""
        digest = hashlib.blake2b(repr((self.seed, self.path)).encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")

    def key(self) -> int:
        """A 63-bit integer from this key, as a seed for other libraries."""
        return self.words()[0] >> 1

    def generator(self) -> torch.Generator:
        """A fresh CPU generator at the start of this stream, for functions that take one."""
        generator = torch.Generator()
        generator.set_state(self._mersenne(generator.get_state()))
        return generator

    @contextlib.contextmanager
    def ambient(self) -> Iterator[None]:
        """Seed torch's global generators inside this block, for code that knows only these (initialisation, dropout).

        The states of the CPU and of all CUDA devices, where CUDA is in use, are restored afterwards.
        """
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            # torch.manual_seed would queue work for devices that are not in use, at half a millisecond a call
            torch.default_generator.set_state(self._mersenne(torch.default_generator.get_state()))
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(self.key())
            yield

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, dtype and device of ``like``."""
        made = philox.normal(self.words(), None, like.numel(), _working(like.dtype), like.device)
        return made.view(like.shape).to(like.dtype)

    def uniform(self, n: int, like: Tensor) -> Tensor:
        """[n] numbers in [0, 1), with the dtype and device of ``like``."""
        return self.fill(like.new_empty(n))

    def fill(self, like: Tensor) -> Tensor:
        """Numbers in [0, 1) with the shape, dtype and device of ``like``."""
        _working(like.dtype)
        return philox.uniform(self.words(), None, like.numel(), like.dtype, like.device).view(like.shape)

    def integers(self, high: int, n: int) -> Tensor:
        """[n] integers (int64, CPU) in [0, high), with replacement."""
        return self._draws(n).mul_(high).long().clamp_(max=high - 1)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 .. n-1 (int64, CPU)."""
        return self._draws(n).argsort(stable=True)

    def rows(self, seeds: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal rows [len(seeds), *S] for ``like`` [B, *S]: row i depends on seeds[i] alone.

        Seeds are whole numbers of at most 64 bits; different ones never share a part of a stream.
        """
        require(len(seeds) > 0, "got no seeds; a batch needs at least one: pass one integer per sample")
        shape = like.shape[1:]
        made = philox.normal(self.words(), _column(seeds), shape.numel(), _working(like.dtype), like.device)
        return made.view(len(seeds), *shape).to(like.dtype)

    def _draws(self, n: int) -> Tensor:
        return philox.uniform(self.words(), None, n, torch.float64, torch.device("cpu"))[0]

    def _mersenne(self, state: Tensor) -> Tensor:
        """The state of a CPU generator, seeded with all bits of this key; a seed of its own has only 32."""
        state, raw = state.clone(), np.random.Philox(key=np.array(self.words(), dtype=np.uint64)).random_raw(312)
        raw[0] |= np.uint64(1 << 31)  # a state of zeros alone would stay there
        view = state.numpy()
        view[0:8] = np.array([self.words()[0]], dtype=np.uint64).view(np.uint8)  # initial_seed()
        view[8:24] = np.array([1, 1, 0, 0], dtype=np.int32).view(np.uint8)  # one number left, seeded, next = 0
        view[24 : 24 + 8 * 624] = raw.view(np.uint32).astype(np.uint64).view(np.uint8)
        view[24 + 8 * 624 :] = 0  # no normal number kept from before
        return state


def _whole(value: object, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise BeelineError(f"{what} is {value!r}, which is not a whole number; give one, for example 0") from None


def _name(part: Any) -> int | str | float:
    """A part of a key: text, or a number in the form that all equal numbers share."""
    if isinstance(part, str):
        return str(part)
    if isinstance(part, float | np.floating):
        short = float(np.float32(part))
        return int(short) if short.is_integer() else short
    return _whole(part, "a name of a fork")


def _column(seeds: Sequence[int]) -> Tensor:
    whole = [_whole(seed, "a seed") for seed in seeds]
    for seed in (min(whole), max(whole)):
        require(-(2**63) <= seed < 2**64, f"a sample was given the seed {seed}; seeds of samples have at most 64 bits")
    return torch.from_numpy(np.array([seed & (2**64 - 1) for seed in whole], dtype=np.uint64).view(np.int64))


def keys_of(x: Tensor) -> list[int]:
    """An integer for every row of ``x`` [B,*S], from its bits: the key of noise that belongs to that row alone."""
    rows = x.detach().cpu().double().contiguous().flatten(1).numpy()
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big") >> 1 for row in rows]


def _working(dtype: torch.dtype) -> torch.dtype:
    require(
        dtype.is_floating_point,
        f"random numbers were requested as {dtype}, which is no floating-point type; give a floating-point tensor",
    )
    return torch.float64 if dtype == torch.float64 else torch.float32
