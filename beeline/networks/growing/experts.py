"""Dense feeds as experts or groups of channels, and experts as dense feeds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring
from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.networks.growing.grow import N
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.experts import Experts, Mixture
from beeline.networks.transformer.feeds import Dense, FeedForward
from beeline.networks.transformer.groups import Groups, TopGroups
from beeline.networks.transformer.routers import Awake, BiasBalanced, Prototypes, Rectify, Router, SharedTop, TopK


@torch.no_grad()
def upcycle(net: N, count: int = 8, router: Router | None = None, rng: Rng | None = None) -> N:
    """A network with experts in place of dense feeds, with the outputs of ``net``.

    Every expert is a copy of the feed, and the weights of a token sum to 1.  With Prototypes, whose weights do not, the
    feed is the expert that takes all tokens, and the others add nothing at first.
    Outputs are equal up to rounding.  A token costs as much as its active experts do, each as large as the dense feed.
    Source: Ding et al. 2024, "XFT" (arXiv 2404.15247); Komatsuzaki et al. 2022, "Sparse Upcycling" (arXiv 2212.05055).

    >>> from beeline.networks.dit import DiT
    >>> upcycle(DiT((1, 8, 8), width=32, depth=2), 4, TopK(2)).settings["feed"]
    Experts(count=4, router=TopK(active=2), share=1, shared=False)

    Raises BeelineError for other feeds than FeedForward, and for routers whose weights have another sum.
    """
    router = router or SharedTop(max(2, 3 * count // 4))
    require(
        isinstance(router, TopK | BiasBalanced | SharedTop | Rectify | Prototypes),
        f"upcycle got the router {type(router).__name__}; copies of a feed change nothing only with weights that sum "
        "to 1: give SharedTop, TopK, BiasBalanced, Rectify or Prototypes",
    )
    shared = isinstance(router, Prototypes)
    made = with_feed(net, Experts(count, router, 1, shared), "upcycle", rng)
    for mixture, dense in feeds_of(made, net):
        for part, value in zip(parts(mixture), matrices(dense), strict=True):
            part.copy_(value.expand_as(part))
        if mixture.shared is not None:
            mixture.shared.load_state_dict(dense.state_dict())
            mixture.down.zero_()
            mixture.second.zero_()
    return made


@torch.no_grad()
def grouped(net: N, count: int = 8, router: Router | None = None, rng: Rng | None = None) -> N:
    """A network whose dense feeds are in groups of hidden channels, with the outputs of ``net`` for weights of 1.

    Channels are ordered by |w1| |w2|, the norms of what they read and write, the largest first.  Outside of training
    outputs are equal up to rounding for Prefix() at first and for TopGroups(1.0); other shares leave channels out.
    With ReLURouter the gate is zero with a bias of 1, so that all weights are 1; learn it from there.
    Source: Wojcik et al. 2023, "Adaptive Computation Modules" (arXiv 2312.10193), whose groups are distilled.

    >>> from beeline.networks.dit import DiT
    >>> grouped(DiT((1, 8, 8), width=32, depth=2), 4).settings["feed"].count
    4

    Raises BeelineError for other feeds than FeedForward, and for a number that does not divide their channels.
    """
    made = with_feed(net, Groups(count, router or TopGroups()), "grouped", rng)
    for mixture, dense in feeds_of(made, net):
        up, first, down, second = matrices(dense)
        order = (up.norm(dim=0) * down.norm(dim=1)).argsort(descending=True, stable=True)
        mixture.up.copy_(up[:, order].unflatten(1, (count, -1)).transpose(0, 1))
        mixture.first.copy_(first[order].unflatten(0, (count, -1)))
        mixture.down.copy_(down[order].unflatten(0, (count, -1)))
        mixture.second.copy_((second / count).expand_as(mixture.second))
        if isinstance(mixture.route, Awake):
            mixture.route.gate.weight.zero_()
    return made


def merge(net: N, keep: float = 0.75) -> N:
    """A dense network of one with experts: each matrix is ``keep`` of the first expert and the rest of their mean.

    The matrices of the experts are averaged, which is good where all are copies of one feed that were trained little.
    Equal experts give a network with equal outputs.  ``Merging`` learns the weights of the mean.
    Source: Ding et al. 2024, "XFT" (arXiv 2404.15247).

    >>> from beeline.networks.dit import DiT
    >>> merge(upcycle(DiT((1, 8, 8), width=32, depth=2))).settings["feed"]
    FeedForward(tanh=False)

    Raises BeelineError for feeds other than Experts of the size of dense ones.
    """
    return Merging(net, keep).dense()


class Merging(Declaring):
    """A dense network of one with experts, whose weights of the experts learn.

    W = keep W_0 + (1 - keep) sum_e softmax(alpha)_e W_e for every matrix of a feed, alpha = 0 at first
    The experts stay as they are; train it as a backbone for a short time, then take ``dense()``.
    Source: Ding et al. 2024, "XFT" (arXiv 2404.15247).

    >>> from beeline.networks.dit import DiT
    >>> Merging(upcycle(DiT((1, 8, 8), width=32, depth=2), 4)).alpha.shape
    torch.Size([2, 4])
    """

    def __init__(self, net: FlowTransformer, keep: float = 0.75):
        super().__init__()
        feed = net.settings["feed"]
        require(
            0 <= keep <= 1,
            f"Merging got keep={keep}; it is the share of the first expert in the dense feed: give 0 to 1",
        )
        require(
            isinstance(feed, Experts) and feed.share == 1 and not feed.shared,
            f"Merging got a network with feed={feed}; it merges experts that each have the size of the dense feed: use "
            "one that upcycle made, or was trained with feed=Experts(share=1)",
        )
        self.keep, self.experts = keep, copy.deepcopy(net).requires_grad_(False)
        self.alpha = nn.Parameter(torch.zeros(len(mixtures(net)), feed.count))
        blank = type(net)(**{**net.describe(), "feed": FeedForward()})
        self.blank = like(blank, net).requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """The state of the dense network, which depends on alpha."""
        inside = mixtures(self.experts)
        found = {k: v for k, v in self.experts.state_dict().items() if not any(k.startswith(f"{n}.") for n in inside)}
        for (name, part), alpha in zip(inside.items(), self.alpha, strict=True):
            weight = torch.softmax(alpha, 0)

            def merged(value: Tensor, weight: Tensor = weight) -> Tensor:
                return self.keep * value[0] + (1 - self.keep) * torch.tensordot(weight.to(value), value, 1)

            found |= {f"{name}.0.weight": merged(part.up).T, f"{name}.0.bias": merged(part.first)}
            found |= {f"{name}.3.weight": merged(part.down).T, f"{name}.3.bias": merged(part.second)}
        return found

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        out: Tensor = torch.func.functional_call(self.blank, self.state(), (x, t, cond, s))
        return out

    @torch.no_grad()
    def dense(self) -> Any:
        """The dense network of the present alpha, with weights of its own."""
        made = copy.deepcopy(self.blank).requires_grad_(True)
        made.load_state_dict(self.state())
        return made


def with_feed(net: N, feed: Any, asked: str, rng: Rng | None) -> N:
    """A new network with another feed, and all other weights of ``net``."""
    require(
        net.settings["feed"] == FeedForward(),
        f"{asked} got a network with feed={net.settings['feed']}; it divides or copies dense feeds of two linear "
        "layers: give one with feed=FeedForward()",
    )
    with (rng or Rng(0)).ambient():
        made = type(net)(**{**net.describe(), "feed": feed})
    inside = mixtures(made)
    state = {k: v for k, v in net.state_dict().items() if not any(k.startswith(f"{name}.") for name in inside)}
    like(made, net).load_state_dict(state, strict=False)
    return made


def like(made: N, net: nn.Module) -> N:
    """A network in the dtype, on the device and in the mode of another."""
    reference = next(net.parameters())
    return made.to(reference.device, reference.dtype).train(net.training)


def parts(mixture: Mixture) -> tuple[Tensor, ...]:
    """The matrices of experts: up [E,D,H], its bias [E,H], down [E,H,D] and its bias [E,D]."""
    return mixture.up, mixture.first, mixture.down, mixture.second


def matrices(dense: Dense) -> tuple[Tensor, ...]:
    """Those of a dense feed: up [D,H], its bias [H], down [H,D] and its bias [D]."""
    up, first, down, second = (dense.get_parameter(name) for name in ("0.weight", "0.bias", "3.weight", "3.bias"))
    return up.T, first, down.T, second


def mixtures(net: nn.Module) -> dict[str, Mixture]:
    """The feeds of several experts by their names."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Mixture)}


def feeds_of(made: nn.Module, net: nn.Module) -> Iterator[tuple[Mixture, Dense]]:
    """The feeds of ``made`` and those of ``net`` in their places."""
    for name, mixture in mixtures(made).items():
        dense = net.get_submodule(name)
        assert isinstance(dense, Dense)
        yield mixture, dense
