"""Bundles from the averages of a run: those that were kept beside the first, and lengths made afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from beeline.bundle import Bundle, load
from beeline.core.types import require
from beeline.learn import checkpoint
from beeline.learn.posthoc import Synthesis, synthesise


def with_weights(bundle: Bundle, state: Mapping[str, Tensor], how: dict[str, object]) -> Bundle:
    """A bundle with other weights of the same network; every parameter has to be among them."""
    field = copy.deepcopy(bundle.flow.field)
    own = dict(field.named_parameters())
    missing, left = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    require(
        not missing and not left,
        f"the averaged weights do not fit the network of the bundle: {missing[:3]} are missing, {left[:3]} are too "
        "many; the checkpoints belong to another network: check the directory of the run",
    )
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
    return replace(bundle, flow=replace(bundle.flow, field=field), lineage=bundle.lineage | how)


def network_of(run: Path) -> str:
    """The name of the first network in the checkpoints of a run."""
    path = checkpoint.newest(run / "checkpoints")
    groups = checkpoint.state(path)["groups"]
    averaged = [g.removesuffix(".ema0") for g in groups if g.endswith(".ema0")]
    for name in ("network", "student"):
        if name in averaged:
            return name
    require(averaged, f"the run {run} kept no average; set training.ema, or use the bundle as it is")
    return averaged[0]


def export_averages(run: Path) -> list[Path]:
    """Every average of a run beside the one in its bundle, each as a bundle of its own under ``averages/``."""
    path = checkpoint.newest(run / "checkpoints")
    name, bundle = network_of(run), load(run)
    saved, contents = checkpoint.state(path), checkpoint.contents(path)
    written = []
    for i, profile in enumerate(saved.get("profiles", [])):
        prefix = f"{name}.ema{i}/"
        targets = {k: torch.empty(s, dtype=d) for k, (s, d) in contents.items() if k.startswith(prefix)}
        if i == 0 or not targets:
            continue
        checkpoint.fill(path, targets)
        state = {k.removeprefix(prefix): v for k, v in targets.items()}
        out = run / "averages" / f"{i}-{profile['is'].lower()}"
        with_weights(bundle, state, {"average": profile}).save(out)
        written.append(out)
    return written


def synthesised(run: Path, length: float, step: int | None = None, out: Path | None = None) -> tuple[Path, Synthesis]:
    """The average of a run with a memory of any length, made from its snapshots, as a bundle."""
    require((run / "checkpoints").is_dir(), f"{run} has no checkpoints, so it is not a run; give the directory of one")
    found = synthesise(run / "checkpoints", length, network_of(run), step)
    how: dict[str, object] = {"average": {"is": "Power", "length": length, "synthesised": True}}
    out = out or run / "averages" / f"length-{length:g}"
    with_weights(load(run), found.state, how).save(out)
    return out, found
