"""Edits by attention against explicit sums of their formulas, on random attentions and small networks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.core.declared import TokenGrid
from beeline.core.errors import BeelineError
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import with_outputs
from beeline.sampling.editing.attention.added import AddIt, balanced
from beeline.sampling.editing.attention.flux_space import FluxSpace, direction, of_picture
from beeline.sampling.editing.attention.parts import grouped, members
from beeline.sampling.editing.attention.reflex import Ends, ReFlex, for_rows, new_words, recombined
from beeline.sampling.editing.attention.sequences import Emphasised, SharedMaps, ShiftedMaps
from beeline.sampling.editing.regions import GivenRegion
from tests.networks.test_skipping import COND, T, network
from tests.networks.test_skipping import X as IMAGES

TEXT = 4
ALL = torch.ones(2, dtype=torch.bool)


def attention(seed=0, text=TEXT, first=False, rows=2):
    make = lambda k: bl.Rng(seed).fork(k).normal(torch.empty(rows, 3, 6 + text, 5))  # noqa: E731
    return ImageAttention(make(0), make(1), make(2), None, TokenGrid(2, 3, first=first), {})


def test_members_of_groups_come_back_in_their_order():
    a = attention(rows=12)
    parts = members(a, 3, 2)
    assert torch.equal(parts[1].q, torch.cat([a.q[2:4], a.q[8:10]]))
    assert torch.equal(grouped([p.q for p in parts], 2), a.q)
    assert torch.equal(for_rows(torch.tensor([1, 2]), a.q).flatten(), torch.tensor([1, 2] * 6))


@pytest.mark.parametrize("text", [0, TEXT])
def test_the_balance_of_added_attention_is_met_for_every_row(text):
    source, target = attention(1, text), attention(2, text)
    edit = AddIt(balance=1.3)
    g = edit._factor(source, target)
    queries = target.text if text else target.image
    own = (target.q[:, :, queries] @ target.k.mT * target.scale).exp() * g
    theirs = (target.q[:, :, queries] @ source.k[:, :, source.image].mT * target.scale).exp()
    total = own.sum(-1) + theirs.sum(-1)
    ratio = (own.sum(-1) / total).mean((1, 2)) / (theirs.sum(-1) / total).mean((1, 2))
    assert torch.allclose(ratio, torch.full((2,), 1.3), atol=1e-4)
    one = edit._factor(*(replace(a, q=a.q[:1], k=a.k[:1], v=a.v[:1]) for a in (source, target)))
    assert torch.allclose(one, g[:1], rtol=1e-4)
    huge = AddIt(weight=1e12).mix(source, target)
    assert torch.allclose(huge, target.softmax(), atol=1e-5)  # no extension
    same = AddIt(weight=1.0).mixer(~ALL)(source, target)
    assert torch.equal(same, target.softmax())  # equal conditions
    assert balanced(torch.tensor([[5.0]]), 1.0).log() == pytest.approx(-5.0, abs=1e-4)


def test_blending_gives_the_source_outside_of_the_object_at_that_time():
    flow, seen = bl.Flow(network()), []
    x, m = IMAGES[:2], torch.zeros(8, 8)
    m[:, :4] = 1
    new = {"label": torch.tensor([2, 2])}
    old = {"label": torch.tensor([0, 1])}
    edit = AddIt(region=GivenRegion(m), blend=0.5, start=0.0)
    source = edit.source(flow, x, old, bl.Sampler(4), bl.Rng(0))[0]
    correct = edit.correction(source, flow, old, new, bl.Rng(0))
    z = bl.Rng(3).normal(x)
    for time in (0.25, 0.5, 0.75):
        seen.append(correct(z, torch.full((2,), time)))
    assert torch.equal(seen[0], z) and torch.equal(seen[2], z)
    assert torch.equal(seen[1][..., :4], z[..., :4]) and torch.equal(seen[1][..., 4:], source(0.5)[..., 4:])


def test_recombined_weights_keep_the_sums_of_the_source():
    p, old = (torch.softmax(3 * bl.Rng(k).normal(torch.empty(2, 3, 6, 6)), -1) for k in (0, 1))
    made = recombined(0.7 * p, 0.6 * old, 2)
    assert torch.allclose(made.sum(-1), (0.6 * old).sum(-1), atol=1e-6)
    assert ((made - 0.6 * old).abs() > 1e-7).sum(-1).max() <= 2
    top = old.topk(2, -1).indices
    ratio = made.gather(-1, top) / p.gather(-1, top)
    assert torch.allclose(ratio[..., 0], ratio[..., 1], rtol=1e-4)  # the target's own weights, in proportion
    assert torch.allclose(recombined(old, old, 3), old, atol=1e-6) and torch.equal(recombined(p, old, 0), old)


@pytest.mark.parametrize("first", [True, False])
def test_adapted_weights_have_the_sums_that_the_scale_of_the_text_gives(first):
    source, target = attention(1, first=first), attention(2, first=first)
    words = torch.tensor([[False, True, False, False]] * 2)
    edit, always = ReFlex(kept=2, text_scale=3.0), Ends(2.0, 2.0, 2.0, -1.0)
    made, p, old = edit.weights(target, source, always, words), target.weights(), source.weights()
    image, text = target.image, target.text
    assert torch.equal(made[:, :, text], p[:, :, text])
    assert torch.allclose(made[:, :, image, image].sum(-1), old[:, :, image, image].sum(-1), atol=1e-6)
    kept = [text.start + k for k in (0, 2, 3)]
    assert torch.equal(made[:, :, image, kept], old[:, :, image, kept])
    assert torch.allclose(made[:, :, image, text.start + 1], 3 * p[:, :, image, text.start + 1])
    same = edit.weights(target, target, always, torch.zeros_like(words))
    assert torch.allclose(same, p, atol=1e-6)  # the same prompt and state
    unknown = edit.weights(target, source, always, None)
    assert torch.allclose(unknown[:, :, image, text], 3 * p[:, :, image, text])
    a, b = bl.Rng(0).normal(torch.empty(2, 4, 8)), bl.Rng(0).normal(torch.empty(2, 4, 8))
    b[:, 1] += 1
    assert torch.equal(new_words({"text": a}, {"text": b}, "text"), words)
    assert new_words({"text": a}, {"text": b[:, :3]}, "text") is None


@pytest.mark.parametrize("text", [0, TEXT])
def test_directions_are_orthogonal_to_the_null_and_masked_tokens_unchanged(text):
    base, null, new = (attention(k, text) for k in range(3))
    edit = FluxSpace(strength=3.0, words=(1,) if text else ())
    a, a0, _ = edit.outputs(base, null, new, ALL)
    image, d = base.image, (a - base.softmax())[:, :, base.image]
    along = (d * a0[:, :, image]).sum((1, 3))
    assert along.abs().max() < 1e-4 and d.abs().max() > 0.1
    if text:
        off = edit.mask(of_picture(new, base)) == 0
        assert 0 < int(off.sum()) < off.numel() and float(d.transpose(1, 2)[off].abs().max()) == 0
        assert torch.equal(a[:, :, base.text], base.softmax()[:, :, base.text])
    assert (edit.outputs(base, new, new, ALL)[0] - base.softmax()).abs().max() < 1e-5  # the null: no direction
    assert torch.equal(edit.outputs(base, null, new, ~ALL)[0], base.softmax())
    assert direction(a0, a0).abs().max() < 1e-6


def test_the_pooled_embedding_moves_orthogonally_to_itself():
    p, pe = bl.Rng(0).normal(torch.empty(2, 8)), bl.Rng(1).normal(torch.empty(2, 8))
    moved = FluxSpace(coarse=0.5)._moved({"pooled": p}, {"pooled": pe})["pooled"]
    assert ((moved - p) * p).sum(-1).abs().max() < 1e-5
    assert torch.allclose(FluxSpace(coarse=0.5)._moved({"pooled": p}, {"pooled": p})["pooled"], p)
    with pytest.raises(BeelineError, match="no condition 'pooled'"):
        FluxSpace(coarse=0.5)._moved(COND, COND)


def test_emphasis_multiplies_weights_of_tokens_of_picture_or_text():
    a = attention()
    y = Emphasised((1,), 2.0, of_text=True).emphasised(a)
    p = a.weights()
    gain = torch.ones(10, 10)
    gain[4:, 1] = 2
    assert torch.allclose(y, (p * gain) @ a.v, atol=1e-6)
    assert torch.allclose(Emphasised((), 0.0).emphasised(a)[:, :, 4:], p[:, :, 4:, :4] @ a.v[:, :, :4], atol=1e-6)
    with pytest.raises(BeelineError, match="6 such tokens"):
        Emphasised((6,), 2.0).emphasised(a)


def sequence():
    """A flow of sequences of 12 frames of 2 numbers, on which any network of pictures works."""
    with bl.Rng(0).ambient():
        net = bl.networks.DiT((2, 1, 12), patch=1, width=16, heads=2, depth=2, conditions={"label": {"classes": 3}})
        for p in net.parameters():
            nn.init.normal_(p, std=0.4)
    return bl.Flow(bl.Network(net))


def test_sequences_are_shifted_and_keep_the_maps_of_the_source():
    flow, x = sequence(), bl.Rng(1).normal(torch.empty(2, 2, 1, 12))
    old, new = ({"label": torch.full((2,), k)} for k in (0, 1))
    source, target = attention(1, 0), attention(2, 0)
    in_a_row = (replace(a, grid=TokenGrid(1, 6)) for a in (source, target))
    assert torch.allclose(ShiftedMaps(2).mix(*in_a_row), source.softmax().roll(2, 2))
    assert torch.allclose(SharedMaps().mix(source, target), source.weights() @ target.v, atol=1e-6)
    made = [edit(flow, x, old, new, bl.Sampler(4), bl.Rng(0)) for edit in (ShiftedMaps(3), SharedMaps(), ShiftedMaps())]
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(made, made[1:], strict=False))
    with pytest.raises(BeelineError, match="2 x 3 tokens; it moves along a sequence"):
        ShiftedMaps(2).mix(source, target)


def test_outputs_of_blocks_are_read_and_replaced():
    net, seen = network(), {}
    read = with_outputs(net, ["block.1"], lambda out: seen.setdefault(out.block, out).h)
    assert torch.equal(read(IMAGES, T, COND), net(IMAGES, T, COND))
    h, told, out = net.backbone.stages(IMAGES, T, COND)
    for i in (0, 1):
        h = net.backbone.block[i](h, *told[i])
    assert torch.equal(seen["block.1"].h, h)
    zero = with_outputs(net, ["block.2"], lambda out: 0 * out.h)(IMAGES, T, COND)
    assert torch.allclose(zero, out(0 * h, *told[-1]))
