"""Plans of skipped blocks: Euler steps of shorter networks, counted blocks, and a search that is never worse."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.distillation.fit_blocks import BlockSearch, search_blocks
from beeline.networks.skipping import without_blocks
from beeline.sampling.guidance.block_skips import SkippedBlocks
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.runge_kutta import EULER
from tests.networks.test_skipping import COND, X, network

PLAN = ((0.25, ("block.1",)), (0.75, ("block.0", "block.2")))


def sampled(flow, guidance, **more):
    return bl.Sampler(4, **{"solver": EULER, "guidance": guidance, **more})(flow, X, COND)


@pytest.mark.parametrize("guidance", [bl.guidance.Plain(), bl.CFG(2.0, {"label": 3})])
def test_steps_are_those_of_shorter_networks(guidance):
    flow = bl.Flow(network())
    found, x = sampled(flow, SkippedBlocks(PLAN, guidance)), X
    with torch.no_grad():
        for t in (0.0, 0.25, 0.5, 0.75):
            field = without_blocks(flow.field, dict(PLAN).get(t, ()))
            x = x + 0.25 * guidance(field, COND)(x, torch.full((4,), t))
    assert (found - x).abs().max() <= 1e-6 * x.abs().max()
    assert torch.equal(sampled(flow, SkippedBlocks((), guidance)), sampled(flow, guidance))
    assert torch.equal(sampled(flow, SkippedBlocks(((0.25, ()),), guidance)), sampled(flow, guidance))


def test_a_plan_is_stored_with_a_bundle(tmp_path):
    sampler = bl.Sampler(4, solver=EULER, guidance=SkippedBlocks(PLAN, bl.CFG(2.0, {"label": 3})))
    bundle = bl.Bundle(bl.Flow(network(), null={"label": 3}), sampler)
    bundle.save(tmp_path / "short")
    loaded = bl.load(tmp_path / "short")
    assert loaded.sampler == sampler and sampler.evaluations == 8
    assert torch.equal(loaded.sampler(loaded.flow, X, COND), sampler(bundle.flow, X, COND))


def blocks_of(sampler, depth):
    """The evaluations of blocks by one sample."""
    skips = sampler.guidance.plan if isinstance(sampler.guidance, SkippedBlocks) else ()
    return sampler.steps * depth - sum(len(names) for _, names in skips)


def test_the_search_costs_what_it_says_and_is_never_worse_than_the_full_network():
    net = network()
    with torch.no_grad():  # one block does nothing and can be skipped without loss
        net.backbone.block[1].tell.weight.zero_()
        net.backbone.block[1].tell.bias.zero_()
    flow, scores = bl.Flow(net), []
    target = bl.Rng(4).normal(torch.empty(1, 1, 8, 8))

    def score(x):
        scores.append(float((x - target).square().mean()))
        return scores[-1]

    method = BlockSearch(population=10, keep=3, generations=2, starts=(bl.schedules.Uniform(),))
    like = torch.empty(16, 1, 8, 8)
    given = dict(like=like, rng=bl.Rng(2), cond={"label": torch.arange(16) % 3}, method=method)
    found = search_blocks(flow, 3, score=score, **given)
    full = bl.Sampler(3, solver=EULER)
    x0 = flow.source.sample(like, bl.Rng(2).fork("noise"))
    held = bl.Rng(2).fork("split").permutation(16)[:4]
    of = lambda sampler: score(sampler(flow, x0[held], {"label": held % 3}))  # noqa: E731
    assert of(found) <= of(full) + 1e-6 and found.steps >= 3
    assert blocks_of(found, 3) == 9
    truth = bl.Sampler(6, solver=bl.solvers.RK4)
    near = search_blocks(flow, 3, truth=truth, **given)  # to exact end points
    exact = truth(flow, x0[held], {"label": held % 3})
    off = [float((s(flow, x0[held], {"label": held % 3}) - exact).norm()) for s in (near, full)]
    assert off[0] < off[1], "a free block pays for a fourth step"


def test_every_genome_has_the_cost_of_the_full_network():
    method = BlockSearch(population=20, keep=4, generations=4, more=1.0)
    seen = []
    found = method(lambda genome: seen.append(genome) or hash(genome) % 97, 4, 5, bl.Rng(0))
    assert found == method(lambda genome: hash(genome) % 97, 4, 5, bl.Rng(0))
    assert {len(g.skipped) for g in seen} >= {4, 5, 6}
    for g in seen:
        assert len(g.grid) == len(g.skipped) + 1 and g.grid == tuple(sorted(set(g.grid)))
        assert (g.grid[0], g.grid[-1]) == (0, 64)
        assert sum(5 - len(row) for row in g.skipped) == 20


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SkippedBlocks(((1.5, ("block.0",)),)), "a time in"),
        (lambda: sampled(bl.Flow(network()), SkippedBlocks(((0.5, ("block.9",)),))), "no block 'block.9'"),
        (lambda: sampled(bl.Flow(network()), SkippedBlocks(PLAN), solver=Picard(4, 1e-6)), "samples at times from"),
        (lambda: search_blocks(bl.Flow(network()), 0, like=X, rng=bl.Rng(0)), "steps=0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_the_inner_guidance_is_that_of_the_flow():
    flow = bl.Flow(network(), null={"label": 3})
    guidance = replace(SkippedBlocks(PLAN), guidance=bl.CFG(2.0))
    assert torch.isfinite(sampled(flow, guidance)).all() and guidance.calls(0.5) == 2
