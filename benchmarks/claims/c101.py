"""Which blocks of a transformer of the digits are skipped, by a bandit: blocks have preferences, in every update a few
draws skip blocks of small preference, and those of draws with a larger exp(-loss) than the others lose preference.  Two
blocks that do nothing among six, found in 100 updates of three draws; and two of four blocks with a bottleneck in their
place, trained with the others frozen on inverted digits, against blocks by chance, and those whose removal changes the
velocities of the old digits least.  The figure is the loss of held-out inverted digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.prune import Shallow
from benchmarks.claims.small_transformers import digits as pictures
from benchmarks.claims.storing import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DAS: blocks to skip by the rewards of a bandit"
CLAIM = "Skipped blocks save 12 percent of the operations at a competitive accuracy."
UPDATES, DRAWS, STEPS, BATCH, RATE = 100, 3, 80, 32, 4.0


class Bottleneck(nn.Module):
    """h + W2 gelu(W1 norm(h)), W2 zero at first."""

    def __init__(self, width: int = 32, inner: int = 8):
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(F.gelu(self.down(F.layer_norm(h, h.shape[-1:]))))


def output(
    net: Any, blocks: Sequence[int | None], inner: Any, skipped: Collection[int], x: Tensor, t: Tensor
) -> Tensor:
    """Velocities by blocks of a network, None for one that does nothing, with others in place of those skipped."""
    h, told, out = net.stages(x, t)
    for k, block in enumerate(blocks):
        if k in skipped:
            h = inner[k](h)
        elif block is not None:
            h = net.block[block](h, *told[block])
    return out(h, *told[-1])


def loss_of(rng: bl.Rng, x1: Tensor, v: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    x0, t = rng.fork("noise").normal(x1), rng.fork("t").uniform(len(x1), x1)
    return (v(x0 + t[:, None, None, None] * (x1 - x0), t) - (x1 - x0)).square().mean()


def searched(
    loss: Callable[[tuple[int, ...], bl.Rng], Tensor],
    blocks: int,
    rng: bl.Rng,
    shuffled: bool = False,
    adam: Any = None,
) -> tuple[int, ...]:
    """Two blocks by the bandit; what is in their place is trained with ``adam``."""
    prefer = torch.zeros(blocks)
    for step in range(UPDATES):
        key = rng.fork("update", step)
        noise = key.fork("draw").uniform(DRAWS * blocks, prefer).view(DRAWS, -1)
        chance = -prefer - (-noise.log()).log()  # the two largest: draws without replacement
        drawn = [tuple(sorted(row.topk(2).indices.tolist())) for row in chance]
        found = [loss(skipped, key) for skipped in drawn]  # all draws see the same batch
        if adam is not None:
            adam.zero_grad()
            sum(found).backward()
            adam.step()
        reward = torch.stack([(-one.detach()).exp() for one in found])
        if shuffled:
            reward = reward[key.fork("shuffle").permutation(DRAWS)]
        for skipped, advantage in zip(drawn, (reward - reward.mean()).tolist(), strict=True):
            for k in skipped:
                prefer[k] -= RATE * advantage
    return tuple(sorted(prefer.topk(2, largest=False).indices.tolist()))


def adapted(net: Any, skipped: Collection[int], rng: bl.Rng) -> float:
    """The loss of held-out inverted digits after training of two bottlenecks in place of blocks."""
    inner, held = bottlenecks(rng), -pictures()[1].x1
    adam = torch.optim.Adam(inner.parameters(), 5e-3)
    for step in range(STEPS):
        adam.zero_grad()
        few(net, inner, skipped, rng.fork("step", step)).backward()
        adam.step()
    with torch.no_grad():
        return float(loss_of(rng.fork("held"), held, lambda x, t: output(net, range(4), inner, skipped, x, t)))


def few(net: Any, inner: Any, skipped: Collection[int], rng: bl.Rng) -> Tensor:
    x1 = -pictures()[0].x1
    some = x1[rng.fork("rows").integers(len(x1), BATCH)]
    return loss_of(rng, some, lambda x, t: output(net, range(4), inner, skipped, x, t))


def bottlenecks(rng: bl.Rng) -> nn.ModuleList:
    with rng.fork("bottlenecks").ambient():
        return nn.ModuleList(Bottleneck() for _ in range(4))


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, _ = digits(rng.seed)
    x1 = pictures()[0].x1
    places = sorted(rng.fork("places").permutation(6)[:2].tolist())
    rest = iter(range(4))
    blocks = [None if k in places else next(rest) for k in range(6)]

    @torch.no_grad()
    def planted(skipped: tuple[int, ...], key: bl.Rng) -> Tensor:
        some = x1[key.fork("rows").integers(len(x1), BATCH)]
        return loss_of(key, some, lambda x, t: output(net, blocks, [nn.Identity()] * 6, skipped, x, t))

    def share(shuffled: bool) -> float:
        return len(set(searched(planted, 6, rng.fork("planted"), shuffled)) & set(places)) / 2

    inner = bottlenecks(rng)
    adam = torch.optim.Adam(inner.parameters(), 5e-3)
    bandit = searched(lambda skipped, key: few(net, inner, skipped, key), 4, rng.fork("search"), adam=adam)
    least = tuple(int(k) for k in Shallow(2).plan(net, probe).decisions)
    every = {skipped: adapted(net, skipped, rng) for skipped in itertools.combinations(range(4), 2)}
    chance, frozen = sum(every.values()) / 6, max(every.values())
    return [
        finding("share of two idle blocks that are found (figure) against chance", 1 / 3, share(False), share(True),
                "shuffled rewards", "higher"),
        finding("two blocks skipped by the bandit (figure) against the mean of all pairs", chance, every[bandit],
                frozen, "the worst pair"),
        finding("two blocks skipped by the bandit (figure) against those that change velocities least",
                every[tuple(sorted(least))], every[bandit], frozen, "the worst pair"),
    ]  # fmt: skip
