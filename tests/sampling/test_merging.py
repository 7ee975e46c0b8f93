"""Sampling with merged tokens: full guidance without any, exact for repeated patches, and for FLUX and SD3."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import beeline as bl
from beeline.core.declared import traits_of
from beeline.core.errors import BeelineError
from beeline.networks.merging import merge, unmerge
from beeline.sampling.guidance.merging import MergedTokens, patches
from beeline.solvers.runge_kutta import EULER
from tests.networks.test_skipping import COND, X, network

GUIDE = bl.CFG(2.0, {"label": 3})


def sampled(flow, guidance, x=X, **more):
    return bl.Sampler(**{"steps": 4, "solver": EULER, "guidance": guidance, **more})(flow, x, COND)


@pytest.mark.parametrize("guide", [GUIDE, replace(GUIDE, together=False), replace(GUIDE, window=(0.2, 0.6))])
def test_nothing_merged_is_the_plain_network(guide):
    flow = bl.Flow(network())
    assert torch.equal(sampled(flow, MergedTokens(guide, merged=0.0)), sampled(flow, guide))
    assert torch.equal(sampled(flow, MergedTokens(guide), X, steps=1), sampled(flow, guide, X, steps=1))
    some = sampled(flow, MergedTokens(guide))
    assert (some - sampled(flow, guide)).abs().max() > 1e-3
    joint = sampled(flow, MergedTokens(replace(guide, together=True)))
    assert (some - joint).abs().max() <= 1e-4 * some.abs().max(), "both predictions have the same groups"


def test_repeated_patches_are_merged_without_loss():
    """Without positions a network gives equal patches equal velocities, so that they stay equal."""
    net = network()
    net.backbone.place.table.zero_()
    x = X[:, :, :2, :2].repeat(1, 1, 4, 4)
    x[:, :, 2:4, :] = 0.5
    guidance, flow = MergedTokens(GUIDE, merged=0.5, destinations=0.5, pool=1.0), bl.Flow(net)
    full = sampled(flow, GUIDE, x)
    assert (sampled(flow, guidance, x) - full).abs().max() <= 1e-4 * full.abs().max()


def test_samples_do_not_depend_on_their_batch():
    flow, guidance = bl.Flow(network()), MergedTokens(GUIDE)
    one = bl.Sampler(4, solver=EULER, guidance=guidance)(flow, X[1:2], {"label": COND["label"][1:2]})
    assert (one - sampled(flow, guidance)[1:2]).abs().max() <= 1e-4 * one.abs().max()


def test_destinations_are_important():
    change = torch.zeros(1, 1, 8, 8)
    change[:, :, :4, :4] = 1.0  # 4 of 16 patches
    grid = traits_of(network()).tokens((1, 8, 8))
    groups = MergedTokens(GUIDE, merged=0.75, destinations=0.25, pool=0.25).groups(X[:1], change, grid, bl.Rng(0))
    kept = {int(groups.owner[0, i]) for i in (0, 1, 4, 5)}
    assert len(kept) == 4 and groups.size.shape == (1, 4)
    assert patches(change, grid).sum(2).nonzero()[:, 1].tolist() == [0, 1, 4, 5]


class Repeated(TorchFunctionMode):
    """Attention with the mean of its group in place of every token of the image."""

    def __init__(self, groups, tokens):
        super().__init__()
        self.groups, self.tokens, self.seen = groups, tokens, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            given = [kwargs.pop(name) for name in ("query", "key", "value") if name in kwargs]
            q, k, v = (self.means(x) for x in (*args[:3], *given))
            self.seen += 1
            return func(q, k, v)
        return func(*args, **(kwargs or {}))

    def means(self, x):
        a, b = self.tokens
        return torch.cat([x[:, :, :a], unmerge(merge(x[:, :, a:b], self.groups), self.groups), x[:, :, b:]], 2)


@pytest.mark.parametrize("name, tokens", [("flux", (7, 31)), ("sd3", (0, 64))])
def test_tokens_of_pretrained_images_are_merged(name, tokens):
    """Text has 7 tokens before those of the image in FLUX, and 5 after them in Stable Diffusion 3."""
    pytest.importorskip("diffusers")
    from beeline.hub.pipelines import from_pipeline
    from beeline.networks.merging import MergedAttention
    from tests.networks.hub.test_families import CASES, ours

    case = CASES[name]()
    bundle = from_pipeline(case.pipe, **case.size)
    field, t = bundle.flow.field, torch.full((len(case.x0),), 0.5)
    grid = traits_of(field).tokens(tuple(case.x0.shape[1:]))
    assert grid.rows * grid.columns == tokens[1] - tokens[0]
    groups = MergedTokens(GUIDE).groups(case.x0, case.x0.flip(0), grid, bl.Rng(0))
    with torch.no_grad():
        with MergedAttention(groups, grid):
            found = field(case.x0, t, case.cond)
        with Repeated(groups, tokens) as mode:
            wanted = field(case.x0, t, case.cond)
        assert mode.seen > 1 and (found - wanted).abs().max() < 1e-5
        assert (found - field(case.x0, t, case.cond)).abs().max() > 1e-3
    guide = replace(bundle, sampler=replace(bundle.sampler, guidance=bl.CFG(4.0)))
    full = ours(case, True, guide, 4)
    cond = {**case.cond, "negative": case.null}
    run = lambda share: replace(guide.sampler, steps=4, guidance=MergedTokens(bl.CFG(4.0), share))(  # noqa: E731
        guide.flow, case.x0, cond
    )
    assert torch.equal(run(0.0), full)
    assert torch.isfinite(run(0.5)).all() and (run(0.5) - full).abs().max() > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MergedTokens(bl.guidance.Plain()), "got Plain"),
        (lambda: MergedTokens(GUIDE, merged=0.9), "merged <= 1 - destinations"),
        (lambda: sampled(replace(bl.Flow(network()), path=bl.paths.Cosine()), MergedTokens(GUIDE)), "flow on Cosine"),
        (
            lambda: MergedTokens(GUIDE)(bl.Network(bl.networks.UNet((1, 8, 8), attention=False)), COND),
            "does not declare which ones",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
