"""Weights in fewer bits, by rounding to nearest."""

from __future__ import annotations

import copy
from dataclasses import field

from torch import nn

from beeline.core.declared import last_layer_of
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import LAYERS, layers_of
from beeline.networks.compressing.compressed import Compressed, stored_bytes
from beeline.networks.compressing.compressor import Plan, Probe
from beeline.networks.compressing.formats import Format, Integers
from beeline.networks.compressing.packed import parameter_of


@dataclass(frozen=True)
class Quantize:
    """Stores the weights of layers in number formats.

    W ~ decode(encode(W)) for the layers of the blocks, in ``form``, and for the others but the last one, in ``rest``
    Source: rounding to nearest, as in Dettmers et al. 2022 (arXiv 2208.07339).

    >>> Quantize().form.bits
    8
    """

    form: Format = field(default_factory=Integers)
    rest: Format | None = field(default_factory=Integers)  # of layers outside of the blocks; None leaves them
    layers: tuple[str, ...] = ()  # ends of names of layers, which replace those of the blocks; others are left

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        chosen = {name: self.form for name in layers_of(network, self.layers)}
        if self.rest is not None and not self.layers:
            every = [
                name for name, m in network.named_modules() if isinstance(m, LAYERS) and m is not last_layer_of(network)
            ]
            chosen = {name: self.rest for name in every} | chosen
        modules = dict(network.named_modules())
        before = after = stored_bytes(network)
        for name, form in chosen.items():
            w = parameter_of(modules[name], form)
            stored = form.encode(w.flatten(1)).values()
            after += sum(t.numel() * t.element_size() for t in stored) - w.numel() * w.element_size()
        return Plan(chosen, before, after)

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        names: dict[Format, list[str]] = {}
        for name, form in plan.decisions.items():
            names.setdefault(form, []).append(name)
        return Compressed(copy.deepcopy(network), list(names), list(names.values()))


def int8() -> Quantize:
    """Weights as integers of 8 bits, with one scale for 64 of them.

    >>> int8().form.bits
    8
    """
    return Quantize(Integers(8))


def int4() -> Quantize:
    """Weights of the blocks as integers of 4 bits, with one scale for 64 of them; the others have 8 bits.

    >>> int4().form.bits
    4
    """
    return Quantize(Integers(4))
