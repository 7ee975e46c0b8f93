"""Embeddings of time and conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import nulls_of_labels
from beeline.core.errors import nearest, require
from beeline.core.modes import check_values, needs_check, wide
from beeline.core.types import Cond
from beeline.networks.fp32 import WideLinear, zeroed

Conditions = Mapping[str, Mapping[str, Any]]
"""Name -> {"classes": K} for labels 0..K-1 (K is the null label), {"size": D} for vectors [B,D], or {"length": M,
"size": D} for sequences of vectors [B,M,D], in which vectors of zeros are padding; the null has no others.  A vector
has a null with {"size": D, "null": 0}, the integer that fills it."""


def sinusoidal_features(t: Tensor, count: int, scale: float) -> Tensor:
    """Sines and cosines of t [...] as features [..., count] in float32 or float64.

    The count / 2 frequencies increase geometrically from 1 to ``scale`` radians per unit of time.
    """
    t = wide(t)
    half = count // 2
    # not a buffer, which would be rounded when the network is cast to half precision
    rates = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (math.log(scale) / max(half - 1, 1)))
    angle = t[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


def step_features(t: Tensor, count: int, shift: int) -> Tensor:
    """Cosines and sines of the step u = 1000 (1 - t) of a diffusion, [..., count] in float32 or float64.

    The frequencies are 10000^(-i / (count / 2 - shift)).  The operations are those of diffusers, since rounding of the
    highest frequencies moves the output of a network by more than 1e-5.
    """
    t = wide(t)
    half = count // 2
    powers = -math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - shift)
    angle = (1000 * (1 - t))[..., None] * powers.exp()
    return torch.cat([angle.cos(), angle.sin()], -1)


def collapse_equal_times(t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """One time [1] in place of [B] equal ones, so that it is embedded once.

    Times are unchanged in compiled graphs and on an accelerator, where comparing the values would synchronise.
    """
    waits = torch.compiler.is_compiling() or t.device.type != "cpu"
    if waits or t.ndim != 1 or len(t) < 2:
        return t, s
    if bool((t != t[0]).any()) or (s is not None and bool((s != s[0]).any())):
        return t, s
    return t[:1], None if s is None else s[:1]


class TimeEmbedding(nn.Module):
    """Embedding of the time and, with ``span``, of the length of a jump.

    e = W2 silu(W1 features(t)) + W4 silu(W3 features(s - t))
    Assumes t in [0, 1], [B] or (with ``frames``) [B,frames].  The second term exists with ``span`` and is initialised
    to zero, so that a network with the weights of one without ``span`` computes the same function at first.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); the jump's length: Geng et al. 2025 (arXiv 2505.13447).

    >>> TimeEmbedding(8)(torch.tensor([0.0, 0.5])).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        width: int,
        span: bool = False,
        frames: int = 0,
        count: int = 64,
        scale: float = 1000.0,
        steps: int | None = None,
    ):
        super().__init__()
        require(
            scale > 1,
            f"TimeEmbedding got scale={scale}; it is the highest frequency in radians per unit of time, and the lowest "
            "is 1: set 10 to 1000",
        )
        require(
            count >= 4 and count % 2 == 0 and steps in (None, 0, 1),
            f"TimeEmbedding got features={count} and steps={steps}; features are sines and as many cosines, and steps "
            "is 0 or 1 for features of the steps of a diffusion: set an even number from 4, and steps to 0, 1 or none",
        )
        self.frames, self.count, self.scale, self.steps = frames, count, scale, steps
        self.time = self._tower(width)
        self.span = self._tower(width) if span else None
        if self.span is not None:
            zeroed(self.span[2])  # type: ignore[arg-type]

    def forward(self, t: Tensor, s: Tensor | None = None) -> Tensor:
        require(
            s is None or self.span is not None,
            "a network without span got an end time s; it has no embedding of a second time: build it with span=True",
        )
        e: Tensor = self.time(self._features(t))
        if self.span is not None:
            gap = torch.zeros_like(t) if s is None else s - t
            e = e + self.span(self._features(gap))
        return e

    def _tower(self, width: int) -> nn.Sequential:
        return nn.Sequential(WideLinear(self.count * max(self.frames, 1), width), nn.SiLU(), WideLinear(width, width))

    def _features(self, t: Tensor) -> Tensor:
        if not self.frames:
            require(
                t.ndim == 1,
                f"time has shape {tuple(t.shape)}; this network takes one time per sample [B]: pass that shape, or "
                "build a network with frames for times per frame",
            )
            return self._waves(t)
        # materialised: forward-mode differentiation rejects expanded views
        t = t[:, None].repeat(1, self.frames) if t.ndim == 1 else t
        require(
            t.shape[1:] == (self.frames,),
            f"time has shape {tuple(t.shape)}; this network has {self.frames} frames: pass [B] or [B, {self.frames}]",
        )
        return self._waves(t).flatten(1)

    def _waves(self, t: Tensor) -> Tensor:
        if self.steps is None:
            return sinusoidal_features(t, self.count, self.scale)
        return step_features(t, self.count, self.steps)


