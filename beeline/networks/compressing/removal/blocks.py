"""Which of the blocks of a network are taken away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.declared import stacks_of
from beeline.core.errors import nearest, require
from beeline.core.ranges import Positive, dataclass
from beeline.networks.adapters.inside import Reparametrized
from beeline.networks.compressing.compressor import Probe
from beeline.networks.hooks import named_blocks
from beeline.networks.skipping import sharing_copy
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted, transformers_in

CALLS = 16  # of a probe, on which networks are compared

Change: TypeAlias = Callable[..., float]
"""(numbers of blocks, part of the states) -> the relative error of velocities without these blocks."""

ALL, HALF, OTHER = slice(None), slice(0, None, 2), slice(1, None, 2)


class Absent(nn.Module):
    """In place of a block that was taken away: its first input."""

    def forward(self, h: Tensor, *rest: Any, **more: Any) -> Tensor:
        return h


class Shortened(Reparametrized):
    """A network without some of its residual blocks.

    h <- h in place of h <- block(h)
    Assumes blocks that return tokens or channels in the form of their first input.  It keeps the weights of the others
    alone; flow transformers have ``SubNetwork`` for it.
    Source: the removal of blocks is that of Kim et al. 2023, BK-SDM (arXiv 2305.15798).

    >>> from beeline.networks.mlp import MLP
    >>> Shortened(MLP(2, width=8, depth=3), ["block.1"])(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(self, field: nn.Module, blocks: Sequence[str]):
        super().__init__()
        known = named_blocks(field)
        for name in blocks:
            require(name in known, f"Shortened got the block {name!r}, which is not there; {nearest(name, known)}")
            stack, number = name.rsplit(".", 1)
            stacks_of(field)[stack][int(number)] = Absent()
        self.field, self.blocks = field, list(blocks)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments; it is built from the whole network again."""
        return {"field": self.field, "blocks": self.blocks}


def removable(network: nn.Module, probe: Probe, whose: str) -> int:
    """How many blocks can be taken away one by one: the visits of a flow transformer, or the blocks of one stack.

    Raises ValueError for a network without such blocks.
    """
    found = transformers_in(network)
    if found:
        return len(found[0].visits)
    stacks = list(stacks_of(network).values())
    require(
        len(stacks) == 1 and residual(network, list(stacks[0]), probe),
        f"{whose} got a {type(network).__name__} with {len(stacks)} stacks of blocks; it takes away residual blocks of "
        "one stack, whose outputs have the form of their inputs: give a network such as networks.DiT or MLP",
    )
    return len(stacks[0])


@torch.no_grad()
def residual(network: nn.Module, blocks: Sequence[nn.Module], probe: Probe) -> bool:
    """Whether blocks return a tensor of the form of their first input."""
    found: list[bool] = []

    def see(_: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        found.append(isinstance(out, Tensor) and bool(given) and out.shape == given[0].shape)

    handles = [block.register_forward_hook(see) for block in blocks]
    try:
        network(*probe.calls[0].inputs)
    finally:
        for handle in handles:
            handle.remove()
    return len(found) == len(blocks) and all(found)


def without(network: nn.Module, out: Collection[int], own: bool = False) -> nn.Module:
    """A network without some of the blocks that ``removable`` counts: a view, or one with weights of its ``own``."""
    found = transformers_in(network)
    if found:
        visits = [k for k in range(len(found[0].visits)) if k not in out]
        return extracted(network, visits=visits) if own else SubNetwork(network, visits=visits)
    names = [name for k, name in enumerate(named_blocks(network)) if k in out]
    return Shortened(copy.deepcopy(network) if own else sharing_copy(network), names)


@torch.no_grad()
def changes(network: nn.Module, probe: Probe) -> Change:
    """How far velocities are without blocks, E |v_without - v|^2 / E |v|^2, as a root."""
    calls = probe.calls[:: max(1, len(probe.calls) // CALLS)]
    pairs = [(call, network(*call.inputs)) for call in calls]

    @torch.no_grad()
    def change(out: Collection[int], states: slice = ALL) -> float:
        part, some = without(network, out), pairs[states] or pairs
        errors = sum(float((part(*call.inputs) - v).square().sum()) for call, v in some)
        return float((errors / max(sum(float(v.square().sum()) for _, v in some), 1e-30)) ** 0.5)

    return change


class BlockChoice(Protocol):
    """Which blocks are taken away."""

    def __call__(self, change: Change, blocks: int, remove: int) -> dict[int, str]:
        """What is said of every block that is taken away, of ``blocks`` blocks ``remove`` or fewer."""
        ...


@dataclass(frozen=True)
class LeastChange:
    """One block after another, that whose removal changes the output least, with errors anew after every removal.

    argmin_k E |v_without(k) - v|^2 / E |v|^2, as often as there are blocks to remove
    Source: Zhang et al. 2024, LAPTOP-Diff (arXiv 2404.11098), here with the scores anew after every removal.

    >>> LeastChange()
    LeastChange()
    """

    def __call__(self, change: Change, blocks: int, remove: int) -> dict[int, str]:
        made: dict[int, str] = {}
        for _ in range(remove):
            errors = {k: change([*made, k]) for k in range(blocks) if k not in made}
            k = min(errors, key=lambda k: errors[k])
            made[k] = f"removed, with an error of {errors[k]:.3g}"
        return made


@dataclass(frozen=True)
class Greedy:
    """As many blocks as velocities allow: one after another, and what costs too much is put back.

    in the order of E |v_without(k) - v|^2:  out <- out + {k} if E |v_without(out + k) - v|^2 <= tolerance^2 E |v|^2
    Decisions are made on half of the states, and the plan has the error on the other half beside it.
    Source: Nagarajan et al. 2020, AxFormer (arXiv 2010.03688), with errors of velocities in place of a loss.

    >>> Greedy(0.1).tolerance
    0.1
    """

    tolerance: Positive = 0.3  # relative error of velocities

    def __call__(self, change: Change, blocks: int, remove: int) -> dict[int, str]:
        alone = {k: change([k], HALF) for k in range(blocks)}
        made: dict[int, str] = {}
        for k in sorted(alone, key=lambda k: alone[k]):
            if len(made) == remove:
                break
            error = change([*made, k], HALF) if made else alone[k]
            if error <= self.tolerance:
                made[k] = f"removed, with an error of {error:.3g}, and {change([*made, k], OTHER):.3g} on other states"
        least = min(alone.values())
        require(
            bool(made),
            f"Greedy got tolerance={self.tolerance:g}, and the block whose removal changes velocities least changes "
            f"them by {least:.3g}; give more than that, or keep all blocks",
        )
        return made


@dataclass(frozen=True)
class EvenlySpaced:
    """Blocks at equal distances stay, the first and the last one among them; nothing is evaluated.

    kept = round(j (n - 1) / (n - remove - 1)),  j = 0, 1, ...
    Source: Kim et al. 2023, BK-SDM (arXiv 2305.15798), every second block.

    >>> list(EvenlySpaced()(None, 5, 2))
    [1, 3]
    """

    def __call__(self, change: Change, blocks: int, remove: int) -> dict[int, str]:
        kept = torch.linspace(0, blocks - 1, blocks - remove).round().int().tolist()
        return dict.fromkeys((k for k in range(blocks) if k not in kept), "removed")


@dataclass(frozen=True)
class Listed:
    """Blocks that are named by their numbers.

    h <- h in place of h <- block_k(h) for k in blocks
    Source: Kim et al. 2023, BK-SDM (arXiv 2305.15798), blocks chosen by hand.

    >>> list(Listed((1, 2))(None, 4, 2))
    [1, 2]
    """

    blocks: tuple[int, ...] = (0,)  # from 0

    def __call__(self, change: Change, blocks: int, remove: int) -> dict[int, str]:
        require(
            len(set(self.blocks)) == remove and all(0 <= k < blocks for k in self.blocks),
            f"Listed got blocks={self.blocks} where {remove} of {blocks} are to be removed; they are numbered from 0: "
            f"name {remove} of 0 to {blocks - 1}, or set remove={len(set(self.blocks))}",
        )
        return dict.fromkeys(self.blocks, "removed")
