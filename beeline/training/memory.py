"""Memory: what tensors take while a step is computed, and what a process has taken at most."""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tracker(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while this lasts, as they come and go: ``peak`` is the most.

    Tensors that were there before are not counted; scratch memory inside kernels is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(t) for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and _key(tensor) not in inputs:
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # wrappers without memory of their own
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._known:
                return
            self._known[key] = storage.nbytes()
            self.live += self._known[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def _key(tensor: Tensor) -> int:
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return -1


class Peak:
    """The most memory that is taken from now on: of the device, or of the process beyond what it has now.

    ``held`` bytes were taken before and count too.  ``pause`` leaves out what happens until ``go``: a look at the
    networks is not a step.
    """

    def __init__(self, device: torch.device, held: int = 0):
        self.device, self._most = device, 0
        self._before = _status("VmRSS") - held  # a device counts what was there by itself
        self.go()

    def go(self) -> None:
        """Count again."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with contextlib.suppress(OSError):  # forget the earlier peak; where that is not allowed the peak is too high
            Path("/proc/self/clear_refs").write_text("5")

    def pause(self) -> None:
        """Stop counting."""
        self._most = self.bytes()

    def bytes(self) -> int:
        """Bytes; 0 where the system does not say."""
        if self.device.type == "cuda":
            return max(self._most, int(torch.cuda.max_memory_allocated(self.device)))
        return max(self._most, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def size(count: float) -> str:
    """A number of bytes in words."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