class ConditionEmbedding(nn.Module):
    """Embedding of class labels, feature vectors and sequences of them.

    e = sum over labels of table[label] + sum over vectors of W2 silu(W1 c) + the same of the means of sequences
    Assumes a mapping with the names of ``conditions``, or a tensor if there is exactly one; None is the null of every
    label, sequence and vector with a null.  Another vector has none: pass the one used in condition dropout.
    Source: Ho and Salimans 2022 (arXiv 2207.12598), the null label.

    >>> embed = ConditionEmbedding(8, {"label": {"classes": 10}})
    >>> torch.equal(embed(None, torch.zeros(1)), embed(torch.tensor([10]), torch.zeros(1)))
    True
    """

    def __init__(self, width: int, conditions: Conditions | None = None, sequences: bool = True):
        super().__init__()
        self.conditions: dict[str, dict[str, Any]] = {k: dict(v) for k, v in sorted((conditions or {}).items())}
        for name, spec in self.conditions.items():
            require(
                set(spec) in KINDS and all(isinstance(n, int) and (n >= 1 or key in FREE) for key, n in spec.items()),
                f"the condition {name!r} is described as {spec}; a network embeds {{'classes': K}} (labels 0..K-1), "
                "{'size': D} (vectors of D numbers) or {'length': M, 'size': D} (sequences of M vectors), with "
                "integers from 1: use one of the three",
            )
        self.sequences = sequences  # whether they are part of the sum
        # by index in the order of their names: a name may contain characters that a module name may not
        self.parts = nn.ModuleList(self.part(spec, width) for spec in self.conditions.values())

    def part(self, spec: Mapping[str, int], width: int) -> nn.Module:
        """The weights of one condition."""
        if "classes" in spec:
            table = nn.Embedding(spec["classes"] + 1, width)
            nn.init.normal_(table.weight, std=0.02 * width**0.5)
            return table
        if "length" in spec and not self.sequences:
            return nn.Identity()
        return nn.Sequential(nn.Linear(spec["size"], width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, cond: Cond, like: Tensor) -> Tensor | None:
        """[B,width] in float32 or float64, or None for a network without conditions; ``like`` [B,...] gives B."""
        total: Tensor | None = None
        for spec, part, value in self.given(cond, like):
            if "length" in spec:
                if not self.sequences:
                    continue
                value = wide(value).sum(1) / kept(value).sum(1, keepdim=True).clamp(min=1)
            e = part(value.to(dtype_of(part, value)))
            total = wide(e) if total is None else total + e
        return total

    def given(self, cond: Cond, like: Tensor) -> list[tuple[dict[str, Any], nn.Module, Tensor]]:
        """(description, weights, checked values) of every condition; ``like`` [B,...] gives B."""
        values, found = self.named_conditions(cond), []
        for (name, spec), part in zip(self.conditions.items(), self.parts, strict=True):
            if "classes" in spec:
                value = self._labels(name, values.get(name), spec["classes"], like)
            else:
                value = self._vectors(name, values.get(name), spec, like)
            found.append((spec, part, value))
        return found

    def nulls(self, cond: Cond, like: Tensor) -> Tensor | None:
        """Which rows have the null of every condition, bool [B]; None without conditions.  Vectors have no null."""
        found = [
            value == spec["classes"] if "classes" in spec else ~kept(value).any(-1) if "length" in spec else None
            for spec, _, value in self.given(cond, like)
        ]
        if not found:
            return None
        none = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
        return torch.stack([none if null is None else null for null in found]).all(0)

    def named_conditions(self, cond: Cond) -> Mapping[str, Any]:
        """The condition as name -> tensor; raises ValueError for unknown and missing names."""
        if cond is None:
            missing = [name for name, null in nulls_of_labels(self.conditions).items() if null is None]
            require(
                not missing,
                f"cond is None for a network with the vector condition {missing[:1]}; only labels and sequences have a "
                "default null: pass the vector, or the one used in condition dropout, such as zeros",
            )
            return {}
        if isinstance(cond, Tensor):
            require(
                len(self.conditions) == 1,
                f"cond is a tensor for a network with the conditions {list(self.conditions)}; that is unambiguous for "
                "exactly one condition only: pass a mapping of names to tensors, or None for a network without "
                "conditions",
            )
            return {name: cond for name in self.conditions}
        for name in cond:
            require(
                name in self.conditions,
                f"the condition {name!r} is unknown to this network, which would ignore it; "
                f"{nearest(name, self.conditions)}",
            )
        for name in self.conditions:
            require(
                name in cond,
                f"the condition {name!r} is missing in {sorted(cond)}; this network has an embedding of it: pass it, "
                "or cond=None for the null of every label and sequence",
            )
        return cond

    def _labels(self, name: str, value: Tensor | None, classes: int, like: Tensor) -> Tensor:
        if value is None:
            return torch.full((like.shape[0],), classes, dtype=torch.int64, device=like.device)
        require(
            isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()),
            f"the condition {name!r} is {value.dtype if isinstance(value, Tensor) else type(value).__name__}; labels "
            "are integers: convert it with torch.as_tensor(...).long()",
        )
        self._rows(name, value, (), like)
        if needs_check(value, classes) and len(value):
            low, high = torch.aminmax(value)
            check_values(
                (low >= 0) & (high <= classes),
                lambda: (
                    f"the condition {name!r} contains the label {int(low if low < 0 else high)}, outside its range; "
                    f"this network has the labels 0 to {classes - 1} and the null {classes}: check the data, or build "
                    "it with more classes"
                ),
            )
        if value.device.type != "cpu":  # the check is evaluated later: no kernel may fail before
            value = value.clamp(0, classes)
        return value.long()

    def _vectors(self, name: str, value: Tensor | None, spec: Mapping[str, int], like: Tensor) -> Tensor:
        shape = (spec["length"], spec["size"]) if "length" in spec else (spec["size"],)
        if value is None:  # the null of a sequence is zero
            return torch.full((like.shape[0], *shape), float(spec.get("null", 0)), device=like.device)
        require(
            isinstance(value, Tensor),
            f"the condition {name!r} is a {type(value).__name__}, not a tensor; pass a tensor [B, "
            f"{', '.join(map(str, shape))}]",
        )
        value = value[:, None] if value.ndim == 1 and shape == (1,) else value
        self._rows(name, value, shape, like)
        return value

    @staticmethod
    def _rows(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
        require(
            value.shape == (like.shape[0], *shape),
            f"the condition {name!r} has shape {tuple(value.shape)} for a batch of {like.shape[0]}; "
            f"this network needs one row per sample: pass shape {(like.shape[0], *shape)}",
        )


class TokenEmbedding(ConditionEmbedding):
    """The tokens of conditions: one of every label and vector, those of sequences, or of sequences alone.

    token = table[label], W2 silu(W1 c), or W c of every vector of a sequence
    Where there are sequences, other conditions have no tokens.

    >>> TokenEmbedding(8, {"text": {"length": 5, "size": 3}}).tokens(torch.ones(2, 5, 3), torch.zeros(2))[0].shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, conditions: Conditions):
        long = {name: spec for name, spec in conditions.items() if "length" in spec}
        super().__init__(width, long or conditions)

    def part(self, spec: Mapping[str, int], width: int) -> nn.Module:
        return nn.Linear(spec["size"], width) if "length" in spec else super().part(spec, width)

    def tokens(self, cond: Cond, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B,M,width], and which of them are no padding [B,M], or None where there are no sequences."""
        own = {name: cond[name] for name in self.conditions} if isinstance(cond, Mapping) else cond
        found = self.given(own, like)
        made = [part(value.to(dtype_of(part, value))) for _, part, value in found]
        long = ["length" in spec for spec, _, _ in found]
        keep = torch.cat([kept(value) for _, _, value in found], 1) if any(long) else None
        return torch.cat([h if h.ndim == 3 else h[:, None] for h in made], 1), keep


KINDS = ({"classes"}, {"size"}, {"size", "null"}, {"length", "size"})
FREE = ("null",)  # what may be any integer


def kept(sequence: Tensor) -> Tensor:
    """Which vectors of a sequence [B,M,D] are no padding, [B,M]: those that are not zero."""
    return (sequence != 0).any(-1)


def dtype_of(part: nn.Module, value: Tensor) -> torch.dtype:
    """The dtype in which weights take a value: that of the weights, or of labels their own."""
    weight = next(part.parameters(), value)
    return weight.dtype if value.is_floating_point() else value.dtype


class Embedding(nn.Module):
    """Embedding of time, jump and conditions, [B,width] in float32 or float64.

    e = silu(time(t, s) + conditions(cond))
    Assumes the shapes of TimeEmbedding and ConditionEmbedding.
    Source: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> Embedding(8, {"label": {"classes": 3}})(torch.zeros(2), torch.tensor([0, 3])).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        width: int,
        conditions: Conditions | None = None,
        span: bool = False,
        frames: int = 0,
        count: int = 64,
        scale: float = 1000.0,
        sequences: bool = True,
        steps: int | None = None,
    ):
        super().__init__()
        require(
            frames >= 0,
            f"Embedding got frames={frames}; it is the number of frames with separate times: set 0 for none, or more",
        )
        self.time = TimeEmbedding(width, span, frames, count, scale, steps)
        self.cond = ConditionEmbedding(width, conditions, sequences)

    def forward(self, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        return F.silu(self.total(t, cond, s))

    def total(self, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        """The sum before the silu."""
        e: Tensor = self.time(t, s)
        c = self.cond(cond, t)
        return e if c is None else e + c


def check_state(net: nn.Module, x: Tensor, t: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError for a state that is not [B, *shape] (None: any size), or times of another batch size."""
    name = type(net).__name__
    fits = x.ndim == len(shape) + 1 and all(w is None or w == g for w, g in zip(shape, x.shape[1:], strict=True))
    wanted = ", ".join("any" if w is None else str(w) for w in shape)
    require(
        fits,
        f"{name} got a state of shape {tuple(x.shape)}, but was built for [B, {wanted}]; pass that shape, or build it "
        "with the shape of the data",
    )
    require(
        t.ndim >= 1 and t.shape[0] == x.shape[0],
        f"{name} got times of shape {tuple(t.shape)} for a batch of {x.shape[0]}; pass one time per sample, [B]",
    )
