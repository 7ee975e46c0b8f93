"""Layers whose weight is stored in a number format and decoded where it is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.adapters.delta import Changed
from beeline.networks.adapters.recast import recast
from beeline.networks.compressing.formats import Format

STORED = "stored_"  # before the names of the tensors of a format


class Decoded(nn.Module):
    """A layer without the parameter ``weight``: the attribute of this name is decoded from the stored tensors."""

    form: Format
    shape: tuple[int, ...]  # of the weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        tensors = {name.removeprefix(STORED): t for name, t in self._buffers.items() if name.startswith(STORED)}
        out = self.shape[0]
        return self.form.decode(tensors, out, torch.Size(self.shape[1:]).numel()).view(self.shape)  # type: ignore[arg-type]


def parameter_of(layer: nn.Module, form: Format) -> Tensor:
    """The weight of a layer, to be stored in a format; ValueError where it is not a parameter of its own."""
    weight = layer._parameters.get("weight")
    require(
        weight is not None and not isinstance(layer, Changed),
        f"the weight of a {type(layer).__name__} was to be stored in {form}, and is not a parameter of its own: merge "
        "adapters first (Adapted.merged()), and start from a network that is not compressed",
    )
    assert weight is not None
    return weight.detach()


def packed(layer: nn.Module, form: Format) -> nn.Module:
    """A layer of the same kind, with the same other parameters, whose weight is stored in a format.

    Raises ValueError for a layer whose weight is changed by an adapter, or is stored in a format already.
    """
    weight = parameter_of(layer, form)
    made = recast(layer, Decoded)
    del made._parameters["weight"]
    made.form, made.shape = form, tuple(weight.shape)
    for name, tensor in form.encode(weight.flatten(1)).items():
        made.register_buffer(STORED + name, tensor)
    return made  # type: ignore[no-any-return]
