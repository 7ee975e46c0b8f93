"""Growth of a trained transformer into a larger one that computes the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.networks.growing.rules import OUTPUTS, axes_of, grown
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import AdaLNZero, PeriBlock, ReZero
from beeline.networks.transformer.modulations import TimeDependent
from beeline.networks.transformer.plans.plan import Plain
from beeline.networks.transformer.positions import SinCos

N = TypeVar("N", bound=FlowTransformer)


@torch.no_grad()
def grow(
    net: N, rng: Rng | None = None, *, width: int | None = None, ratio: float | None = None, depth: int | None = None
) -> N:
    """A larger network with the outputs of ``net``, whose new weights learn.

    feeds: hidden channels W1 <- [W1; new], W2 <- [W2, 0];  heads: q, k, v of more heads, not read at first
    width: every channel n times, and layers that read the copies divide their weights among them at random, so that
        the copies differ in training; LayerNorm of n equal copies is that of one;  a head keeps its channels
    depth: blocks in the middle that add nothing at first;  long skips keep their pairs
    Outputs are equal up to rounding: 1e-12 in float64.  ``net`` is unchanged.  Averages of weights grow with equal
    ``rng`` by the same map; moments of optimizers begin anew.
    Source: Chen, Goodfellow and Shlens 2015, "Net2Net" (arXiv 1511.05641); for transformers: Gesmundo and Maile 2023,
    "Composable Function-preserving Expansions" (arXiv 2308.06103).

    >>> from beeline.networks.dit import DiT
    >>> grow(DiT((1, 8, 8), width=32, depth=2), width=64, depth=3).settings["heads"]
    8

    Raises BeelineError for sizes that are smaller or no multiple, and for parts whose growth is not known.
    """
    old = net.settings
    sizes = {"width": width or old["width"], "ratio": ratio or old["ratio"], "depth": depth or old["depth"]}
    for name, size in sizes.items():
        require(
            size >= old[name],
            f"grow got {name}={size} for a network with {name}={old[name]}; what is taken away changes its output: "
            f"give {old[name]} or more",
        )
    require(
        any(size > old[name] for name, size in sizes.items()),
        "grow got no larger size; it makes a larger network: give width, ratio or depth",
    )
    require(
        sizes["depth"] == old["depth"] or isinstance(old["plan"], Plain),
        f"grow got depth={depth} for a network with plan={old['plan']}; visits of its blocks depend on their number: "
        "change width or ratio, or the plan",
    )
    factor, rest = divmod(sizes["width"], old["width"])
    require(
        rest == 0,
        f"grow got width={width} for a network of {old['width']}; channels are repeated, since LayerNorm keeps its "
        f"mean and variance only so: give {2 * old['width']} or another multiple",
    )
    rng = rng or Rng(0)
    changes: dict[str, Any] = {**sizes, "heads": factor * old["heads"]}
    if isinstance(old["positions"], SinCos):
        changes["positions"] = replace(old["positions"], repeat=factor * old["positions"].repeat)
    with rng.fork("new").ambient():
        made = type(net)(**{**net.describe(), **changes})
    reference = next(net.parameters())
    made = made.to(reference.device, reference.dtype).train(net.training)
    copy_into(made, net, factor, rng.fork("shares"))
    return made


def copy_into(made: FlowTransformer, net: FlowTransformer, factor: int, rng: Rng) -> None:
    """Give a larger network the weights of ``net``; raises BeelineError where their growth is not known."""
    state, rules = made.state_dict(), axes_of(net)
    first, stack = next(iter(net.stacks.items()))
    before, after = len(stack), len(made.stacks[first])
    half, moved = (before + 1) // 2, after - before
    shifts = {first: (half, moved), "skip": (0, after // 2 - before // 2)}  # (from this number, by how much)

    def place(name: str) -> str:
        """The name of an entry in the larger network."""
        head, _, tail = name.partition(".")
        number, _, rest = tail.partition(".")
        start, shift = shifts.get(head, (0, 0))
        return f"{head}.{int(number) + shift}.{rest}" if shift and int(number) >= start else name

    for name, value in net.state_dict().items():
        new = state[place(name)]
        require(
            name in rules or (factor == 1 and new.shape == value.shape),
            f"grow got a network with the parameter {name!r} of {type(owner(net, name)).__name__}, and does not know "
            "what its axes stand for; networks of attentions, feeds, experts and the modulations of "
            "networks.transformer grow in width and ratio: change depth alone, or use one of these",
        )
        new.copy_(grown(value, new, rules[name], factor, rng.fork(name)) if name in rules else value)
    if not isinstance(
        net.settings["modulation"], AdaLNZero | ReZero | TimeDependent
    ):  # whose gates are zero in a new block
        for block in made.stacks[first][half : half + moved]:
            silence(block)


def silence(block: nn.Module) -> None:
    """Let a block add nothing, so that its weights learn."""
    if isinstance(block, PeriBlock):
        block.outer.zero_()
        return
    for module in block.modules():
        for kind, outputs in OUTPUTS.items():
            for own in outputs if isinstance(module, kind) else ():
                module.get_parameter(own).zero_()


def owner(net: nn.Module, name: str) -> nn.Module:
    """The module that has a parameter."""
    return net.get_submodule(name.rpartition(".")[0])
