"""Caches under the package's own loop: equal to the pipelines' runs with the same caches, and apart by prediction."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.modes import moved
from beeline.fields.flow import Flow, bind
from beeline.hub.pipelines import from_pipeline
from beeline.hub.speed import cached, compiled, counting
from beeline.networks.hub.caches import (
    CACHES,
    AttentionBroadcast,
    FasterCache,
    FirstBlock,
    MagCache,
    TaylorSeer,
    blocks_of,
)
from beeline.networks.hub.copies import Cached
from beeline.networks.hub.families import FAMILIES
from beeline.networks.hub.family import Pretrained
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG
from beeline.solvers.runge_kutta import HEUN
from tests.networks.hub import tiny_diffusions
from tests.networks.hub.test_families import CASES, ours
from tests.networks.hub.tiny import df
from tests.networks.hub.tiny_images import flux_net

STEPS = 6
RATIOS = (1.0, 1.2, 1.1, 1.05, 1.0, 0.9)
REUSING = {
    FirstBlock: FirstBlock(0.8, per_sample=False),
    MagCache: MagCache(RATIOS, STEPS, threshold=0.3),
    TaylorSeer: TaylorSeer(every=2, warmup=2),
    AttentionBroadcast: AttentionBroadcast(every=2, window=(0.0, 0.95)),
    FasterCache: FasterCache(every=2, window=(0.0, 0.95)),
}
NEVER = {
    FirstBlock: FirstBlock(0.0, per_sample=False),
    MagCache: MagCache(RATIOS, STEPS, full=1.0),
    TaylorSeer: TaylorSeer(every=1),
    AttentionBroadcast: AttentionBroadcast(every=1),
    FasterCache: FasterCache(every=1, window=(0.0, 1.0)),
}
PAIRS = [(family, kind) for kind in CACHES for family in kind.families]
JOINED = ("ltx", "mochi")  # their pipelines evaluate both predictions in one batch
WITHOUT_CONTEXT = ("flux2", "chroma", "hunyuan-image")  # their pipelines name no prediction


@pytest.fixture(autouse=True)
def silent():
    df.utils.logging.set_verbosity_error()
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def made():
    """Cases and bundles by family; no test changes their networks."""
    found = {}

    def get(name):
        if name not in found:
            case = CASES[name]()
            case.pipe.set_progress_bar_config(disable=True)
            found[name] = case, from_pipeline(case.pipe, **case.size)
        return found[name]

    return get


def of_pipeline(case, family, cache, guided):
    """The latents of the pipeline's own call with a cache of diffusers."""
    net = case.pipe.transformer
    net.enable_cache(cache.config(lambda: float(case.pipe._current_timestep)))
    named = net.cache_context("cond") if family in WITHOUT_CONTEXT else contextlib.nullcontext()
    try:
        with torch.no_grad(), named:
            return case.theirs(STEPS, guided)
    finally:
        net._reset_stateful_cache()
        net.disable_cache()


@pytest.mark.parametrize("family, kind", PAIRS, ids=[f"{family}-{kind.__name__}" for family, kind in PAIRS])
def test_a_cache_gives_the_latents_of_the_pipeline_with_it(made, family, kind):
    case, bundle = made(family)
    apart = kind is FirstBlock and family in JOINED  # a decision for both predictions there, one for each here
    shared = kind in (AttentionBroadcast, FasterCache) and family not in JOINED  # one cache for both predictions there
    guided = case.null is not None and family not in WITHOUT_CONTEXT and not apart and not shared
    quick = cached(bundle, REUSING[kind])
    with counting(quick) as counts:
        found = ours(case, guided, quick, STEPS)
    wanted = of_pipeline(case, family, REUSING[kind], guided)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert counts.reused > 0 and counts.full > 0
    assert counts.full + counts.reused == len(case.x0) * STEPS * (2 if guided else 1)
    assert torch.equal(ours(case, guided, quick, STEPS), found)


@pytest.mark.parametrize("family", TaylorSeer.families)
def test_the_whole_network_is_extrapolated(made, family):
    """The same latents as in the pipeline; reuse evaluates no block and continues the outputs linearly."""
    case, bundle = made(family)
    cache = TaylorSeer(every=3, warmup=2, whole=True)
    quick = cached(bundle, cache)
    with counting(quick) as counts:
        found = ours(case, False, quick, STEPS)
    assert (found - of_pipeline(case, family, cache, False)).abs().max() <= 1e-5 * max(1.0, float(found.abs().max()))
    assert counts.full == 3 * len(case.x0) and counts.reused == 3 * len(case.x0)  # computed: 0, 1, 3
    field, values = bind(quick.flow.field, case.cond), []
    with torch.no_grad():
        for t in bundle.sampler.schedule(STEPS)[:3]:
            values.append(field(case.x0, t.expand(len(case.x0))))
    assert torch.allclose(values[2], 2 * values[1] - values[0], atol=1e-5 * float(values[2].abs().max()))


