"""What learns the guided velocity: the network itself, adapters, a side network, or a low-rank change of weights."""

from __future__ import annotations

import copy
import importlib
from typing import Any

from torch import nn

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import Count, dataclass
from beeline.distillation.students import copied
from beeline.fields.flow import Flow
from beeline.networks.guided.adapters import BlockAdapters, SideNetwork, side_network
from beeline.networks.guided.scaled import with_scale_input
from beeline.networks.hooks import block_paths
from beeline.objectives.games.adversarial import channels_of


class GuidedBase:
    """Defaults: the student takes the guidance scale, and is used as it is trained."""

    @property
    def scaled(self) -> bool:
        return True

    def finished(self, network: nn.Module) -> nn.Module:
        return network


@dataclass(frozen=True)
class IntoNetwork(GuidedBase):
    """A copy of the network with one more input for the guidance scale; all weights are trained.

    v(x, t, c, beta),  beta = 1 / scale;  equal to the teacher at first
    Source: Meng et al. 2023, "On Distillation of Guided Diffusion Models" (arXiv 2210.03142).

    >>> IntoNetwork().scaled
    True
    """

    def build(self, teacher: Flow) -> nn.Module:
        return with_scale_input(copied(teacher))


@dataclass(frozen=True)
class IntoAdapters(GuidedBase):
    """Small adapters behind the blocks of the frozen network.

    the network BlockAdapters
    Source: Jensen and Sadat 2025, "Efficient Distillation of Classifier-Free Guidance using Adapters" (arXiv
    2503.07274).

    >>> IntoAdapters().width
    8
    """

    width: Count = 8  # of the adapters; about 2% of the weights are enough

    def build(self, teacher: Flow) -> nn.Module:
        field = copied(teacher)
        return BlockAdapters(field, [channels_of(field, name) for name in block_paths(field)], self.width)


@dataclass(frozen=True)
class IntoSide(GuidedBase):
    """A smaller network of the same class beside the frozen one.

    the network SideNetwork;  the side network fits finetuned copies of the teacher too
    Source: Hsiao et al. 2024, "Plug-and-Play Diffusion Distillation" (arXiv 2406.01954).

    >>> IntoSide().width
    16
    """

    width: Count = 16  # of the side network, in its class's own unit

    def build(self, teacher: Flow) -> nn.Module:
        field = copied(teacher)
        return SideNetwork(field, side_network(field, self.width))


@dataclass(frozen=True)
class IntoLoRA(GuidedBase):
    """A low-rank change of the linear layers of the frozen network, for one guidance scale; it is merged at the end.

    W x + (alpha / rank) B A x,  B = 0 at first;  alpha = 2 rank
    The optional library peft trains it.  The student is a network like the teacher, without the library.
    Source: Golnari 2023, "LoRA-Enhanced Distillation on Guided Diffusion Models" (arXiv 2312.06899); Hu et al. 2021
    (arXiv 2106.09685).

    >>> IntoLoRA().scaled
    False
    """

    rank: Count = 8

    @property
    def scaled(self) -> bool:
        return False

    def build(self, teacher: Flow) -> nn.Module:
        peft = _peft()
        field = copied(teacher)
        names = [name for name, m in field.named_modules() if type(m) is nn.Linear]
        require(
            bool(names),
            f"IntoLoRA got a {type(field).__name__} without linear layers, whose weights it changes; use IntoNetwork() "
            "or IntoAdapters()",
        )
        given = peft.LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=names)
        made: nn.Module = peft.inject_adapter_in_model(given, field)
        return made

    def finished(self, network: nn.Module) -> nn.Module:
        """A copy of the network with merged weights and plain layers."""
        tuners = importlib.import_module("peft.tuners.lora")
        made = copy.deepcopy(network)
        for name, module in list(made.named_modules()):
            if isinstance(module, tuners.LoraLayer):
                module.merge()  # type: ignore[operator]
                where, _, last = name.rpartition(".")
                setattr(made.get_submodule(where), last, module.get_base_layer())  # type: ignore[operator]
        return made.requires_grad_(True)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise BeelineError(
            "IntoLoRA needs the library peft, which is not installed; pip install peft, or use IntoAdapters()"
        ) from None
