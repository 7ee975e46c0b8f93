"""What edits by attention have in common: blocks, steps, rows, and the trajectory of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import as_map
from beeline.core.host_times import host_times
from beeline.core.protocols.editing import Inversion, State
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves
from beeline.fields.flow import Flow
from beeline.networks.attending.mode import ImageAttention
from beeline.sampling.editing.dynamics import to_device
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.wrappers import complete

EARLIER = 1e-6  # a time this close to the end of a step belongs to the next one


def end_of_steps(sampler: Sampler, start: float, steps: int) -> float:
    """The time after the first ``steps`` steps of a run from ``start``; -1 for none, so that no time is before it."""
    return -1.0 if steps == 0 else float(sampler.times(start)[min(steps, sampler.steps)])


def evaluation_times(sampler: Sampler, start: float, end: float) -> list[float]:
    """The times at which the solver of a sampler evaluates a drift between two times; those of an adaptive one differ.

    >>> evaluation_times(Sampler(2), 0.0, 1.0)
    [0.0, 0.5, 0.5, 1.0]
    """
    found: list[float] = []

    def f(x: Tensor, t: Tensor, s: Any = None) -> Tensor:
        found.append(float(t.flatten()[0]))
        return torch.zeros_like(x)

    solver = complete(complete(sampler.solver).with_seeds(()))
    integrate(as_map(f), solver.lift(torch.zeros(1, 1)), sampler.times(start, end), solver)
    return found


def members(a: ImageAttention, count: int, rows: int) -> list[ImageAttention]:
    """The attentions of the members of a batch of groups, each of ``count`` members of some rows."""

    def of(x: Tensor, k: int) -> Tensor:
        return x.reshape(-1, count, rows, *x.shape[1:])[:, k].flatten(0, 1)

    masked = a.mask is not None and a.mask.ndim == 4 and len(a.mask) == len(a.q)
    masks = [of(a.mask, k) if masked and a.mask is not None else a.mask for k in range(count)]
    return [replace(a, q=of(a.q, k), k=of(a.k, k), v=of(a.v, k), mask=masks[k]) for k in range(count)]


def grouped(outputs: Sequence[Tensor], rows: int) -> Tensor:
    """The inverse of ``members`` for outputs [G B,H,L,D]."""
    return torch.stack([out.reshape(-1, rows, *out.shape[1:]) for out in outputs], 1).flatten(0, 2)


def with_image(own: Tensor, a: ImageAttention, other: Tensor) -> Tensor:
    """A tensor [B,H,L,D] whose tokens of the image are those of another one; the tokens of a text stay."""
    image = a.image
    return torch.cat([own[:, :, : image.start], other[:, :, image], own[:, :, image.stop :]], 2)


def differing(cond: Cond, new_cond: Cond, like: Tensor) -> Tensor:
    """Which rows [B] have another new condition than the old one."""
    found = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    new = dict(leaves(to_device(new_cond, like)))
    for name, leaf in leaves(to_device(cond, like)):
        found |= (leaf != new[name]).flatten(1).any(1) if leaf.ndim > 1 else leaf != new[name]
    return found


class Trajectory:
    """The states of an inversion by time; between two of them the state is interpolated linearly.

    An inversion without evaluations, such as ``Noised``, has its end and the data: the straight line between them.
    """

    def __init__(self, inversion: Inversion, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float):
        known: dict[float, Tensor] = {1.0: x}

        def see(_: Any, inputs: tuple[Tensor, ...]) -> None:
            known.setdefault(float(host_times(inputs[1]).flatten()[0]), inputs[0][: len(x)])

        handle = flow.field.register_forward_pre_hook(see)
        try:
            self.state: State = inversion(flow, x, cond, sampler, rng, end)
        finally:
            handle.remove()
        known[self.state.t] = self.state.x
        self.times = sorted(known)
        self.states = [known[t] for t in self.times]

    def __call__(self, t: float) -> Tensor:
        """The state [B,*S] at a time."""
        after = next((i for i, known in enumerate(self.times) if known >= t), len(self.times) - 1)
        before = max(after - 1, 0)
        low, high = self.times[before], self.times[after]
        share = 1.0 if high == low else min(max((t - low) / (high - low), 0.0), 1.0)
        if share in (0.0, 1.0):
            return self.states[after if share else before]
        return torch.lerp(self.states[before], self.states[after], share)
