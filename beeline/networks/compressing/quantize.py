"""Weights in other formats."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

import torch
from torch import Tensor, nn

from beeline.core.declared import last_layer_of
from beeline.core.ranges import Count, Range, Share, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import LAYERS, layers_of, weight_of
from beeline.networks.compressing.activations.ranges import InputRange, Largest, RangedProducts
from beeline.networks.compressing.around import Corrected, IntegerProducts, Salient, Scaled, Smooth, Sparse
from beeline.networks.compressing.compressed import Compressed, stored_bytes
from beeline.networks.compressing.compressor import FINE, Moments, Plan, Probe
from beeline.networks.compressing.factors import Factors
from beeline.networks.compressing.formats import Format, Integers
from beeline.networks.compressing.packed import parameter_of
from beeline.networks.compressing.rounding import OptimalBrain
from beeline.networks.compressing.torchao import AOTensor


@dataclass(frozen=True)
class Quantize:
    """Stores the weights of layers in number formats.

    W ~ decode(encode(W)) for the layers of the blocks, in ``form``, and for the others but the last one, in ``rest``
    With ``means`` the biases take what the change does to the mean output: b <- b + (W - W') E[x].
    Source: rounding to nearest, as in Dettmers et al. 2022 (arXiv 2208.07339); means: Nagel et al. 2019, "Data-Free
    Quantization" (arXiv 1906.04721).

    >>> Quantize().form.bits
    8
    """

    form: Format = field(default_factory=Integers)
    rest: Format | None = field(default_factory=Integers)  # of layers outside of the blocks; None leaves them
    layers: tuple[str, ...] = ()  # ends of names of layers, which replace those of the blocks; others are left
    means: bool = False
    kept: bool = False  # keep decoded weights in memory: faster, and in use as large as before

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        chosen = {name: self.form for name in layers_of(network, self.layers)}
        if self.rest is not None and not self.layers:
            every = [
                name for name, m in network.named_modules() if isinstance(m, LAYERS) and m is not last_layer_of(network)
            ]
            chosen = {name: self.rest for name in every} | chosen
        modules = dict(network.named_modules())
        before = after = stored_bytes(network)
        seconds, known = 0.0, dict[tuple[Format, torch.Size], tuple[int, float]]()
        for name, form in chosen.items():
            w = parameter_of(modules[name], form).flatten(1)
            if (form, w.shape) not in known:  # one layer of every size tells bytes and seconds
                tensors, took = measured(form, w, identity(w) if form.calibrated else None)
                known[form, w.shape] = sum(t.numel() * t.element_size() for t in tensors.values()), took
            stored, each = known[form, w.shape]
            after, seconds = after + stored - w.numel() * w.element_size(), seconds + each
        return Plan(chosen, before, after, seconds)

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return compressed_by(network, plan.decisions, probe, self.means, self.kept)


def compressed_by(
    network: nn.Module, decisions: Mapping[str, Format], probe: Probe, means: bool = False, kept: bool = False
) -> Compressed:
    """A copy of a network with layers in formats, by name."""
    modules = dict(network.named_modules())
    wanted = [name for name, form in decisions.items() if means or form.calibrated]
    moments = probe.moments(network, {name: modules[name] for name in wanted}) if wanted else {}
    names: dict[Format, list[str]] = {}
    for name, form in decisions.items():
        names.setdefault(form, []).append(name)
    made = Compressed(copy.deepcopy(network), list(names), list(names.values()), kept, moments)
    small = dict(made.field.named_modules())
    for name, seen in moments.items() if means else ():
        layer: nn.Module = small[name]
        if isinstance(layer.bias, nn.Parameter):
            change = (weight_of(modules[name]) - weight_of(layer)).double() @ seen.mean
            layer.bias.data.add_(change.to(layer.bias))
    return made


def measured(form: Format, w: Tensor, moments: Moments | None) -> tuple[dict[str, Tensor], float]:
    """What is stored of a weight in a format, and the seconds that it took."""
    begin = time.perf_counter()
    stored = form.encode(w, moments)
    return stored, time.perf_counter() - begin


def identity(w: Tensor) -> Moments:
    """Moments of independent inputs of a weight [out,in]."""
    made = Moments()
    made.add(torch.eye(w.shape[1], device=w.device))
    return made


def int8(kept: bool = False) -> Quantize:
    """Weights as integers of 8 bits, with one scale for 64 of them; ``kept`` in memory as decoded, they are faster.

    >>> int8().form.bits
    8
    """
    return Quantize(Integers(8), kept=kept)


def int4() -> Quantize:
    """Weights of the blocks as integers of 4 bits, with one scale for 64 of them; the others have 8 bits.

    >>> int4().form.bits
    4
    """
    return Quantize(Integers(4))


def GPTQ(bits: Count = 4, group: Count = 64) -> Quantize:  # noqa: N802 - named as in its paper
    """Integers whose errors are made good by the columns that come after; layers outside of the blocks have 8 bits.

    Source: Frantar et al. 2022 (arXiv 2210.17323).

    >>> GPTQ(3).form
    Integers(bits=3, group=64, rounding=OptimalBrain(damp=0.01))
    """
    return Quantize(Integers(bits, group, OptimalBrain()))


def AWQ(bits: Count = 4, group: Count = 64) -> Quantize:  # noqa: N802 - named as in its paper
    """Integers with larger scales for inputs that are large on average.

    Source: Lin et al. 2023 (arXiv 2306.00978), without the clipping of weights.

    >>> AWQ(3).form.form.bits
    3
    """
    return Quantize(Scaled(Integers(bits, group), Salient()))


def SVDQuant(bits: Count = 4, rank: Count = 4, rounds: Count = 4) -> Quantize:  # noqa: N802 - named as in its paper
    """Integers beside a part of low rank in 16 bits, which holds what rounding to the integers would lose.

    Source: Li et al. 2024 (arXiv 2411.05007); here the part of low rank is fitted to the outputs, and inputs are not
    rounded.

    >>> SVDQuant().form.rank
    4
    """
    return Quantize(Corrected(Integers(bits), rank, rounds))


def SmoothQuant(exponent: Share = 0.5) -> Quantize:  # noqa: N802 - named as in its paper
    """Weights and inputs of 8 bits in the layers of the blocks, with the sizes of inputs moved into the weights.

    Source: Xiao et al. 2022 (arXiv 2211.10438).

    >>> SmoothQuant().form.form
    IntegerProducts()
    """
    return Quantize(Scaled(IntegerProducts(), Smooth(exponent)))


def TimeRanges(  # noqa: N802 - named as the formats
    intervals: Annotated[int, Range(1, FINE)] = 8,
    exponent: Share = 0.5,
    ranges: InputRange = Largest(),  # noqa: B008 - it does not change
) -> Quantize:
    """SmoothQuant with fixed ranges of the inputs, one for every interval of the time.

    Source: Shang et al. 2022, PTQ4DM (arXiv 2211.15736); So et al. 2023, TDQ (arXiv 2306.02316).

    >>> TimeRanges(4).form.form.intervals
    4
    """
    return Quantize(Scaled(RangedProducts(intervals, ranges), Smooth(exponent)))


def LowRank(share: Share = 0.5, outputs: bool = True) -> Quantize:  # noqa: N802 - named as the formats
    """Layers of the blocks as products of two matrices; layers outside of the blocks stay as they are.

    Source: Kaushal et al. 2023, LORD (arXiv 2309.14021); with outputs=False: the singular values of the weight.

    >>> LowRank(0.25).form.share
    0.25
    """
    return Quantize(Factors(share, outputs), rest=None, means=outputs)


def SparseGPT(share: Share = 0.5) -> Quantize:  # noqa: N802 - named as in its paper
    """The most important numbers of every row of the layers of the blocks; layers outside of the blocks stay.

    Source: Frantar and Alistarh 2023 (arXiv 2301.00774).

    >>> SparseGPT(0.25).form.share
    0.25
    """
    return Quantize(Sparse(share, settled=True), rest=None)


def TorchAO(config: str = "Int8WeightOnly()") -> Quantize:  # noqa: N802 - named as the library
    """Layers of the blocks as tensors of the library torchao; layers outside of the blocks stay as they are.

    Source: Or et al. 2025 (arXiv 2507.16099); needs the extra ``torchao``.

    >>> TorchAO().form
    AOTensor(config='Int8WeightOnly()')
    """
    return Quantize(AOTensor(config), rest=None)
