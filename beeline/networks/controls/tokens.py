"""The control whose hint becomes tokens."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.core.ranges import Count, dataclass
from beeline.networks.adapters.amounts import Apart, part
from beeline.networks.adapters.delta import LoRA, change_layers
from beeline.networks.attention import SelfAttention
from beeline.networks.controls.control import Ask, Control, ControlModule, check_plain
from beeline.networks.patches import to_patches
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import NO_CHANGE, After, HintKeys
from beeline.networks.transformer.mixers import Attention, LinearAttention

WIDER = (Attention, LinearAttention)
"""Mixers that take more keys than queries."""

SPEED = 10.0
"""Gates are learned so much faster than other numbers, as they have to go from 0 to about 1."""

Heard: TypeAlias = list[list[tuple[Tensor, Tensor]]]


class HintTokens(ControlModule):
    """Tokens of a hint, whose keys and values all other tokens see."""

    of_condition: ClassVar[bool] = True

    def __init__(self, net: FlowTransformer, channels: int, name: str):
        super().__init__()
        self.patch, self.name = net.patch, name
        self.inp = nn.Linear(channels * net.patch ** len(net.grid), net.settings["width"])
        with torch.no_grad():  # a hint is embedded as a picture with equal channels is
            picture = net.inp.weight.unflatten(1, (net.shape[0], -1)).sum(1, keepdim=True) / channels
            self.inp.weight.copy_(picture.expand(-1, channels, -1).flatten(1))
            self.inp.bias.zero_()  # that of the network is part of the positions
        self.gate = nn.Parameter(torch.zeros(len(net.visits)))

    def read(self, hint: Tensor, ask: Ask) -> list[tuple[Tensor, Tensor]]:
        heard: Heard = []
        tokens = self.inp(to_patches(hint, self.patch))

        def alone(stages: Stages) -> tuple[Stages, After]:
            """The forward pass of the tokens of the hint; those of a datum of zeros are positions."""
            n = stages.told[-1][1].tokens
            heard.extend([] for _ in stages.told[:-1])
            told = [
                (e, layout._replace(keep=None, noting=False, hints=(), heard=own))
                for (e, layout), own in zip(stages.told[:-1], heard, strict=True)
            ]
            return Stages(tokens + stages.h[:, :n], [*told, stages.told[-1]], stages.out), NO_CHANGE

        with part(self.name):
            ask(alone)
        return [own[0] for own in heard]

    def act(self, read: list[tuple[Tensor, Tensor]], stages: Stages, gain: Tensor) -> tuple[Stages, After]:
        told = [
            (e, layout._replace(hints=(*layout.hints, HintKeys(k, v, (gain[..., None] * (SPEED * gate)).to(v.dtype)))))
            for (e, layout), (k, v), gate in zip(stages.told[:-1], read, self.gate, strict=True)
        ]
        return stages._replace(told=[*told, stages.told[-1]]), NO_CHANGE


@dataclass(frozen=True)
class EasyControl(Control):
    """The hint as tokens beside those of the datum, which see it, while it sees itself alone.

    mixed_k <- mixed_k + strength g_k (mix(q, [k, k_hint], [v, v_hint]) - mixed_k),  g_k = 0 at first
    The tokens of the hint, at first embedded as those of a picture are, pass through the blocks of the network at time
    1, with a LoRA on their queries, keys and values, at the positions of the datum.  As they do not depend on state and
    time, their keys and values are computed once for all steps of a sampler.  With g = 1 it is attention to all tokens,
    as in the paper, which starts there.
    Assumes attention with more keys than queries, softmax or linear.
    Source: Zhang et al. 2025, "EasyControl" (arXiv 2503.07027).

    >>> EasyControl(rank=8)
    EasyControl(rank=8)
    """

    rank: Count = 16  # of the LoRA

    def build(self, net: FlowTransformer, channels: int, name: str) -> HintTokens:
        mixer = net.settings["mixer"]
        require(
            isinstance(mixer, WIDER),
            f"EasyControl got a network with mixer={type(mixer).__name__}, which mixes the patches of one grid and "
            f"has no place for tokens of a hint: use {' or '.join(kind.__name__ for kind in WIDER)}, or the control "
            "T2IAdapter",
        )
        check_plain(net, self)
        mixers = {layer for layer, m in net.named_modules() if isinstance(m, SelfAttention)}
        own = [f"{m}.qkv" for m in mixers if m.endswith((".mix", ".mix.x"))]
        change_layers(net, LoRA(self.rank), own, Apart(name))
        return HintTokens(net, channels, name)
