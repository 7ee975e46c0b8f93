"""Layers whose weight is stored in a number format and decoded where it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.adapters.delta import LAYERS, Changed
from beeline.networks.adapters.recast import recast
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format

STORED = "stored_"  # before the names of the tensors of a format


class Decoded(nn.Module):
    """A layer without the parameter ``weight``: the attribute of this name is decoded from the stored tensors."""

    form: Format
    shape: tuple[int, ...]  # of the weight
    kept: bool  # whether the decoded weight is kept in memory
    dtypes: Mapping[str, torch.dtype] = {}  # of stored numbers that are trained
    known: tuple[Any, Tensor] | None = None  # of which stored tensors, and the weight

    @property
    def stored(self) -> dict[str, Tensor]:
        """The tensors of the format."""
        return {
            name.removeprefix(STORED): t
            for name, t in (*self._buffers.items(), *self._parameters.items())  # the latter in training
            if t is not None and name.startswith(STORED)
        }

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        stored = self.stored
        key = [(t.data_ptr(), t._version, t.dtype) for t in stored.values()] if self.kept else None
        if self.known is not None and self.known[0] == key:
            return self.known[1]
        w = self.form.decode(stored, self.shape[0], math.prod(self.shape[1:])).view(self.shape)
        if self.kept and not w.requires_grad:
            self.known = key, w
        return w


class Product(Decoded):
    """A linear layer that multiplies as its format does."""

    def forward(self, x: Tensor) -> Tensor:
        y, bias = self.form.product(x, self.stored, self.shape[0]), self._parameters["bias"]
        return y if bias is None else y + bias


def parameter_of(layer: nn.Module, form: Format) -> Tensor:
    """The weight of a layer, to be stored in a format; ValueError where it is not a parameter of its own."""
    weight = layer._parameters.get("weight")
    kind = type(layer).__name__
    require(
        not isinstance(layer, Decoded),
        f"the weight of a layer was to be stored in {form}, and it is stored in few bits already: rounding twice adds "
        "both errors; start from the bundle before its first compression, which is the parent in its lineage",
    )
    require(
        isinstance(layer, LAYERS),
        f"a {kind} was to be stored in {form}, and its weight is no matrix of a layer; the kinds of layers are "
        f"{', '.join(k.__name__ for k in LAYERS)}: leave it out, as it stays in its own numbers",
    )
    require(
        weight is not None and not isinstance(layer, Changed),
        f"the weight of a {kind} was to be stored in {form}, and it is computed from other numbers: merge adapters "
        "first (Adapted.merged()), and leave blocks out that share weights",
    )
    assert weight is not None
    return weight.detach()


def packed(layer: nn.Module, form: Format, moments: Moments | None = None, kept: bool = False) -> Decoded:
    """A layer of the same kind, with the same other parameters, whose weight is stored in a format.

    Linear layers multiply as the format does, where it has products of its own, unless the decoded weight is ``kept``.
    Raises ValueError for a layer whose weight is changed by an adapter, or is stored in a format already.
    """
    weight = parameter_of(layer, form)
    own = not kept and type(form).product is not Format.product and type(layer) is nn.Linear
    made = recast(layer, Product if own else Decoded)
    del made._parameters["weight"]
    made.form, made.shape, made.kept = form, tuple(weight.shape), kept
    for name, tensor in form.encode(weight.flatten(1), moments).items():
        made.register_buffer(STORED + name, tensor)
    return made  # type: ignore[no-any-return]
