"""Stored pairs for a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from beeline.config import build as config
from beeline.core.protocols.training import Distillation
from beeline.core.rng import Rng
from beeline.distillation.store.checks import check_store
from beeline.distillation.store.manifest import read_manifest
from beeline.distillation.store.reading import PairStore, opened
from beeline.fields.flow import Flow
from beeline.runs.bundle import Bundle


def open_pairs(folder: str | Path, teacher: Bundle | Flow | None = None, *, seed: int = 0) -> PairStore:
    """The pairs in a folder as a data source for ``fit``, in an order that ``seed`` determines.

    ``teacher``: with it the pairs are checked: the weights, path and source of the teacher, that x0 is noise of the
    source, and that the teacher's sampler gives the data of a few pairs again.

    Raises BeelineError for a folder without pairs, for an incomplete or damaged store, and for pairs of another
    teacher or path.
    """
    where = Path(folder)
    manifest = read_manifest(where)
    store = opened(where, config.build(manifest.source), config.build(manifest.sampler))
    if teacher is not None:
        check_store(store, teacher.flow if isinstance(teacher, Bundle) else teacher)
    return store.ordered(Rng(seed).fork("order"))


def of_method(method: Distillation, teacher: Flow) -> tuple[PairStore | None, Distillation]:
    """The stored pairs that a method names, checked, and the method with their sampler; (None, method) without any."""
    if method.store is None:
        return None, method
    store = open_pairs(method.store, teacher)
    return store, replace(method, sampler=store.sampler)  # type: ignore[type-var]
