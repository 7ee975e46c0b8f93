"""Bundles of the averages of a run: those beside the first, and averages of any length from its snapshots."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.files import match
from beeline.runs.bundle import Bundle, load
from beeline.training import checkpoint
from beeline.training.optim.posthoc import Synthesis, synthesise


def with_weights(bundle: Bundle, state: Mapping[str, Tensor], how: dict[str, object]) -> Bundle:
    """A bundle with other weights of the same network; every parameter has to be among them, and buffers may be."""
    field = copy.deepcopy(bundle.flow.field)
    own = dict(field.named_parameters())
    missing, left = sorted(set(own) - set(state)), sorted(set(state) - set(own) - set(dict(field.named_buffers())))
    require(
        not missing and not left,
        f"the averaged weights do not fit the network of the bundle: {missing[:3]} are missing, {left[:3]} are too "
        "many; the checkpoints belong to another network: check the directory of the run",
    )
    with torch.no_grad():
        for name, p in (own | dict(field.named_buffers())).items():
            if name in state:
                p.copy_(state[name])
    return replace(bundle, flow=replace(bundle.flow, field=field), lineage=bundle.lineage | how)


def network_of(run: Path) -> str:
    """The name of the first network in the checkpoints of a run that has an average."""
    path = checkpoint.newest(run / "checkpoints")
    groups = checkpoint.state(path)["groups"]
    averaged = [g.removesuffix(".ema0") for g in groups if g.endswith(".ema0")]
    for name in ("network", "student"):
        if name in averaged:
            return name
    require(averaged, f"the run {run} kept no average; set training.ema, or use the bundle as it is")
    return averaged[0]


def stored(path: Path, group: str) -> dict[str, Tensor]:
    """The tensors of one group of a checkpoint by name; empty where there is no such group."""
    prefix = f"{group}/"
    targets = {k: torch.empty(s, dtype=d) for k, (s, d) in checkpoint.contents(path).items() if k.startswith(prefix)}
    checkpoint.fill(path, targets)
    return {k.removeprefix(prefix): v for k, v in targets.items()}


def export_averages(run: Path) -> list[Path]:
    """Every average of a run beside the one in its bundle, each as a bundle of its own under ``averages/``."""
    path = checkpoint.newest(run / "checkpoints")
    profiles = checkpoint.state(path).get("profiles", [])
    if len(profiles) < 2:  # none beside the one in the bundle
        return []
    name, bundle = network_of(run), load(run, device="cpu")
    whole = dict(bundle.flow.field.named_parameters()) | stored(path, name)  # checkpoints lack frozen parameters
    written = []
    for i, profile in enumerate(profiles):
        state = stored(path, f"{name}.ema{i}")
        if i == 0 or not state:
            continue
        out = run / "averages" / f"{i}-{profile['is'].lower()}"
        with_weights(bundle, whole | state, {"average": profile}).save(out)
        written.append(out)
    return written


def synthesised(run: Path, length: float, step: int | None = None, out: Path | None = None) -> tuple[Path, Synthesis]:
    """The average of a run with a memory of any length, computed from its snapshots, as a bundle."""
    require((run / "checkpoints").is_dir(), f"{run} has no checkpoints, so it is not a run; give the directory of one")
    name = network_of(run)
    found = synthesise(run / "checkpoints", length, name, step)
    bundle = load(run, device="cpu")
    whole = dict(bundle.flow.field.named_parameters()) | stored(checkpoint.newest(run / "checkpoints"), name)
    how: dict[str, object] = {"average": {"is": "Power", "length": length, "synthesised": True}}
    out = out or run / "averages" / f"length-{length:g}"
    with_weights(bundle, whole | found.state, how).save(out)
    return out, found


def difference(tuned: Bundle, base: Bundle) -> dict[str, Tensor]:
    """What training added to the weights of ``base``: a plug-in for other models that were tuned from the same base.

    delta = weights of tuned - weights of base;  ``beeline.core.files.write_tensors`` stores it
    Source: Yan et al. 2024, PeRFlow (arXiv 2405.07510).
    """
    after, before = (dict(bundle.flow.field.named_parameters()) for bundle in (tuned, base))
    match(_sizes(before), _sizes(after), "the tuned bundle")
    with torch.no_grad():
        return {name: p.double().sub(before[name].to(p.device).double()).float() for name, p in after.items()}


def with_delta(bundle: Bundle, delta: Mapping[str, Tensor], scale: float = 1.0) -> Bundle:
    """A bundle whose weights are moved by ``scale`` times a difference; it has to be one of the same network."""
    own = dict(bundle.flow.field.named_parameters())
    match(_sizes(own), _sizes(delta), "the difference of weights")
    with torch.no_grad():
        moved = {name: p.double() + scale * delta[name].to(p.device).double() for name, p in own.items()}
    return with_weights(bundle, moved, {"delta": {"scale": scale}})


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in weights.items()}
