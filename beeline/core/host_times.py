"""Times on an accelerator whose values are known on the CPU, so that a decision about them does not synchronise."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_known = WeakTensorKeyDictionary()  # tensor on a device -> its values on the CPU
_lock = threading.Lock()


def set_host_times(t: Tensor, values: Tensor) -> Tensor:
    """Record that ``t`` has the given values, a CPU tensor of its shape; returns ``t``.

    Entries vanish with their tensors.  ``t`` must not be changed in place afterwards.
    """
    if t.device.type != "cpu":
        with _lock:
            _known[t] = values
    return t


def known_host_times(t: Tensor) -> Tensor | None:
    """The recorded values of ``t`` on the CPU, or None; a tensor on the CPU is returned unchanged."""
    return t if t.device.type == "cpu" else _known.get(t)


def host_times(t: Tensor) -> Tensor:
    """The values of ``t`` on the CPU; synchronises only if they were not recorded.

    >>> import torch
    >>> float(host_times(torch.tensor([0.5])))
    0.5
    """
    known = known_host_times(t)
    return t.detach().cpu() if known is None else known


def map_times(fn: Callable[..., Tensor], *times: Tensor) -> Tensor:
    """The times ``fn(*times)``, whose values are recorded if those of ``times`` are."""
    made = fn(*times)
    if made.device.type != "cpu":
        known = [known_host_times(t) for t in times]
        if all(values is not None for values in known):
            set_host_times(made, fn(*known))
    return made


def time_between(t: Tensor, s: Tensor, share: float) -> Tensor:
    """t + share (s - t), a time inside a step; ``s`` itself for a share of 1, because the sum may round beyond it."""
    return s if abs(share - 1) < 1e-12 else map_times(lambda t, s: t + share * (s - t), t, s)
