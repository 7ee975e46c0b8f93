"""Search for time steps and for the blocks of a network that are skipped in each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.ranges import Count, Share, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Flow
from beeline.networks.skipping import block_names
from beeline.sampling.guidance.block_skips import SkippedBlocks
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import require_ode
from beeline.solvers.runge_kutta import EULER, RK4
from beeline.times.schedules import Explicit, Shifted, Uniform

Score = Callable[[Tensor], float]


@plain_dataclass(frozen=True, order=True)
class Genome:
    """A grid of fine times with both ends, and the skipped blocks of every step."""

    grid: tuple[int, ...]
    skipped: tuple[tuple[int, ...], ...]  # indices of blocks, one tuple for each step

    def row_near(self, t: int) -> tuple[int, ...]:
        """The skipped blocks of the step that starts nearest to a fine time."""
        return min((abs(start - t), row) for start, row in zip(self.grid, self.skipped, strict=False))[1]


@dataclass(frozen=True)
class BlockSearch:
    """Evolutionary search over time steps and skipped blocks, at the cost of ``steps`` evaluations of all blocks.

    children = times and skipped blocks of two parents, one time and one block changed;  the best survive
    All samplers of a search start from the same source points.  The first generation has the usual schedules with the
    full network, which survive unless others are better, so that the result is never worse than these in the search.
    Source: Li et al. 2023, "AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated
    Diffusion Model Acceleration" (arXiv 2309.10438).

    >>> BlockSearch(generations=2).keep
    8
    """

    more: Share = 0.5  # of the steps may be added, at the cost of skipped blocks
    fine: Count = 64  # times from which nodes are chosen
    population: Count = 32  # samplers in a generation
    keep: Count = 8  # that survive, and are the parents
    generations: Whole = 10
    solver: Solver = EULER  # with one evaluation per step
    starts: tuple[Schedule, ...] = (Uniform(), Shifted(0.5), Shifted(2.0), Shifted(3.0))  # with the full network

    def __call__(self, score: Callable[[Genome], float], steps: int, depth: int, rng: Rng) -> list[Genome]:
        """The genomes of the last generation from the best on, and those of the full network."""
        full = [Genome(self.snapped(s(steps).tolist(), steps), ((),) * steps) for s in self.starts]
        genomes = set(full)
        for k in range(self.population - len(genomes)):
            genomes.add(self.mutated(full[k % len(full)], steps, depth, rng.fork("first", k)))
        for g in range(self.generations):
            best = sorted(sorted(genomes), key=score)[: self.keep]
            genomes = set(best)
            for k in range(self.population - self.keep):
                child_rng = rng.fork("child", g, k)
                a, b = (best[i] for i in child_rng.integers(len(best), 2).tolist())
                genomes.add(self.mutated(self.crossed(a, b, child_rng), steps, depth, child_rng))
        return sorted(sorted(genomes), key=score)[: self.keep] + full

    def crossed(self, a: Genome, b: Genome, rng: Rng) -> Genome:
        """As many steps as ``a`` with times of both, and every step with the blocks of the nearest one of a parent."""
        count = len(a.skipped)
        pool = sorted(set(a.grid[1:-1]) | set(b.grid[1:-1]))
        pick = rng.fork("pick").permutation(len(pool))[: count - 1].tolist()
        grid = (0, *sorted(pool[i] for i in pick), self.fine)
        chosen = [(a, b)[i] for i in rng.fork("parents").integers(2, count).tolist()]
        rows = [parent.row_near(t) for t, parent in zip(grid, chosen, strict=False)]
        return Genome(grid, tuple(rows))

    def mutated(self, genome: Genome, steps: int, depth: int, rng: Rng) -> Genome:
        """With one time moved, at times another number of steps, and the skipped blocks that the budget needs."""
        inner, rows = list(genome.grid[1:-1]), [set(row) for row in genome.skipped]
        most = min(math.floor(steps * (1 + self.more)), self.fine, steps * depth)
        choice = int(rng.fork("count").integers(4, 1))
        if choice == 0 and len(rows) < most:
            at = int(rng.fork("at").integers(len(rows), 1))
            inner.append(int(rng.fork("new").integers(self.fine - 1, 1)) + 1)
            rows.insert(at, set(rows[at]))
        elif choice == 1 and len(rows) > steps:
            at = int(rng.fork("at").integers(len(inner), 1))
            del inner[at], rows[at]
        elif inner:
            where, by = int(rng.fork("where").integers(len(inner), 1)), int(rng.fork("by").integers(9, 1)) - 4
            inner[where] += by
        grid = self.snapped([t / self.fine for t in sorted(inner)], len(rows))
        spare = [(i, b) for i, row in enumerate(rows) for b in row]
        if spare:  # one block is evaluated again, another one is skipped in its place
            i, b = spare[int(rng.fork("again").integers(len(spare), 1))]
            rows[i].discard(b)
        places = [(i, b) for i in range(len(rows)) for b in range(depth)]
        order = [places[k] for k in rng.fork("order").permutation(len(places)).tolist()]
        excess = len(rows) * depth - sum(map(len, rows)) - steps * depth
        for i, b in order:
            if excess > 0 and b not in rows[i]:
                rows[i].add(b)
                excess -= 1
            elif excess < 0 and b in rows[i]:
                rows[i].discard(b)
                excess += 1
        return Genome(grid, tuple(tuple(sorted(row)) for row in rows))

    def snapped(self, times: list[float], steps: int) -> tuple[int, ...]:
        """Distinct fine times with both ends; equal times are moved to the nearest free ones."""
        used: set[int] = set()
        for t in [round(t * self.fine) for t in times if 0 < t < 1][: steps - 1]:
            used.add(min((abs(k - t), k) for k in range(1, self.fine) if k not in used)[1])
        spare = (k for k in range(1, self.fine) if k not in used)
        while len(used) < steps - 1:
            used.add(next(spare))
        return (0, *sorted(used), self.fine)

    def sampler(self, genome: Genome, names: tuple[str, ...], guidance: Guidance) -> Sampler:
        """The sampler of a genome."""
        times = tuple(k / self.fine for k in genome.grid)
        plan = tuple((t, tuple(names[b] for b in row)) for t, row in zip(times, genome.skipped, strict=False) if row)
        skips = SkippedBlocks(plan, guidance) if plan else guidance
        return Sampler(len(genome.skipped), Explicit(times), self.solver, skips)


def search_blocks(
    flow: Flow,
    steps: int,
    *,
    like: Tensor,
    rng: Rng,
    cond: Cond = None,
    guidance: Guidance | None = None,
    method: BlockSearch | None = None,
    truth: Sampler | None = None,
    score: Score | None = None,
) -> Sampler:
    """A Sampler whose steps evaluate as many blocks as ``steps`` evaluations of the network.

    It is searched on as many source points as ``like`` [n,*S] has rows; ``cond`` has one row for each.  ``score`` maps
    samples [n,*S] to a number that is made small; by default it is the root mean square distance to the end points of
    ``truth`` (32 steps of RK4).  A quarter of the points is held out; the result is the best on them of the last
    generation and of the usual schedules with the full network.  Its guidance is SkippedBlocks, so that it is stored
    with the sampler of a bundle.  Blocks count as equally expensive.

    Raises ValueError for a field without blocks, and for fewer than 8 source points.
    """
    require_ode(flow, "a search over time steps")
    method, guidance = method or BlockSearch(), guidance or Plain()
    require(
        isinstance(steps, int) and 1 <= steps <= method.fine and len(like) >= 8,
        f"search_blocks got steps={steps!r} and like= with {len(like)} rows; nodes are chosen from {method.fine} fine "
        "times and scored on source points: give a whole number of steps up to that, and at least 8 rows",
    )
    names = block_names(flow.field)
    x0 = flow.source.sample(like, rng.fork("noise"))
    x1 = (truth or Sampler(32, solver=RK4, guidance=guidance))(flow, x0, cond)
    order = rng.fork("split").permutation(len(x0)).to(x0.device)

    def scored(rows: Tensor) -> Callable[[Genome], float]:
        start, wanted = x0[rows], x1[rows]
        given = map_cond(lambda leaf: leaf[rows.to(leaf.device)], cond)
        known: dict[Genome, float] = {}

        def of(genome: Genome) -> float:
            if genome not in known:
                made = method.sampler(genome, names, guidance)(flow, start, given)
                known[genome] = score(made) if score else float((made - wanted).square().mean().sqrt())
            return known[genome]

        return of

    with torch.no_grad():
        found = method(scored(order[len(x0) // 4 :]), steps, len(names), rng.fork("search"))
        return method.sampler(min(found, key=scored(order[: len(x0) // 4])), names, guidance)
