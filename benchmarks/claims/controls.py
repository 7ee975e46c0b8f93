"""Shared by the claims about controls: a small transformer of digits that follows hints made from digits."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

import beeline as bl
from beeline.networks.controls.control import Control
from beeline.networks.controls.hints import Hint
from beeline.networks.controls.with_control import controlled, controls_of
from benchmarks.claims.small_transformers import MATCHING, digits, same, transformer
from benchmarks.claims.toys import learn

BASE, STEPS, RATE = 200, 120, 3e-3
COUNT = 128  # held-out digits whose hints are given


@functools.cache
def base(seed: int) -> Any:
    """A flow of digits without labels."""
    rng = same(bl.Rng(seed))
    return learn(transformer(rng), MATCHING, digits()[0], rng.fork("controls"), steps=BASE, batch_size=64)


def taught(seed: int, control: Control, hint: Hint, name: str = "hint", steps: int = STEPS) -> Any:
    """The base with a control that was trained on digits and their hints."""
    rng = bl.Rng(seed).fork("taught", name)
    with rng.fork("start").ambient():
        net = controlled(base(seed), control, name=name)
    data = bl.Batch(digits()[0].x1, cond={"control": hint(digits()[0].x1)})
    return learn(net, MATCHING, data, rng, steps=steps, batch_size=64, peak=RATE)


def drawn(field: Any, seed: int, cond: Any) -> Tensor:
    """Samples for the hints of held-out digits."""
    x1 = digits()[1].x1[:COUNT]
    return bl.Sampler(8)(bl.Flow(field), bl.Rng(seed).fork("drawn").normal(x1), cond)


def errors(field: Any, seed: int, hints: dict[str, Hint]) -> list[float]:
    """Mean distance of the hints of samples from those that were given, for every control of the field by name."""
    x1 = digits()[1].x1[:COUNT]
    given = {name: hint(x1) for name, hint in hints.items()}
    own = {name: given[name] for name in controls_of(field)}
    made = drawn(field, seed, {"control": own if len(own) > 1 else next(iter(own.values()))} if own else None)
    return [float((hint(made.clamp(-1, 1)) - given[name]).abs().mean()) for name, hint in hints.items()]


def numbers(field: Any) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in field.parameters() if p.requires_grad)