@pytest.mark.parametrize("family, kind", PAIRS, ids=[f"{family}-{kind.__name__}" for family, kind in PAIRS])
def test_a_cache_that_reuses_nothing_changes_nothing(made, family, kind):
    case, bundle = made(family)
    quick = cached(bundle, NEVER[kind])
    with counting(quick) as counts:
        assert torch.equal(ours(case, False, quick, STEPS), ours(case, False, bundle, STEPS))
    assert counts.reused == 0


def test_every_other_pair_is_refused():
    for family in FAMILIES:
        field = Pretrained(nn.Linear(1, 1), family)
        for kind in CACHES:
            if family.name not in kind.families:
                with pytest.raises(BeelineError, match=f"{kind.__name__} was given for a model of the family"):
                    Cached(field, REUSING[kind])


@pytest.mark.parametrize("kind", CACHES)
def test_predictions_of_guidance_have_caches_of_their_own(made, kind):
    """A guided run is that of two networks, each with a cache, which see one prediction each."""
    case, bundle = made("flux")
    found = ours(case, True, cached(bundle, REUSING[kind]), STEPS)
    strong, weak = (bind(cached(bundle, REUSING[kind]).flow.field, c) for c in (case.cond, case.null))
    x, times = case.x0, bundle.sampler.schedule(STEPS)
    with torch.no_grad():
        for t, s in zip(times[:-1], times[1:], strict=True):
            v, w = (f(x, t.expand(len(x))) for f in (strong, weak))
            x = x + (s - t) * (w + 4.0 * (v - w))
    assert (found - x).abs().max() <= 1e-5 * float(x.abs().max())


def test_samples_do_not_depend_on_their_batch(made):
    case, bundle = made("flux")
    one = replace(case, x0=case.x0[1:], cond={name: leaf[1:] for name, leaf in case.cond.items()})
    apart = {True: 0.0, False: 0.0}
    for per_sample, threshold in itertools.product(apart, (0.6, 0.65, 0.7, 0.75)):
        quick = cached(bundle, FirstBlock(threshold, per_sample=per_sample))
        change = (ours(one, False, quick, 12) - ours(case, False, quick, 12)[1:]).abs().max()
        apart[per_sample] = max(apart[per_sample], float(change))
    assert apart[True] <= 1e-5
    assert apart[False] > 1e-3


def test_the_network_itself_has_no_cache(made):
    case, bundle = made("flux")
    before = ours(case, False, bundle, STEPS)
    quick = cached(bundle, FirstBlock(0.8))
    assert (ours(case, False, quick, STEPS) - before).abs().max() > 1e-3
    assert not case.pipe.transformer.is_cache_enabled
    assert torch.equal(ours(case, False, bundle, STEPS), before)
    assert bundle.parameters == quick.parameters


def test_runs_at_the_same_time_do_not_share_a_cache(made):
    case, bundle = made("flux")
    quick = cached(bundle, TaylorSeer(every=2, warmup=2))
    other = replace(case, x0=case.x0.flip(0))
    wanted = [ours(c, True, quick, STEPS) for c in (case, other)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda c: ours(c, True, quick, STEPS), [case, other] * 3))
    assert all(torch.equal(a, wanted[i % 2]) for i, a in enumerate(found))


def test_copies_of_the_network_are_used_again_and_empty(made):
    case, bundle = made("flux")
    quick = cached(bundle, TaylorSeer())
    for _ in range(3):
        ours(case, True, quick, STEPS)
    gc.collect()
    assert len(quick.flow.field._free) == 2  # one for each prediction
    assert all(taken.inputs == () for taken in quick.flow.field._free)


def test_a_copied_field_has_its_own_weights_and_cache(made):
    case, bundle = made("flux")
    quick = cached(bundle, TaylorSeer(every=2, warmup=2))
    wanted = ours(case, False, quick, STEPS)
    other = copy.deepcopy(quick.flow.field)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(ours(case, False, quick, STEPS), wanted)
    zero = ours(case, False, replace(quick, flow=replace(quick.flow, field=other)), STEPS)
    assert torch.equal(zero, case.x0)
    ghost = moved(quick.flow.field, "meta").for_branch()
    assert {p.device.type for p in ghost.parameters()} == {"meta"}


def test_a_window_of_guidance_and_a_solver_of_order_two_count_their_evaluations(made):
    case, bundle = made("flux")
    quick = cached(bundle, FirstBlock(0.5))
    sampler = replace(bundle.sampler, steps=4, solver=HEUN, guidance=CFG(3.0, window=(0.3, 0.8)))
    with counting(quick) as counts:
        sampler(quick.flow, case.x0, {**case.cond, "negative": case.null})
    assert counts.full + counts.reused == len(case.x0) * sampler.evaluations


def test_both_experts_have_a_cache(made):
    case, bundle = made("wan, two experts")
    quick = cached(bundle, TaylorSeer(every=2, warmup=1))
    with counting(quick) as counts:
        found = ours(case, True, quick, 12)
    nets = (case.pipe.transformer, case.pipe.transformer_2)
    for net in nets:
        net.enable_cache(quick.flow.field.high.cache.config(float))
    with torch.no_grad():
        wanted = case.theirs(12, True)
    for net in nets:
        net.disable_cache()
    assert (found - wanted).abs().max() <= 1e-5 * float(wanted.abs().max())
    assert counts.full + counts.reused == 2 * 12 * 2


