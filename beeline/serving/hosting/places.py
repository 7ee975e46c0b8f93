"""Bundles that are loaded when they are asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping

import torch

from beeline.couplings.watermark import TreeRing
from beeline.runs.bundle import Bundle, load
from beeline.runs.editing.watermarks import watermarked


def served(place: str, device: str | torch.device, mark: TreeRing | None = None) -> Bundle:
    """The bundle of a directory or of the hub, with a watermark if one is given."""
    bundle = load(place, device=device)
    return bundle if mark is None else watermarked(bundle, mark)


class Places(Mapping[str, Bundle]):
    """Loads a bundle by its name, unless it is still in use."""

    def __init__(self, loads: Mapping[str, Callable[[], Bundle]]):
        self.loads = loads
        self._living: weakref.WeakValueDictionary[str, Bundle] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> Bundle:
        found = self._living.get(name)
        if found is None:
            found = self._living[name] = self.loads[name]()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.loads)

    def __len__(self) -> int:
        return len(self.loads)
