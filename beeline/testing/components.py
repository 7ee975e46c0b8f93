"""Checks of what every component has, of objectives and of modalities."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.config.catalogue import name_of
from beeline.core.declared import check_members
from beeline.core.protocols import data, editing, flows, games, maps, objectives, steering, training
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.networks.adapters import amounts, delta, merges
from beeline.networks.adapters.members import mixture
from beeline.networks.branches import branch
from beeline.networks.compressing import compressor, formats
from beeline.networks.compressing.removal import blocks, scores
from beeline.networks.controls import control, hints
from beeline.objectives.subsets import draws

PROTOCOLS: Mapping[str, type] = {
    "adversarial_losses": games.AdversarialLoss,
    "amounts": amounts.Amount,
    "averages": training.Profile,
    "branches": branch.Branch,
    "clocks": flows.Clock,
    "condition_encoders": data.ConditionEncoder,
    "controls": control.Control,
    "controllers": steering.Controller,
    "couplings": flows.Coupling,
    "block_choices": blocks.BlockChoice,
    "compressors": compressor.Compressor,
    "data": data.DataSet,
    "deltas": delta.Delta,
    "derivatives": objectives.Derivative,
    "diffusions": flows.Diffusion,
    "distillations": training.Distillation,
    "divergences": flows.Divergence,
    "energies": steering.Energy,
    "edit_regions": editing.EditRegion,
    "edits": editing.Edit,
    "f_divergences": games.FDivergence,
    "formats": formats.Format,
    "gates": mixture.Gate,
    "generations": games.Generation,
    "gradients": flows.Gradient,
    "hints": hints.Hint,
    "identities": maps.Identity,
    "guidance": flows.Guidance,
    "guided_students": games.GuidedStudent,
    "inversions": editing.Inversion,
    "latents": flows.Latent,
    "layer_operations": editing.LayerOperation,
    "lr_schedules": training.LRSchedule,
    "merges": merges.Merge,
    "modalities": data.Modality,
    "noises": flows.NoiseProcess,
    "noisings": games.Noising,
    "objectives": objectives.Objective,
    "optimizers": training.Optimizer,
    "pair_filters": training.PairFilter,
    "part_draws": draws.PartDraws,
    "paths": flows.Path,
    "predictions": flows.Prediction,
    "real_samples": games.RealSamples,
    "references": flows.Reference,
    "rules": flows.Rule,
    "schedules": flows.Schedule,
    "score_weights": games.ScoreWeight,
    "solvers": flows.Solver,
    "sources": flows.Source,
    "spaces": flows.Space,
    "spans": maps.Spans,
    "splits": maps.Split,
    "student_terms": games.StudentTerm,
    "thresholds": editing.Threshold,
    "times": flows.TimeSampler,
    "unit_scores": scores.UnitScore,
    "velocities": maps.VelocitySource,
}
"""Kind of component -> the minimal protocol that its members have."""


def check(condition: object, message: str) -> None:
    """Raise AssertionError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(message)


@contextlib.contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Fail if the block changes the global random state of torch, numpy or Python."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index,union-attr]
    yield
    check(torch.equal(before[0], torch.get_rng_state()), "torch's global random state was changed; use the Rng")
    check((before[1] == np.random.get_state()[1]).all(), "numpy's global random state was changed; use the Rng")  # type: ignore[index]
    check(before[2] == random.getstate(), "Python's global random state was changed; use the Rng")


def check_component(part: Any, kind: str | None = None) -> None:
    """Check that a component is immutable, has the members of its protocol and is rebuilt from its description.

    ``kind`` is a kind of the catalogue, such as "solvers"; it is found for registered components.  A component that is
    not registered is not described.  AssertionError names the missing member with its signature.

    >>> from beeline.times.samplers import LogitNormal
    >>> check_component(LogitNormal(0.5))
    """
    full, cls = name_of(part), type(part)
    kind = kind or (full or "").rpartition(".")[0]
    if not isinstance(part, nn.Module) and dataclasses.is_dataclass(part):
        frozen = cls.__dataclass_params__.frozen
        check(frozen, f"{cls.__name__} can be changed while it is used; decorate it with @dataclass(frozen=True)")
    if kind in PROTOCOLS:
        try:
            check_members(part, PROTOCOLS[kind], "define it")
        except ValueError as error:
            raise AssertionError(str(error)) from None
    if full is None:
        return
    with unchanged_random_state():
        described = config.describe(part)
        with Rng(0).ambient():
            again = config.build(described)
    check(_same(again, part), f"{full} is {part!r}, but {again!r} after describe and build; compare its settings")
    check(config.describe(again) == described, f"{full} has another description after describe and build")
    check(json.loads(json.dumps(described)) == described, f"the description of {full} is not plain data: {described}")


def _same(a: Any, b: Any) -> bool:
    """Equality; of networks, equality of their class and of the names and shapes of their tensors."""
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (a, b)]
        return type(a) is type(b) and shapes[0] == shapes[1]
    return bool(a == b)


def check_objective(objective: Any, network: nn.Module, batch: Batch) -> None:
    """Check the loss of an objective: finite, differentiable, one value per sample, and determined by the key."""
    with unchanged_random_state():
        loss, again, other = (objective(network, batch, Rng(seed)) for seed in (0, 0, 1))
    n = len(batch.x1)
    check(loss.value.ndim == 0 and torch.isfinite(loss.value), f"the loss is {loss.value}; it is one finite number")
    check(tuple(loss.per_sample.shape) == (n,), f"per_sample has shape {tuple(loss.per_sample.shape)}, not ({n},)")
    check(len(loss.t) == n, f"t has {len(loss.t)} times for {n} samples")
    check(torch.equal(loss.value, again.value), "the loss changes from call to call with one key; use the Rng alone")
    check(not torch.equal(loss.t, other.t), "the times do not depend on the key; sample them from the Rng")
    gradients = torch.autograd.grad(loss.value, list(network.parameters()), allow_unused=True)
    used = [g for g in gradients if g is not None]
    check(used, "the loss has no gradient in any weight of the network")
    check(all(torch.isfinite(g).all() for g in used), "a gradient of the loss is not finite")


def check_modality(modality: Any, raw: Any, equal: Callable[[Any, Any], bool] | None = None) -> None:
    """Check that a modality that is fitted to ``raw`` encodes it to the declared shape and decodes it to itself.

    ``equal(raw, decoded)`` compares data; by default numbers may differ by 1e-5.
    """
    fitted = modality.fit(raw)
    batch = fitted.encode(raw)
    shape = tuple(batch.x1.shape[1:])
    check(shape == tuple(fitted.shape), f"encode gives data of shape {shape}, but the modality declares {fitted.shape}")
    check(torch.isfinite(batch.x1).all(), "encode gives numbers that are not finite")
    decoded = fitted.decode(batch.x1)
    check((equal or _equal)(raw, decoded), f"decode(encode(raw)) is {decoded!r}, but raw is {raw!r}")
    check_component(fitted, "modalities")


def _equal(a: Any, b: Any) -> bool:
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        values = [(vars(a)[f.name], vars(b)[f.name]) for f in dataclasses.fields(a)]
        return all(_equal(x, y) for x, y in values if x is not None and y is not None)
    if isinstance(a, Tensor | np.ndarray) or isinstance(b, Tensor | np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        if x.dtype.kind in "biuf" and y.dtype.kind in "biuf":
            return x.shape == y.shape and bool(np.allclose(x, y, atol=1e-5))
        return bool(np.array_equal(x, y))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    found: Any = a.equals(b) if type(a).__name__ == "DataFrame" else a == b
    return bool(found)