@pytest.mark.parametrize("make", [tiny_diffusions.dit, tiny_diffusions.stable_diffusion])
def test_diffusions_are_compiled(make):
    case = make()
    bundle = from_pipeline(case.pipe, **case.size)
    torch._dynamo.reset()
    fast = compiled(bundle, backend="eager")
    assert torch.equal(ours(case, False, fast, 2), ours(case, False, bundle, 2))
    with pytest.raises(BeelineError, match="fewer steps, because no cache is tested"):
        cached(bundle, FirstBlock())


def test_a_network_with_hooks_is_refused(made):
    case = CASES["flux"]()
    case.pipe.transformer.enable_cache(df.FirstBlockCacheConfig())
    for change in (lambda b: cached(b, FirstBlock()), compiled):
        with pytest.raises(BeelineError, match="has hooks already.*without offload"):
            change(from_pipeline(case.pipe, **case.size))


@pytest.mark.parametrize("kind", [AttentionBroadcast, FasterCache])
def test_a_run_may_start_inside_the_window(made, kind):
    case, bundle = made("flux")
    quick = cached(bundle, kind(every=2, window=(0.1, 0.9)))
    back = replace(bundle.sampler, steps=4).invert(quick.flow, case.x0, case.cond, start=0.8, end=0.3)
    assert back.isfinite().all()


def test_counting_needs_a_cache_and_caching_a_pipeline(made):
    with pytest.raises(BeelineError, match="without a cache"), counting(made("flux")[1]):
        pass
    with pytest.raises(BeelineError, match="the field of this bundle is Linear"):
        cached(Bundle(Flow(nn.Linear(1, 1))), FirstBlock())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MagCache((), 4), "no ratios"),
        (lambda: AttentionBroadcast(window=(0.9, 0.2)), "interval"),
        (lambda: FasterCache(window=(0.5, 2.0)), "interval"),
    ],
)
def test_settings_of_caches_are_checked(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


class Graphs:
    """A backend of torch.compile that counts the graphs it gets."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_compiled_blocks_give_the_same_samples_without_new_graphs(made, guided):
    case, bundle = made("flux")
    graphs = Graphs()
    torch._dynamo.reset()
    fast = compiled(bundle, backend=graphs)
    found = ours(case, guided, fast, STEPS)
    assert torch.equal(found, ours(case, guided, bundle, STEPS))
    first = graphs.count
    assert first > 0
    ours(case, guided, fast, STEPS)
    assert graphs.count == first


ORDERS = {
    "cache first": lambda bundle, cache, graphs: compiled(cached(bundle, cache), backend=graphs),
    "compilation first": lambda bundle, cache, graphs: cached(compiled(bundle, backend=graphs), cache),
}


def check_combined(case, bundle, cache, order):
    """Samples as without compilation, without new graphs in a second run; returns the number of graphs."""
    graphs = Graphs()
    torch._dynamo.reset()
    wanted = ours(case, False, cached(bundle, cache), STEPS)
    fast = ORDERS[order](bundle, cache, graphs)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert (ours(case, False, fast, STEPS) - wanted).abs().max() <= 1e-6
        first = graphs.count
        assert first > 0
        ours(case, False, fast, STEPS)
    assert graphs.count == first
    return first


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_and_compilation_combine_in_either_order(made, order, kind):
    check_combined(*made("flux"), REUSING[kind], order)


@pytest.mark.slow
@pytest.mark.parametrize("family, kind", PAIRS, ids=[f"{family}-{kind.__name__}" for family, kind in PAIRS])
def test_a_cache_and_compilation_combine_for_every_family(made, family, kind):
    check_combined(*made(family), REUSING[kind], "compilation first")


MORE = [pytest.param(kind, marks=[] if kind is TaylorSeer else pytest.mark.slow) for kind in CACHES]


@pytest.mark.parametrize("kind", MORE)
def test_the_number_of_graphs_does_not_grow_with_the_number_of_blocks(made, kind):
    case, bundle = made("flux")
    numbers = []
    for single in (2, 11):  # and one of two streams; dynamo gives up after 8 variants of a function
        net = flux_net(num_single_layers=single)
        field = bundle.flow.field.on(net)
        numbers.append(
            check_combined(
                case, replace(bundle, flow=replace(bundle.flow, field=field)), REUSING[kind], "compilation first"
            )
        )
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("family, kind", PAIRS, ids=[f"{family}-{kind.__name__}" for family, kind in PAIRS])
def test_compiled_blocks_see_no_hook(made, family, kind):
    """Graphs depend on the identity of functions that are attributes of a module."""
    quick = cached(compiled(made(family)[1]), REUSING[kind])
    net = quick.flow.field.for_branch().field.net
    inner = [m for block in blocks_of(net) for m in block.modules() if m is not block]
    assert all(isinstance(m.forward, types.MethodType) for m in inner)
