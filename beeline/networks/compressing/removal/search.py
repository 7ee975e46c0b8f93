"""A part of an elastic network within a limit of seconds or operations, by evolution."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.memory import counter
from beeline.core.ranges import Count, Inside, dataclass
from beeline.core.rng import Rng
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call, Plan, Probe
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted, transformer_in
from beeline.networks.transformer.plans.subset import Portion

Genes = tuple[int, ...]
CALLS, ROWS = 8, 16  # of a probe, on which a part is compared with the whole
TIMED = 15  # evaluations of which the quickest counts


@dataclass(frozen=True)
class SubnetworkSearch:
    """The part of a network that is nearest to it within a share of its seconds, or of its operations.

    min over widths, visits and feeds E |v_part - v|^2  with cost(part) <= share cost(whole)
    All parts are tried where they are few; else by evolution: the best half of a population stays, and its members
    are mutated and crossed.  Parts inherit their weights; networks that were trained with the objective ``Elastic``
    need no training afterwards.
    Source: Wang et al. 2020, HAT (arXiv 2005.14187), with measured seconds in place of predicted ones.

    >>> SubnetworkSearch(0.5).measured
    True
    """

    share: Inside = 0.5  # of the cost of the whole network
    measured: bool = True  # seconds of an evaluation on this machine; else operations, which are counted
    widths: tuple[Portion, ...] = (1.0, 0.75, 0.5, 0.25)
    feeds: tuple[Portion, ...] = ()  # shares of the hidden channels, chosen for every block; () is the width of all
    population: Count = 32
    generations: Count = 10
    mutate: Inside = 0.2  # chance of a gene

    @torch.no_grad()
    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        begin = time.perf_counter()
        blocks = [id(block) for _, block in transformer_in(network, "SubnetworkSearch").visits]
        visits = len(blocks)
        few = [
            call.rows(torch.arange(min(ROWS, len(call.x)), device=call.x.device))
            for call in probe.calls[:: max(1, len(probe.calls) // CALLS)]
        ]
        wanted = [network(*call.inputs) for call in few]

        def part(genes: Genes) -> dict[str, Any]:
            """Arguments of a part; the gene of a visit is 0 where it is left out, else the number of its feed.

            A block of several visits has the feed of its first one.
            """
            kept = tuple(k for k in range(visits) if genes[1 + k])
            first = [genes[1 + blocks.index(block)] for block in blocks]
            feeds = tuple(self.feeds[max(0, g - 1)] for g in first) if self.feeds else None
            return {"width": self.widths[genes[0]], "visits": kept or (0,), "feeds": feeds}

        @functools.cache
        def error(genes: Genes) -> float:
            small = SubNetwork(network, **part(genes))
            return sum(float((small(*c.inputs) - v).square().sum()) for c, v in zip(few, wanted, strict=True))

        @functools.cache
        def cost(genes: Genes) -> float:
            return price(extracted(network, **part(genes)), probe.calls[0])

        price: Callable[[nn.Module, Call], float] = seconds if self.measured else operations
        limit = self.share * price(network, probe.calls[0])
        widths, feeds = self.widths, self.feeds or (1.0,)
        smallest = (widths.index(min(widths)), 1 + feeds.index(min(feeds)), *[0] * (visits - 1))
        least = self.share * cost(smallest) / limit
        options = (len(widths), *[1 + len(feeds)] * visits)
        best = evolved(options, error, cost, limit, smallest, self.population, self.generations, self.mutate)
        require(
            best is not None,
            f"SubnetworkSearch got share={self.share:g}, and no part of the network that was tried costs so little; "
            f"the smallest one costs {least:.3f}: give that or more, or widths below {min(self.widths):g}",
        )
        assert best is not None
        small = extracted(network, **part(best))
        found = {
            **part(best),
            "cost": cost(best) / limit * self.share,
            "error": error(best) ** 0.5 / max(sum(float(v.square().sum()) for v in wanted), 1e-30) ** 0.5,
        }
        return Plan(found, stored_bytes(network), stored_bytes(small), time.perf_counter() - begin)

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return extracted(network, **{name: plan.decisions[name] for name in ("width", "visits", "feeds")})


def evolved(
    options: Sequence[int],  # of every gene
    error: Callable[[Genes], float],
    cost: Callable[[Genes], float],
    limit: float,
    first: Genes,  # that are tried in any case
    population: int = 32,
    generations: int = 10,
    mutate: float = 0.2,
    rng: Rng = Rng(0),  # noqa: B008 - a key
) -> Genes | None:
    """The genes with the least error of those that were tried and cost at most ``limit``; None where none does.

    All are tried if they are at most ``population * generations``.
    """
    tried: dict[Genes, float] = {}

    def evaluate(genes: Genes) -> None:
        if genes not in tried:
            tried[genes] = error(genes) if cost(genes) <= limit else math.inf

    evaluate(first)
    if math.prod(options) <= population * generations:
        for genes in itertools.product(*map(range, options)):
            evaluate(genes)
    else:
        for draw in range(population):
            evaluate(_drawn(options, rng.fork("start", draw)))
        for generation in range(1, generations):
            parents = sorted(tried, key=lambda g: (tried[g], cost(g)))[: population // 2]
            before = len(tried)
            for draw in range(4 * population):  # children that were tried before cost nothing
                if len(tried) - before < population:
                    evaluate(_child(parents, options, mutate, rng.fork(generation, draw)))
    best = min(tried, key=lambda g: tried[g])
    return best if tried[best] < math.inf else None


def _drawn(options: Sequence[int], rng: Rng) -> Genes:
    chance = rng.uniform(len(options), torch.empty(0)).tolist()
    return tuple(min(n - 1, int(u * n)) for n, u in zip(options, chance, strict=True))


def _child(parents: Sequence[Genes], options: Sequence[int], mutate: float, rng: Rng) -> Genes:
    first, second = (parents[int(i)] for i in rng.fork("parents").integers(len(parents), 2))
    chance = rng.fork("chance").uniform(2 * len(options), torch.empty(0)).view(2, -1).tolist()
    new = _drawn(options, rng.fork("new"))
    crossed = (a if u < 0.5 else b for a, b, u in zip(first, second, chance[0], strict=True))
    return tuple(n if u < mutate else g for g, n, u in zip(crossed, new, chance[1], strict=True))


def seconds(network: nn.Module, call: Call) -> float:
    """The least seconds of an evaluation, which other work on the machine disturbs least."""
    times = []
    for _ in range(TIMED + 1):
        begin = time.perf_counter()
        network(*call.inputs)
        if call.x.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def operations(network: nn.Module, call: Call) -> float:
    """The operations of products in an evaluation."""
    with counter() as counted:
        network(*call.inputs)
    return float(counted.get_total_flops())
