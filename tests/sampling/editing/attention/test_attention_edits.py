"""Edits by attention on small random transformers: what cancels exactly, what is stored, and what changes."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.taps import Store
from beeline.sampling.editing.attention.added import AddIt
from beeline.sampling.editing.attention.flux_space import FluxSpace
from beeline.sampling.editing.attention.paired import (
    KeyValueEnriched,
    ReferenceAttention,
    pairwise,
    responsiveness,
)
from beeline.sampling.editing.attention.parts import Trajectory, evaluation_times
from beeline.sampling.editing.attention.reflex import ReFlex
from beeline.sampling.editing.attention.sequences import Emphasised, SharedMaps
from beeline.sampling.editing.attention.shared import SharedValues
from beeline.sampling.editing.inversions import Backwards, Noised
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.solvers.runge_kutta import EULER, MIDPOINT, MidpointReuse, Taylor
from tests.networks.test_skipping import network

X = bl.Rng(1).normal(torch.empty(3, 1, 8, 8))
OLD, NEW = ({"label": torch.full((3,), k)} for k in (0, 2))
GUIDED = bl.guidance.CFG(2.0, null={"label": 3})

# an edit, and its setting without strength
EDITS = {
    "values": (SharedValues(steps=3), {"steps": 0}),
    "keys": (SharedValues(steps=3, keys=(1.0, 0.5), values=(1.0, 0.0)), {"keys": (1.0, 0.0)}),
    "enriched": (KeyValueEnriched(), {"share": 0.0}),
    "reference": (ReferenceAttention(), {"weight": 0.0}),
    "added": (AddIt(start=0.0), {"share": 0.0}),
    "reflex": (ReFlex(kept=4, text_scale=2.0), {"image": 0.0, "text": 0.0, "features": 0.0, "whole": 0.0}),
    "space": (FluxSpace(null={"label": 3}), {"strength": 0.0}),
    "emphasis": (Emphasised((1, 2), 3.0), {"factor": 1.0}),
    "maps": (SharedMaps(), {"share": 0.0}),
}
EMPHASIS = ("keys", "emphasis")  # they also change data of equal conditions


def flow(depth=3, size=0.5):
    net = network(depth)
    with torch.no_grad():
        for p in net.parameters():
            p *= size  # a smooth field, whose inversion is nearly exact
    return bl.Flow(net)


@pytest.mark.parametrize(
    "name, solver", [*((name, MidpointReuse()) for name in EDITS), ("values", Taylor()), ("enriched", EULER)]
)
def test_without_strength_an_edit_is_the_plain_one_and_with_it_another(name, solver):
    edit, none = EDITS[name]
    sampler = bl.Sampler(4, solver=solver, guidance=GUIDED)
    plain = InvertAndSample()(flow(size=0.8), X, OLD, OLD if name == "space" else NEW, sampler, bl.Rng(0))
    assert torch.equal(replace(edit, **none)(flow(size=0.8), X, OLD, NEW, sampler, bl.Rng(0)), plain)
    assert (edit(flow(size=0.8), X, OLD, NEW, sampler, bl.Rng(0)) - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", EDITS)
def test_equal_conditions_change_no_more_than_the_round_trip(name):
    sampler = bl.Sampler(12, solver=MIDPOINT)
    plain = (InvertAndSample()(flow(), X, OLD, OLD, sampler, bl.Rng(0)) - X).abs().max()
    made = EDITS[name][0](flow(), X, OLD, OLD, sampler, bl.Rng(0))
    if name not in EMPHASIS:
        assert (made - X).abs().max() < plain + 1e-2


@pytest.mark.parametrize("name", EDITS)
def test_rows_do_not_depend_on_each_other_and_regions_are_kept(name):
    edit, sampler = EDITS[name][0], bl.Sampler(4, guidance=GUIDED)
    m = torch.zeros(8, 8)
    m[2:5, 2:5] = 1
    whole = edited(edit, flow(), X, OLD, NEW, sampler, bl.Rng(0), region=GivenRegion(m))
    assert float(whole.kept.max()) == 0 and float(whole.change.min()) > 1e-3
    one = edited(edit, flow(), X[:1], *({"label": c["label"][:1]} for c in (OLD, NEW)), sampler, bl.Rng(0),
                 region=GivenRegion(m))  # fmt: skip
    assert torch.allclose(one.x, whole.x[:1], atol=1e-4)


@pytest.mark.parametrize("name", EDITS)
def test_half_precision_networks_keep_float32_states(name):
    half = bl.Flow(flow(size=0.8).field.to(torch.bfloat16), null={"label": 3})
    wide, sampler = flow(size=0.8), bl.Sampler(3, solver=EULER)
    made, wanted = (EDITS[name][0](f, X, OLD, NEW, sampler, bl.Rng(0)) for f in (half, wide))
    assert made.dtype == torch.float32 and (made - wanted).abs().mean() < 0.1


@pytest.mark.parametrize("solver, stages", [(EULER, 1), (Taylor(), 2), (MidpointReuse(), 1)])
def test_the_number_of_stored_entries_is_steps_by_blocks_by_stages(solver, stages, monkeypatch):
    counts = []
    leave = Store.__exit__
    monkeypatch.setattr(Store, "__exit__", lambda store, *rest: counts.append(len(store)) or leave(store, *rest))
    SharedValues(steps=3)(flow(4), X, OLD, NEW, bl.Sampler(8, solver=solver), bl.Rng(0))
    assert counts == [3 * 2 * stages]


@pytest.mark.parametrize("edit", [SharedValues(), ReFlex(kept=2)], ids=["values", "reflex"])
def test_what_is_stored_is_what_was_said(edit, monkeypatch):
    said, held = [], []
    leave, reserve = Store.__exit__, Store.reserve
    monkeypatch.setattr(Store, "reserve", lambda store, n, device: said.append(n) or reserve(store, n, device))
    monkeypatch.setattr(Store, "__exit__", lambda store, *rest: held.append(store.bytes) or leave(store, *rest))
    edit(flow(4), X, OLD, NEW, bl.Sampler(6, solver=MIDPOINT), bl.Rng(0))
    assert said == held and held[0] > 0


@pytest.mark.parametrize(
    "edit", [KeyValueEnriched(), ReferenceAttention(1.0), SharedMaps(), AddIt(weight=3.0), AddIt()], ids=repr
)
def test_equal_halves_of_a_batch_stay_equal(edit):
    pair, t = torch.cat([X, X]), torch.full((6,), 0.3)
    cond = {"label": torch.cat([OLD["label"]] * 2)}
    net = flow().field
    v = with_attention(net, ["block.0", "block.1"], pairwise(edit.mix, 3, 1.0))(pair, t, cond)
    assert torch.allclose(v[:3], v[3:], atol=1e-5) and torch.allclose(v, net(pair, t, cond), atol=1e-5)


def test_the_source_of_a_reference_is_another_datum():
    sampler, given = bl.Sampler(4), bl.Rng(5).normal(torch.empty(1, 8, 8))
    make = lambda r: ReferenceAttention(0.8, r)(flow(), X, OLD, NEW, sampler, bl.Rng(0))  # noqa: E731
    assert (make(given) - make(None)).abs().max() > 1e-3 and torch.equal(make(X), make(None))
    with pytest.raises(BeelineError, match="reference of shape"):
        make(torch.zeros(2, 8, 8))


def test_trajectories_pass_through_the_states_of_an_inversion_and_through_the_line_of_noise():
    sampler, states = bl.Sampler(5, solver=MIDPOINT), {}
    sampler.invert(flow(), X, OLD, watch=lambda x, t: states.__setitem__(round(float(t.flatten()[0]), 4), x))
    found = Trajectory(Backwards(), flow(), X, OLD, sampler, bl.Rng(0), 0.0)
    for t, x in states.items():
        assert torch.allclose(found(t), x, atol=1e-5)
    line = Trajectory(Noised(), flow(), X, OLD, sampler, bl.Rng(0), 0.25)
    e = (line.state.x - 0.25 * X) / 0.75
    assert torch.allclose(line(0.7), 0.7 * X + 0.3 * e, atol=1e-5)
    assert evaluation_times(bl.Sampler(2, solver=EULER), 1.0, 0.0) == [1.0, 0.5]


def test_the_block_that_responds_is_found():
    planted = flow(6)
    with torch.no_grad():
        for i, block in enumerate(planted.field.backbone.block):
            block.tell.weight.mul_(1.0 if i == 3 else 0.0)  # the condition enters the keys of one block alone
            block.tell.bias[2 * 16 : 3 * 16] = 0.0  # no gate: later blocks see equal tokens
            block.tell.bias[5 * 16 :] = 0.0
            if i == 3:
                block.tell.weight[2 * 16 : 3 * 16] = 0.0
                block.tell.weight[5 * 16 :] = 0.0
    ranks = responsiveness(planted, X, OLD, NEW, bl.Rng(0))
    assert next(iter(ranks)) == "block.3" and ranks["block.3"] > 100 * max(list(ranks.values())[1:])


def test_a_network_without_attention_is_refused_before_any_work():
    net = bl.Network(bl.networks.MLP(2, width=8, conditions={"label": {"classes": 3}}))
    net.register_forward_pre_hook(lambda *_: pytest.fail("evaluated"))
    for edit, _ in EDITS.values():
        with pytest.raises(BeelineError, match=r"attention of MLP was to be changed.*; use networks.DiT"):
            edit(bl.Flow(net), torch.zeros(3, 2), OLD, NEW, bl.Sampler(2), bl.Rng(0))
