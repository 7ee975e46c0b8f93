"""Training that ends when held-out data say so."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beeline.core.rng import Rng
from beeline.core.types import require
from beeline.learn.heldout import HeldOut
from beeline.learn.rate import WarmupConstantCooldown
from beeline.learn.trainer import Training, fit


@dataclass(frozen=True)
class Patience:
    """Stop when the held-out loss of the averaged weights has not improved for a while, and cool down from its best.

    best step b = argmin of the looks; stop at b + looks * every; then b / (1 - cooldown) steps in all
    Assumes a rate that does not depend on the number of steps until it cools down, so that the steps from the best
    one on are those of a shorter run.
    Source: Prechelt 1998, "Early stopping - but when?".

    >>> Patience(looks=3).looks
    3
    """

    looks: int = 5  # without improvement
    least: float = 1e-4  # share of the loss by which it has to improve

    def __post_init__(self) -> None:
        require(
            self.looks >= 1 and 0 <= self.least < 1,
            f"Patience got looks={self.looks}, least={self.least}; looks are counted from 1, least is a share below 1",
        )


class _EnoughError(Exception):
    """Raised by the log when the held-out loss has stopped falling."""


def fit_patiently(
    network: Any,
    objective: Any,
    data: Any,
    training: Training,
    *,
    patience: Patience,
    heldout: HeldOut,
    rng: Rng,
    log: Callable[[dict[str, Any]], None] = lambda entry: None,
    keep: str | Path | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """(the network with averaged weights, the looks as step and loss).

    ``training.steps`` is the most it may take.  ``keep`` is where checkpoints go (a temporary directory without).
    """
    looks: list[dict[str, float]] = []
    best = {"step": 0.0, "loss": math.inf, "stale": 0.0}

    def watch(entry: dict[str, Any]) -> None:
        log(entry)
        if "heldout" not in entry:
            return
        kinds = entry["heldout"]
        loss = float((kinds.get("ema") or kinds["raw"])["value"])
        looks.append({"step": entry["step"], "loss": loss})
        if loss < best["loss"] * (1 - patience.least):
            best.update(step=entry["step"], loss=loss, stale=0)
            return
        best["stale"] += 1
        if best["stale"] >= patience.looks and entry["step"] < training.steps:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as spare:
        root = Path(keep) if keep is not None else Path(spare)
        how = replace(training, keep_every=heldout.every, keep_last=patience.looks + 2)
        try:
            return fit(network, objective, data, how, rng=rng, log=watch, keep=root, heldout=heldout), looks
        except _EnoughError:
            at = int(best["step"])
        share = how.rate.cooldown if isinstance(how.rate, WarmupConstantCooldown) else 0.0
        total = max(at + 1, round(at / (1 - min(share, 0.9))))
        log({"step": at, "note": f"held-out loss is lowest after step {at}; cooling down from there to step {total}"})
        start = root / f"step-{at:08d}"
        shorter = replace(how, steps=total)
        return fit(network, objective, data, shorter, rng=rng, log=log, keep=root, resume=start), looks
