"""The places of branches."""

from __future__ import annotations

from torch import nn

from beeline.core.errors import require
from beeline.core.ranges import Count, dataclass
from beeline.networks.branches.branch import FEEDING, MIXING, TOKENS, WHOLE, Branch
from beeline.networks.hooks import named_blocks
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import PreNormBlock
from beeline.networks.transformer.mixers import Attention, Mixed


@dataclass(frozen=True)
class Blocks:
    """Beside whole blocks, all or the last ones."""

    last: Count | None = None

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        names = list(named_blocks(net))
        return dict.fromkeys(names[-self.last :] if self.last else names, WHOLE)


@dataclass(frozen=True)
class Feeds:
    """Beside the feeds, outside of their gates; blocks without a part for them have it beside the whole block."""

    strict: bool = False  # refuse blocks without such a part

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        return {name: FEEDING if parted(block, branch, self.strict) else WHOLE for name, block in _blocks(net)}


@dataclass(frozen=True)
class Mixings:
    """Beside the mixing of tokens, outside of its gate."""

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        return {name: MIXING for name, block in _blocks(net) if parted(block, branch, True)}


@dataclass(frozen=True)
class Attentions:
    """Beside softmax attention, inside of its gate."""

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        own = isinstance(net, FlowTransformer) and isinstance(net.settings["mixer"], Attention)
        found = {name: block for name, block in _blocks(net) if parted(block, branch, True)}
        require(
            own and all(isinstance(block.mix, Mixed) for block in found.values()),
            f"{type(branch).__name__} got a {type(net).__name__} whose tokens are not mixed by softmax attention, and "
            "it reads its probabilities; use a network with mixer=Attention, or the branch Bottleneck",
        )
        return {f"{name}.mix": WHOLE for name in found}


@dataclass(frozen=True)
class Inputs:
    """At the first layer, and at the tokens of conditions where they have a stream of their own."""

    data: bool = True
    conditions: bool = True

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        streams = self.conditions and isinstance(net, FlowTransformer) and net.text is not None
        found = ({"inp": WHOLE} if self.data else {}) | ({"text": TOKENS} if streams else {})
        require(
            bool(found),
            f"{type(branch).__name__} got data={self.data} and conditions={self.conditions} for a "
            f"{type(net).__name__}, and would stand nowhere; set data=true, or conditions=true for a network with "
            "tokens of conditions, such as MMDiT",
        )
        return found


def _blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(named_blocks(net).items())


def parted(block: nn.Module, branch: Branch, strict: bool) -> bool:
    """Whether a block has a part that mixes and one that feeds; ValueError for another with ``strict``."""
    own = isinstance(block, PreNormBlock)
    require(
        own or not strict,
        f"{type(branch).__name__} got blocks that are {type(block).__name__}, and stands beside one of two parts of a "
        "block; use a network with wiring=PreNorm, such as DiT, or the branch Bottleneck(both=false)",
    )
    return own
