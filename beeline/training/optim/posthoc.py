"""Post-hoc EMA: averages of any length after training, from stored snapshots of power-function averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.training import checkpoint
from beeline.training.optim.ema import PowerEMA


@dataclass(frozen=True)
class Snapshot:
    """One stored average: its checkpoint directory, tensor group, step and exponent."""

    path: Path
    group: str  # tensor group in the checkpoint
    step: int
    exponent: float


@dataclass(frozen=True)
class Synthesis:
    """An average synthesised from snapshots, their weights, and the error of the fitted profile."""

    state: dict[str, Tensor]  # averaged parameters by name, and the buffers of the last snapshot
    used: list[tuple[Snapshot, float]]
    mismatch: float  # relative distance between the requested and the fitted profile, 0 to 1


def snapshots(root: str | Path, network: str = "network") -> list[Snapshot]:
    """The power-function averages of a network in the checkpoints and snapshots under ``root``.

    Raises BeelineError if there are none.
    """
    root = Path(root)
    found = {}
    for folder in (root / "snapshots", root):
        for path in checkpoint.steps(folder):
            if checkpoint.flaw(path) is not None:
                continue
            state = checkpoint.state(path)
            for i, profile in enumerate(state.get("profiles", [])):
                if profile.get("is") in (PowerEMA.__name__, "Power"):  # "Power" in files of version 0.1
                    group, exponent = f"{network}.ema{i}", PowerEMA(profile["length"]).exponent
                    found[state["step"], i] = Snapshot(path, group, state["step"], exponent)
    require(
        found,
        f"{root} contains no power-function average, so an average of another length cannot be computed; train with "
        "training.ema=[PowerEMA(0.05), PowerEMA(0.1)] and training.snapshot_every",
    )
    return [found[key] for key in sorted(found)]


def synthesise(root: str | Path, length: float, network: str = "network", step: int | None = None) -> Synthesis:
    """The average of ``length`` after ``step`` (default: the last snapshot), as if it had been tracked during training.

    weights x of the snapshots: min |sum_i x_i p_i - p|^2, with p_i(t) = (g_i + 1) t^g_i / t_i^(g_i + 1) on [0, t_i]
    Raises BeelineError if there is no snapshot up to ``step``.
    Source: Karras et al. 2024, EDM2 (arXiv 2312.02696), section 3.2 and appendix C.
    """
    every = snapshots(root, network)
    end = max(s.step for s in every) if step is None else step
    known = [s for s in every if s.step <= end]
    if not known:
        raise BeelineError(
            f"there is no snapshot up to step {end} in {root}; the first snapshot is of step {every[0].step}: "
            "give that step or a later one"
        )
    exponent = PowerEMA(length).exponent
    x, mismatch = weights([(s.step, s.exponent) for s in known], end, exponent)
    state: dict[str, Tensor] = {}
    buffers = f"{network}.buffers/"
    last = {k: torch.empty(s, dtype=d) for k, (s, d) in checkpoint.contents(known[-1].path).items()}
    last = {k: v for k, v in last.items() if k.startswith(buffers)}
    checkpoint.fill(known[-1].path, last)
    for snapshot, weight in zip(known, x, strict=True):
        contents = checkpoint.contents(snapshot.path)
        prefix = f"{snapshot.group}/"
        parts = {k: torch.empty(s, dtype=d) for k, (s, d) in contents.items() if k.startswith(prefix)}
        checkpoint.fill(snapshot.path, parts)
        for key, part in parts.items():
            name = key.removeprefix(prefix)
            total = state.setdefault(name, torch.zeros_like(part, dtype=torch.float64))
            total.add_(part.double(), alpha=float(weight))
    return Synthesis(
        {name: total.float() for name, total in state.items()}
        | {key.removeprefix(buffers): buffer for key, buffer in last.items()},
        [(snapshot, float(weight)) for snapshot, weight in zip(known, x, strict=True)],
        mismatch,
    )


def weights(known: Sequence[tuple[float, float]], end: float, exponent: float) -> tuple[np.ndarray, float]:
    """(weights, error) of the least-squares fit of stored profiles (step, exponent) to ``exponent`` at ``end``."""
    t = np.array([k[0] for k in known], dtype=np.float64)
    g = np.array([k[1] for k in known], dtype=np.float64)
    a = product(t[:, None], g[:, None], t[None], g[None])
    b = product(t, g, float(end), exponent)
    x = np.linalg.lstsq(a, b, rcond=1e-14)[0]
    x = x / x.sum()  # so that averaging constant weights is exact
    norm = float(product(end, exponent, end, exponent))
    error = max(0.0, norm - 2 * float(x @ b) + float(x @ a @ x))
    return x, float(np.sqrt(error / norm))


def product(
    ta: np.ndarray | float, ga: np.ndarray | float, tb: np.ndarray | float, gb: np.ndarray | float
) -> np.ndarray:
    """Inner product of two profiles; times relative to their ends, so that powers do not overflow."""
    ta, ga, tb, gb = (np.asarray(v, dtype=np.float64) for v in (ta, ga, tb, gb))
    short = np.minimum(ta, tb)
    result: np.ndarray = (
        (ga + 1) * (gb + 1) / (ga + gb + 1) * (short / ta) ** ga * (short / tb) ** gb * short / (ta * tb)
    )
    return result
