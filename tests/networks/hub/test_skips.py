"""Pretrained transformers without some blocks, against hooks that find the two streams by their lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub.pipelines import from_pipeline
from beeline.hub.speed import cached, counting
from beeline.networks.hub.caches import FirstBlock
from beeline.networks.skipping import block_names, without_blocks
from beeline.sampling.guidance.block_skips import SkippedBlocks
from beeline.sampling.guidance.skipping import SkippedWeak
from tests.networks.hub.test_families import CASES
from tests.networks.hub.tiny import SCALE, df

FAMILIES = ("flux", "sd3", "flux2", "chroma", "qwen-image", "cogview4", "wan", "ltx", "hunyuan-video", "mochi")


@pytest.fixture(autouse=True)
def silent():
    df.utils.logging.set_verbosity_error()
    torch.manual_seed(0)


def by_length(block, args, kwargs, out):
    """The inputs of a block in place of its outputs, found by their numbers of tokens."""
    inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    match = lambda o: None if o is None else next(x for x in inputs if x.shape == o.shape and x.ndim == 3)  # noqa: E731
    return tuple(match(o) for o in out) if isinstance(out, tuple) else match(out)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_skipped_block_returns_its_inputs(name):
    case = CASES[name]()
    field = from_pipeline(case.pipe, **case.size).flow.field
    t, names = torch.full((len(case.x0),), 0.5), block_names(field)
    with torch.no_grad():
        full = field(case.x0, t, case.cond)
        assert torch.equal(without_blocks(field, ())(case.x0, t, case.cond), full)
        for skipped in (*((n,) for n in names), names):
            found = without_blocks(field, skipped)(case.x0, t, case.cond)
            blocks = [field.net.get_submodule(n) for n in skipped]
            hooks = [block.register_forward_hook(by_length, with_kwargs=True) for block in blocks]
            wanted = field(case.x0, t, case.cond)
            for hook in hooks:
                hook.remove()
            assert torch.equal(found, wanted) and (found - full).abs().max() > 1e-3
        assert torch.equal(field(case.x0, t, case.cond), full)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_skipped_predictions_and_blocks_of_a_guided_run(name):
    case = CASES[name]()
    bundle = from_pipeline(case.pipe, **case.size)
    guide, cond, times = bl.CFG(SCALE), {**case.cond, "negative": case.null}, bundle.sampler.schedule(4).tolist()
    first = block_names(bundle.flow.field)[:1]
    plain = replace(bundle.sampler, steps=4, guidance=guide)
    full = plain(bundle.flow, case.x0, cond)

    def changed(guidance, flow=bundle.flow):
        return replace(plain, guidance=guidance)(flow, case.x0, cond)

    assert torch.equal(changed(SkippedWeak(guide)), full) and torch.equal(changed(SkippedBlocks((), guide)), full)
    skipped = SkippedWeak(guide, tuple(times[1:3]))
    assert replace(plain, guidance=skipped).evaluations == 6
    assert (changed(skipped) - full).abs().max() > 1e-4
    short = changed(SkippedBlocks(tuple((t, first) for t in times[:-1]), guide))
    always = replace(bundle.flow, field=without_blocks(bundle.flow.field, first))
    assert (short - changed(guide, always)).abs().max() <= 1e-6 * short.abs().max()
    if name in FirstBlock.families:
        quick = cached(bundle, FirstBlock(0.0))
        with counting(quick) as counts:
            assert (changed(skipped, quick.flow) - changed(skipped)).abs().max() <= 1e-5 * full.abs().max()
        assert counts.full == 6 * len(case.x0)


def test_blocks_of_other_classes_and_cached_bundles_are_refused():
    case = CASES["lumina2"]()
    field = from_pipeline(case.pipe, **case.size).flow.field
    with pytest.raises(BeelineError, match="blocks of the class Lumina2TransformerBlock"):
        without_blocks(field, block_names(field)[:1])
    case = CASES["flux"]()
    with pytest.raises(BeelineError, match="use the bundle without a cache"):
        block_names(cached(from_pipeline(case.pipe, **case.size), FirstBlock()).flow.field)
