"""Weak predictions under random conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves
from beeline.solvers.diffusions import SeededNoise


@dataclass(frozen=True)
class RandomCondition(SeededNoise):
    """The same field under a random condition, one for each sample and run (independent condition guidance).

    weak = v(x, t, c'),  c' = another class, uniform among those that are not the sample's own
    All that is no class is that of another sample of the batch, or with ``noise`` Gaussian noise with the mean and the
    deviation of the sample's own.  It needs no null condition.  The mean over c' is near the unconditional prediction
    where classes overlap; where few classes lie apart, a single c' is not.
    Assumes classes that the network declares (``Traits.nulls``), a batch of different conditions, or ``noise``.
    Source: Sadat et al. 2024, "No Training, No Problem: Rethinking Classifier-Free Guidance for Diffusion Models"
    (arXiv 2407.02687).

    >>> RandomCondition(noise=False)(None, torch.tensor([[1.0], [2.0]]))[1]
    tensor([[2.],
            [1.]])
    """

    rng: Rng = Rng(0)
    seeds: tuple[int, ...] = ()  # one per sample, or none
    noise: bool = False  # in place of what is no class, for batches of equal conditions, such as of one prompt

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            cond is not None,
            "RandomCondition got cond=None; it replaces the condition by another: pass cond=, or use a reference "
            "without conditions, such as PerturbedTime()",
        )
        classes = traits_of(field).nulls or {}
        found = self._other(cond, dict(classes), "")
        changed = [(a != b).any() for (_, a), (_, b) in zip(leaves(cond), leaves(found), strict=True)]
        check_values(
            torch.stack(changed).any(),
            lambda: (
                "RandomCondition found no other condition; all samples of the batch have the same one, and no classes "
                "are known: set noise=True, or use the reference Unconditional()"
            ),
        )
        return field, found

    def _other(self, cond: Cond, classes: Mapping[str, float | None], name: str) -> Cond:
        if isinstance(cond, Mapping):
            return {key: self._other(leaf, classes, f"{name}.{key}" if name else key) for key, leaf in cond.items()}
        assert isinstance(cond, Tensor)
        known = classes.get(name) if name else next(iter(classes.values()), None) if len(classes) == 1 else None
        if known is not None and not cond.is_floating_point():
            return self._class(cond, int(known), name)
        return self._noise(cond, name) if self.noise else self._row(cond)

    def _class(self, label: Tensor, classes: int, name: str) -> Tensor:
        require(
            classes > 1,
            f"RandomCondition got the label {name!r} with one class; there is no other one: use another reference",
        )
        return (label + self._away(label, classes, f"class {name}").to(label.dtype)) % classes

    def _row(self, leaf: Tensor) -> Tensor:
        n = len(leaf)
        require(
            n > 1,
            "RandomCondition got one sample, whose condition is no class; the condition of another sample was to be "
            "used: sample several, or set noise=True",
        )
        return leaf[(torch.arange(n, device=leaf.device) + self._away(leaf, n, "row")) % n]

    def _noise(self, leaf: Tensor, name: str) -> Tensor:
        if not leaf.is_floating_point() or leaf.ndim < 2:
            return leaf
        flat = leaf.flatten(1).float()
        mean, deviation = (s.reshape(-1, *[1] * (leaf.ndim - 1)) for s in (flat.mean(1), flat.std(1, correction=0)))
        return (mean + deviation * self.standard_normal(self.rng.fork("noise", name), leaf).float()).to(leaf.dtype)

    def _away(self, like: Tensor, n: int, name: str) -> Tensor:
        """Uniform whole numbers [B] from 1 to n - 1."""
        z = self.standard_normal(self.rng.fork(name), like.new_empty(len(like), 1, dtype=torch.float32))[:, 0]
        return 1 + (torch.special.ndtr(z) * (n - 1)).floor().clamp(max=n - 2).long()
