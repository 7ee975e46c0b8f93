"""Taps: blocks by name and depth, a store for one run, further keys and other weights against explicit sums."""

from __future__ import annotations

import math

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.attending import taps
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import extended_attention, reweighted_attention
from beeline.networks.attending.taps import Store, bytes_of_rows, chosen_blocks
from tests.networks.attending.test_functions import LENGTHS, attention, explicit, logits
from tests.networks.test_skipping import COND, T, X, network


@pytest.mark.parametrize("text, first", LENGTHS.values(), ids=LENGTHS)
def test_equal_further_keys_cancel_and_infinite_weights_leave_them_out(text, first):
    a = attention(text, first)
    for weight in (1.0, 1.05, 7.0, torch.tensor([0.3, 4.0]).double()[:, None, None, None], math.inf):
        assert torch.allclose(extended_attention(a, a.k, a.v, weight), a.softmax(), atol=1e-12)
    other = attention(text, first)
    assert torch.allclose(extended_attention(a, 1 + other.k, other.v, 1e9), a.softmax(), atol=1e-6)


@pytest.mark.parametrize("mask", [None, torch.arange(6)[None] < 4, torch.linspace(-1, 1, 6)[None].double()])
def test_further_keys_and_weights_are_those_of_the_explicit_sum(mask):
    a, k, v = attention(0, True, mask), attention(0, True).k[:, :, :4] + 1, attention(0, True).v[:, :, 1:5]
    z = logits(a)
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else z + mask
    own, more = 2.5 * z.exp(), (a.q @ k.mT / math.sqrt(5)).exp()
    wanted = (own @ a.v + more @ v) / (own.sum(-1, keepdim=True) + more.sum(-1, keepdim=True))
    assert torch.allclose(extended_attention(a, k, v, 2.5), wanted, atol=1e-12)
    gain = torch.tensor([1.0, 0, 2, 1, 1, 1]).double()
    assert torch.allclose(reweighted_attention(a, gain), (torch.softmax(z, -1) * gain) @ a.v, atol=1e-6)
    assert torch.allclose(a.weights().sum(-1), torch.ones(()), atol=1e-6)
    assert torch.allclose(explicit(a, z), a.softmax(), atol=1e-12)


def test_blocks_are_chosen_by_name_by_a_function_and_by_depth():
    net = network(depth=5)
    assert chosen_blocks(net, ("block.3",)) == ("block.3",)
    assert chosen_blocks(net, lambda known: known[::2]) == ("block.0", "block.2", "block.4")
    assert chosen_blocks(net, depth=(0.5, 1.0)) == ("block.2", "block.3", "block.4")
    assert chosen_blocks(net, depth=(0.0, 0.2)) == ("block.0",) and len(chosen_blocks(net)) == 5
    for faulty, message in (({"blocks": ("block.9",)}, "no block 'block.9'"), ({"depth": (0.5, 0.5)}, "no interval")):
        with pytest.raises(BeelineError, match=message):
            chosen_blocks(net, **faulty)
    with pytest.raises(BeelineError, match="does not declare which tokens"):
        chosen_blocks(bl.Network(bl.networks.MLP(2, width=8)))


def test_a_store_holds_what_it_said_and_is_empty_after_the_run():
    net, names = network(), ("block.0", "block.2")
    parts = lambda a: {"k": a.k, "v": a.v}  # noqa: E731
    with Store(len(X)) as store:

        def record(a):
            store.put(a, **parts(a))
            return a.softmax()

        field = with_attention(net, names, record)
        said = 3 * bytes_of_rows(net, names, X, COND, parts)
        for t in (0.0, 0.5, 1.0, 0.5):
            assert torch.equal(field(X, torch.full((4,), t), COND), net(X, torch.full((4,), t), COND))
        assert len(store) == 3 * 2 and store.bytes == said == store.reserve(said, X.device)
        found = []
        read = with_attention(net, ["block.2"], lambda a: found.append((a, store.nearest(a))) or a.softmax())
        read(torch.cat([X, X]), torch.full((8,), 0.7), {"label": COND["label"].repeat(2)})
        a, near = found[0]
        assert a.time == pytest.approx(0.7) and (a.block, a.index) == ("block.2", 0)
        kept = store.entries["block.2", 0][0.5]
        assert torch.equal(near["v"], torch.cat([kept["v"]] * 2))  # for both predictions of a batch
    assert len(store) == 0


def test_a_run_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(taps, "free_memory", lambda device: 2**20)
    assert Store(1).reserve(2**20, torch.device("cpu")) == 2**20
    with pytest.raises(BeelineError, match="takes 3 MiB on cpu, and 1 MiB are free: name fewer blocks"):
        Store(1).reserve(3 * 2**20, torch.device("cpu"))


def test_times_of_evaluations_reach_the_attention():
    seen = []
    with_attention(network(), ["block.0"], lambda a: seen.append(a.time) or a.softmax())(X, T + 0.25, COND)
    assert seen == [0.25]  # of the first row
