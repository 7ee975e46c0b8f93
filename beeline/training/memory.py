"""Memory: peak of tensors allocated in a block of code, and peak memory of a process or device."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tracker(TorchDispatchMode):
    """Context manager that counts the bytes of tensors allocated inside it; ``peak`` is the maximum.

    Tensors allocated before are not counted, nor is scratch memory inside kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(t) for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor) and _key(tensor) not in inputs:
                self._add(tensor)
        return outputs

    def _add(self, tensor: Tensor) -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # subclasses without storage
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._known:
                return
            self._known[key] = storage.nbytes()
            self.live += self._known[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def _key(tensor: Tensor) -> int:
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return -1


class Peak:
    """Peak memory from now on: of the CUDA device, or of the process relative to its present size.

    ``held`` bytes were allocated before and are added.  Memory between ``pause`` and ``resume`` is ignored, so that
    callbacks do not count.
    """

    def __init__(self, device: torch.device, held: int = 0):
        self.device, self._most = device, 0
        _give_back()
        self._before = _status("VmRSS") - held  # CUDA counts earlier allocations itself
        self.resume()

    def resume(self) -> None:
        """Start or continue measuring."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):  # reset the peak; without permission the peak is an upper bound
            Path("/proc/self/clear_refs").write_text("5")

    def pause(self) -> None:
        """Stop measuring until ``resume``."""
        self._most = self.bytes()

    def bytes(self) -> int:
        """The peak in bytes; 0 where the system does not report it."""
        if self.device.type == "cuda":
            return max(self._most, int(torch.cuda.max_memory_allocated(self.device)))
        return max(self._most, _status("VmHWM") - self._before)


def _give_back() -> None:
    """Return freed memory to the system, where it can be: what a plan has freed would count as held before."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory that the process holds now; 0 where the system does not report it."""
    return _status("VmRSS")


def _status(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def size(count: float) -> str:
    """A number of bytes as text, such as "1.5 KiB"."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
