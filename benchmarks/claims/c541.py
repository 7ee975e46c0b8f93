"""A flow of the ring (an MLP of 64 channels) loses a quarter or half of the channels of its stream in 300 steps of
training. One mask of all blocks, m = sigmoid(tau M) + max(0.5 - progress, 0), multiplies what writes to a channel and
its shifts; tau rises, and the loss has |mean m - share|. It starts at m = 1 and ends in a plain MLP of fewer channels.
Before it, the channels are those of a smaller network and 16 that nothing reads, whose weights are large."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.mlp import MLP
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "PAT: one mask for the width of the whole network, trained with it"
CLAIM = "A quarter of the channels of all layers can be removed during finetuning with the accuracy of no removal."
UNREAD, WIDTH, STEPS, BATCH, RATE = 16, 64, 300, 256, 3e-3
MATCHING = bl.objectives.FlowMatching()


def parts(net: Any) -> list[tuple[Tensor, int]]:
    """The tensors of an MLP that touch its residual stream, and the dimension of its channels."""
    found = [(net.inp.weight, 0), (net.inp.bias, 0), (net.out.weight, 1)]
    found += [(p.data.unflatten(0, (2 * len(net.block), -1)), 1) for p in (net.tell.weight, net.tell.bias)]
    for block in net.block:
        found += [(block.out.weight, 0), (block.out.weight, 1), (block.out.bias, 0)]
    return [(p.detach(), dim) for p, dim in found]


@torch.no_grad()
def kept(net: Any, channels: Tensor) -> bl.Network:
    """An MLP with some of the channels."""
    old, n = net.backbone, len(channels)
    made = MLP(2, width=n, depth=3)
    made.embed.load_state_dict(old.embed.state_dict())
    made.out.bias.copy_(old.out.bias)
    for (new, dim), (was, _) in zip(parts(made), parts(old), strict=True):
        new.copy_(was.index_select(dim, channels) if was.shape != (WIDTH, WIDTH) else was[channels][:, channels])
    return bl.Network(made)


@torch.no_grad()
def widened(net: Any, rng: bl.Rng) -> bl.Network:
    """The same function with channels that nothing reads, among the others; their weights are large."""
    made, used = network(rng, width=WIDTH), rng.fork("places").permutation(WIDTH)[UNREAD:].sort().values
    for (new, dim), (was, _) in zip(parts(made.backbone), parts(net.backbone), strict=True):
        new.mul_(3)
        if new.shape == (WIDTH, WIDTH):
            new[:, :] = new * ~torch.isin(torch.arange(WIDTH), used)[:, None]
            new[used[:, None], used] = was
        else:
            new.index_copy_(dim, used, was)
    unread = torch.isin(torch.arange(WIDTH), used).logical_not()
    for block in made.backbone.block:
        block.out.weight[:, unread] = 0
    made.backbone.out.weight[:, unread] = 0
    made.backbone.embed.load_state_dict(net.backbone.embed.state_dict())
    made.backbone.out.bias.copy_(net.backbone.out.bias)
    made.backbone.unread = unread
    return made


def masked(net: Any, m: Tensor) -> dict[str, Tensor]:
    """The parameters of a network whose channels are multiplied by a mask."""
    given, wide = dict(net.named_parameters()), m.repeat(2 * len(net.backbone.block))
    for name in ("inp", "tell", *(f"block.{i}.out" for i in range(len(net.backbone.block)))):
        factor = wide if name == "tell" else m
        given[f"backbone.{name}.weight"] = given[f"backbone.{name}.weight"] * factor[:, None]
        given[f"backbone.{name}.bias"] = given[f"backbone.{name}.bias"] * factor
    return given


def trained(net: Any, share: float, data: Any, rng: bl.Rng) -> tuple[Any, Tensor]:
    """A copy that is trained with a mask, and the channels that stay."""
    made = copy.deepcopy(net).requires_grad_(True)
    scores = torch.zeros(WIDTH, requires_grad=True)
    adam = torch.optim.Adam([{"params": made.parameters()}, {"params": [scores], "lr": 0.03}], RATE)
    for step in range(STEPS):
        p = step / STEPS
        m = (scores * (1 + 20 * p)).sigmoid() + max(0.5 - p, 0)
        rows = rng.fork("rows", step).permutation(len(data.x1))[:BATCH]

        def field(x: Tensor, t: Tensor, cond: Any = None, m: Tensor = m) -> Tensor:
            return torch.func.functional_call(made, masked(made, m), (x, t))

        matching = MATCHING(field, bl.Batch(data.x1[rows]), rng.fork(step)).value
        settled = p * (m * (1 - m)).clamp(min=0).mean()
        loss = matching + 20 * p * (m.mean() - share).abs() + settled
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = RATE * (1 - p)
        adam.step()
    order = scores.detach().argsort(descending=True)
    return made.eval().requires_grad_(False), order[: round(share * WIDTH)].sort().values


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, real = points(rng), noise(rng), even(RING, rng)[0]
    first = learn(network(rng, width=WIDTH - UNREAD), MATCHING, data, rng, steps=400)
    net = widened(first, rng.fork("wide"))

    def distance(made: Any) -> float:
        return w2(sample(made, x0, 20, solver=bl.solvers.HEUN), real)

    def tuned(made: Any) -> Any:
        return learn(made.requires_grad_(True), MATCHING, data, rng.fork("tune"), steps=STEPS, peak=RATE)

    found, unread = [], net.backbone.unread
    whole = 1.1 * distance(tuned(copy.deepcopy(net)))
    size = sum(p.square().sum([d for d in range(p.ndim) if d != dim]) for p, dim in parts(net.backbone))
    for share in (0.75, 0.5):
        n = round(share * WIDTH)
        made, channels = trained(net, share, data, rng.fork("mask"))
        largest = size.argsort(descending=True)[:n].sort().values
        small, other = kept(made, channels), kept(net, largest)
        raw = distance(other)
        if share == 0.75:
            there, gone = (~torch.isin(torch.arange(WIDTH), stay) for stay in (largest, channels))
            found.append(finding("share of unread channels that go: mask (figure) against the smallest",
                                 float((unread & there).sum()) / UNREAD, float((unread & gone).sum()) / UNREAD,
                                 0.0, "none", "higher"))  # fmt: skip
        after = distance(tuned(other))
        found += [
            finding(f"W2 with {share:.0%} of the channels: mask (figure) against the largest, then trained", after,
                    distance(small), raw, "the largest, without training"),
            finding(f"W2 with {share:.0%} of the channels, against 1.1 times that of all, trained as long", whole,
                    distance(small), raw, "the largest, without training"),
        ]  # fmt: skip
    return found
