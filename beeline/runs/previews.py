"""Previews of a training, and its predicted memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from beeline.core.modes import eval_mode
from beeline.core.rng import Rng
from beeline.core.types import take
from beeline.runs.bundle import Bundle
from beeline.training.callbacks import Previews
from beeline.training.config import Training
from beeline.training.plan import plan

if TYPE_CHECKING:  # a run imports this module
    from beeline.runs.run import Prepared


def predicted_peak(work: Prepared, training: Training, rng: Rng) -> int | None:
    """The predicted peak of memory in bytes; None where a trial step fails."""
    try:
        return plan(work.networks, work.objective, work.data, training, rng=rng, trial=0).peak
    except RuntimeError:  # the run itself raises it
        return None


def previews(work: Prepared, folder: Path, every: int, writes: bool, limited: bool) -> list[Previews]:
    """Previews of the raw and the averaged network, from fixed noise and held-out conditions."""
    networks = work.networks if isinstance(work.networks, Mapping) else {"network": work.networks}
    if len(networks) > 1 or work.heldout is None:
        return []  # which of them samples is known after training only

    def bundle(net: Any) -> Bundle:
        return work.finish({name: net for name in networks} if isinstance(work.networks, Mapping) else net)

    shown = bundle(next(iter(networks.values())))
    kind = {"image/png": "png", "text/html": "html"}.get("" if shown.modality is None else shown.modality.preview_type)
    if kind is None:
        return []
    modality = shown.modality
    assert modality is not None
    some = take(work.heldout.data, torch.arange(min(modality.previewed, len(work.heldout.data.x1))))
    real = modality.decode(work.rows[: modality.previewed].cpu())

    def render(net: Any) -> bytes:
        sampled = bundle(net)
        x1 = sampled.draw(sampled.start(range(len(some.x1))), some.cond)
        image: bytes = modality.preview_beside(modality.decode(x1.cpu()), real)
        return image

    two = take(some, torch.arange(min(2, len(some.x1))))
    with eval_mode(shown.flow.field):  # a sampler that cannot work is refused before the training
        shown.draw(shown.start(range(len(two.x1))), two.cond)
    return [Previews(render, folder, every, kind, writes, limited)]
