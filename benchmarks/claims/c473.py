"""Feeds of a small transformer of the digits, whose 128 hidden channels are divided among four experts of which a token
has two.  Which channels are together: the error of feeds with the two experts of the largest outputs, channels by
clusters of what they write (figure) against by chance.  Then 60 steps of training on the velocities of the whole
network: a router that is also taught which experts are nearest to the whole feed, against one that is not, and against
the larger half of the channels for all tokens."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.compressor import Probe
from beeline.networks.growing.experts import feeds_of, grouped, mixtures
from beeline.networks.transformer.experts import Mixture
from beeline.networks.transformer.groups import TopGroups
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FactorLLM: a dense feed becomes experts"
CLAIM = "Experts of a trained feed keep 85 percent of the quality and are 30 percent faster."
EXPERTS, STEPS, NEAR = 4, 60, 0.1


@torch.no_grad()
def given(net: nn.Module, probe: Probe) -> dict[str, Tensor]:
    """What the feeds read, by their names: tokens [T,D]."""
    seen: dict[str, list[Tensor]] = {name: [] for name, m in net.named_modules() if name.endswith("mlp")}
    handles = [
        net.get_submodule(name).register_forward_hook(lambda _, x, __, of=of: of.append(x[0].flatten(0, 1)))
        for name, of in seen.items()
    ]
    for call in probe.calls[::4]:
        net(*call.inputs)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts)[::4] for name, parts in seen.items()}


@torch.no_grad()
def clusters(feed: Any, u: Tensor, rng: bl.Rng) -> Tensor:
    """The channels in the order of equal clusters of their activity (k-means, with places for 32 of each)."""
    a = F.normalize(F.gelu(feed[0](u)).T, dim=1)
    size = len(a) // EXPERTS
    means = a[rng.permutation(len(a))[:EXPERTS]]
    for _ in range(10):
        near = (a @ means.T).repeat_interleave(size, 1)
        place = torch.as_tensor(linear_sum_assignment(-near.numpy())[1])
        means = torch.stack([F.normalize(a[place // size == e].mean(0), dim=0) for e in range(EXPERTS)])
    return place.argsort()


@torch.no_grad()
def left_error(feed: Any, u: Tensor, order: Tensor, largest: bool = True) -> float:
    """Of a feed with the two experts of the largest outputs for every token, or the smallest."""
    hidden = F.gelu(feed[0](u))[:, order].unflatten(1, (EXPERTS, -1))
    parts = torch.einsum("teh,deh->ted", hidden, feed[3].weight[:, order].unflatten(1, (EXPERTS, -1)))
    chosen = parts.norm(dim=-1).topk(2, largest=largest).indices
    made = parts.gather(1, chosen[..., None].expand(-1, -1, parts.shape[-1])).sum(1)
    return float((made - parts.sum(1)).norm() / parts.sum(1).norm())


@torch.no_grad()
def experts(net: Any, orders: dict[str, Tensor]) -> nn.Module:
    """The network with experts of channels in an order, of which a router chooses two."""
    made = grouped(net, EXPERTS, TopGroups(0.5, 0.0))
    for name, mixture in mixtures(made).items():
        feed, order = net.get_submodule(name), orders[name]
        mixture.up.copy_(feed[0].weight[order].T.unflatten(1, (EXPERTS, -1)).transpose(0, 1))
        mixture.first.copy_(feed[0].bias[order].unflatten(0, (EXPERTS, -1)))
        mixture.down.copy_(feed[3].weight.T[order].unflatten(0, (EXPERTS, -1)))
    return made


def nearness(mixture: Mixture, feed: Any, u: Tensor) -> Tensor:
    """KL(router || softmax of the nearness of experts to the whole feed), with what experts wrote before training."""
    with torch.no_grad():
        y = feed(u)[0]
        h = F.gelu(torch.einsum("td,edh->teh", u, mixture.up) + mixture.first)
        parts = torch.einsum("teh,ehd->ted", h, mixture.down)
        wanted = torch.softmax(-(parts - y[:, None]).square().sum(-1) / y.square().sum(-1).mean(), -1)
    return F.kl_div(torch.log_softmax(mixture.route.gate(u), -1), wanted, reduction="batchmean")


def taught(made: nn.Module, net: Any, probe: Probe, rng: bl.Rng, near: float) -> nn.Module:
    made = copy.deepcopy(made).requires_grad_(True).train()
    adam = torch.optim.Adam(made.parameters(), 1e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    seen: dict[Mixture, Tensor] = {}
    pairs = list(feeds_of(made, net))
    for mixture, _ in pairs:
        mixture.register_forward_pre_hook(lambda m, x: seen.__setitem__(m, x[0].detach().flatten(0, 1)))
    for step in range(STEPS):
        call = probe.calls[int(rng.fork("call", step).integers(len(probe.calls), 1))]
        adam.zero_grad()
        loss = (made(*call.inputs) - net(*call.inputs)).square().mean()
        if near:
            loss = loss + near * sum(nearness(mixture, feed, seen[mixture][::4]) for mixture, feed in pairs)
        loss.backward()
        adam.step()
        rates.step()
    return made.eval().requires_grad_(False)


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)
    looked, new = given(net, probe), given(net, fresh)
    feeds = {name: net.get_submodule(name) for name in looked}
    by_cluster = {name: clusters(feeds[name], u, rng.fork(name)) for name, u in looked.items()}
    by_chance = {name: rng.fork("chance", name).permutation(128) for name in looked}

    def mean(orders: dict[str, Tensor], largest: bool = True) -> float:
        return sum(left_error(feeds[name], new[name], orders[name], largest) for name in feeds) / len(feeds)

    start, dense = experts(net, by_cluster), grouped(net, EXPERTS, TopGroups(0.5, 1.0))
    near, alone = (change_of(taught(start, net, probe, rng, weight), net, fresh) for weight in (NEAR, 0.0))
    half, cut = change_of(taught(dense, net, probe, rng, 0.0), net, fresh), change_of(start, net, fresh)
    return [
        finding("feeds: channels by clusters (figure) against by chance", mean(by_chance), mean(by_cluster),
                mean(by_cluster, False), "the experts of the smallest outputs"),
        finding("trained: router taught by nearness (figure) against not", alone, near, cut, "no training"),
        finding("trained: two of four experts (figure) against the larger half, equal operations", half, near, cut,
                "no training"),
    ]  # fmt: skip
