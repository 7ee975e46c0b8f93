"""References: what the weak prediction is, with every rule on tiny transformers, in one batch and apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import identity_attention
from beeline.networks.skipping import without_blocks
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Guides, Unconditional, Weak
from beeline.sampling.guidance.references.attention import PerturbedAttention, SmoothedAttention, SparseAttention
from beeline.sampling.guidance.references.history import History
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.references.random_condition import RandomCondition
from beeline.sampling.guidance.references.skipped_layers import SkippedLayers
from beeline.sampling.guidance.references.substituted import Substituted
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.runge_kutta import EULER, HEUN
from tests.config.test_catalogue import EXAMPLES
from tests.networks.test_skipping import COND, T, X, network

REFERENCES = [
    Unconditional(),
    RandomCondition(noise=True),
    PerturbedTime(0.3),
    SkippedLayers(),
    PerturbedAttention(),
    SmoothedAttention(sigma=1.0),
    SparseAttention(),
    History(),
]
RULES = [config.parse(EXAMPLES.get(f"rules.{name}", f"{name}()"), "rules") for name in CATALOGUE["rules"]]


def sampled(flow, guidance, x=X, cond=COND, **more):
    return bl.Sampler(**{"steps": 3, "solver": EULER, "guidance": guidance, **more})(flow, x, cond)


def close(a, b):
    return (a - b).abs().max() <= 2e-4 * b.abs().max()


@pytest.fixture(scope="module")
def pretrained():
    """(flow, noise, condition) of tiny pretrained transformers."""
    pytest.importorskip("diffusers")
    from beeline.hub.pipelines import from_pipeline
    from tests.networks.hub.test_families import CASES

    made = {}
    for name in ("sd3", "flux"):
        case = CASES[name]()
        flow = from_pipeline(case.pipe, **case.size).flow
        made[name] = flow, case.x0, {**case.cond, "negative": case.null}
    return made


def given(name, pretrained):
    return pretrained[name] if name in ("sd3", "flux") else (bl.Flow(network(), null={"label": 3}), X, COND)


@pytest.mark.parametrize("name", ["dit", "sd3", "flux"])
@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: type(r).__name__)
def test_every_reference_with_every_rule(name, reference, pretrained):
    flow, x, cond = given(name, pretrained)
    plain = sampled(flow, bl.guidance.Plain(), x, cond)
    batched, steps = isinstance(reference, Unconditional | RandomCondition), 2 if name == "dit" else 1
    for rule in RULES:
        guide = Guide(reference, rule)
        joined = sampled(flow, guide, x, cond, steps=steps)
        assert torch.isfinite(joined).all() and joined.shape == x.shape
        if batched or name == "dit":
            assert close(sampled(flow, replace(guide, together=False), x, cond, steps=steps), joined)
    one = sampled(flow, Guide(reference, Extrapolate(1.0)), x, cond)
    assert close(one, plain)
    changed = sampled(flow, Guide(reference, Extrapolate(3.0)), x, cond)
    assert (changed - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["dit", "sd3", "flux"])
def test_all_references_at_once(name, pretrained):
    flow, x, cond = given(name, pretrained)
    guides = tuple(Guide(reference, Extrapolate(1.5)) for reference in REFERENCES)
    both = Guides(guides)
    assert both.calls(0.5) == len(REFERENCES) == 8
    assert close(sampled(flow, replace(both, together=False), x, cond), sampled(flow, both, x, cond))


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("solver", [EULER, HEUN])
def test_counted_evaluations_are_true(reference, solver):
    net, rows = network(), []

    class Seen(type(net.backbone.inp)):
        def forward(self, x):
            rows.append(len(x))
            return super().forward(x)

    net.backbone.inp.__class__ = Seen
    sampler = bl.Sampler(3, solver=solver, guidance=Guide(reference, Extrapolate(2.0), window=(0.3, 1.0)))
    sampler(bl.Flow(net, null={"label": 3}), X, COND)
    assert sum(rows) == sampler.evaluations * len(X)


def test_weak_predictions():
    net = network()
    for reference, weak in (
        (SkippedLayers(("block.0",)), without_blocks(net, ["block.0"])),
        (SkippedLayers(), without_blocks(net, ["block.1"])),
        (PerturbedAttention(("block.2",)), with_attention(net, ["block.2"], identity_attention)),
    ):
        field, cond = reference(net, COND)
        assert cond is COND and torch.equal(field(X, T, COND), weak(X, T, COND))
    flow = bl.Flow(net)
    sparse = with_attention(net, [], SparseAttention(scale=2.0).attend)
    inside = sampled(flow, Substituted(SparseAttention(scale=2.0), CFG(2.0, {"label": 3})))
    assert torch.equal(inside, sampled(bl.Flow(sparse), CFG(2.0, {"label": 3})))
    guided = Guide(SparseAttention(), Extrapolate(0.5))
    wanted = sampled(flow, Guide(Weak(with_attention(net, [], SparseAttention().attend)), Extrapolate(0.5)))
    assert torch.equal(sampled(flow, guided), wanted)
    nested = Substituted(SparseAttention(), Guide(PerturbedAttention(), Extrapolate(2.0)))
    assert torch.isfinite(sampled(flow, nested)).all()
    assert not close(sampled(flow, nested), sampled(flow, nested.guidance))


def test_history_of_one_evaluation_is_adams_bashforth():
    """v + (v - v_before) / 2 in Euler steps, with an Euler step at the start."""
    flow = bl.Flow(network())
    found = sampled(flow, Guide(History(memory=0.0), Extrapolate(1.5)), steps=6)
    assert close(found, sampled(flow, bl.guidance.Plain(), steps=6, solver=AdamsBashforth(2)))
    assert close(
        sampled(flow, Guide(History(), Extrapolate(1.0)), steps=6), sampled(flow, bl.guidance.Plain(), steps=6)
    )


def test_history_is_a_mean_of_earlier_predictions():
    recall, t = History(memory=0.75).recall(), torch.zeros(1)
    seen = [recall(torch.tensor([[v]]), torch.zeros(1, 1), t).item() for v in (1.0, 3.0, 5.0, 0.0)]
    assert seen == [1.0, 1.0, 1.5, 2.375]
    assert recall(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2)).tolist() == [[1.0], [1.0]], "another shape"
    with pytest.raises(BeelineError, match="History got samples at times from 0 to 1"):
        recall(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0.0, 1.0]))


def test_history_remembers_evaluations_outside_the_window():
    """Guidance in the last step alone is the change from the evaluation before."""
    field = lambda x, t, cond=None: t[:, None].square()  # noqa: E731
    guidance = Guide(History(memory=0.0), Extrapolate(2.0), window=(0.6, 1.0))
    x = bl.Sampler(4, solver=EULER, guidance=guidance)(bl.Flow(field), torch.zeros(1, 1, dtype=torch.float64))
    assert x.item() == pytest.approx(0.25 * (0 + 0.0625 + 0.25 + 0.5625 + (0.5625 - 0.25)))


def test_random_classes_are_others_and_do_not_depend_on_the_batch():
    net, label = network(), torch.arange(900) % 3
    reference = RandomCondition().with_seeds(range(900))
    _, found = reference(net, {"label": label})
    away = (found["label"] - label) % 3
    assert set(away.tolist()) == {1, 2} and abs(float((away == 1).float().mean()) - 0.5) < 0.06
    _, part = reference.for_rows(100, 200)(net, {"label": label[100:200]})
    assert torch.equal(part["label"], found["label"][100:200])
    _, again = reference(net, {"label": label})
    assert torch.equal(again["label"], found["label"])
    _, other = RandomCondition(bl.Rng(1)).with_seeds(range(900))(net, {"label": label})
    assert not torch.equal(other["label"], found["label"])
    _, bare = RandomCondition()(net, label)
    assert (bare != label).all() and bare.max() <= 2


def test_seeds_reach_the_reference_of_a_bundle():
    """Rows of a batch are sampled as they are alone."""
    guidance = Guides((Guide(RandomCondition(), Extrapolate(3.0)), Guide(PerturbedTime(0.2), Extrapolate(2.0))))
    flow, sampler = bl.Flow(network()), bl.Sampler(3, solver=EULER, guidance=guidance).seeded([5, 6, 7, 8])
    whole = sampler(flow, X, COND)
    for i in range(4):
        one = sampler.for_rows(i, i + 1)(flow, X[i : i + 1], {"label": COND["label"][i : i + 1]})
        assert close(one, whole[i : i + 1])


def test_conditions_of_other_rows_and_noise():
    cond = {"text": torch.arange(24.0).reshape(4, 3, 2), "mask": torch.eye(4), "age": torch.arange(4.0)[:, None]}
    _, found = RandomCondition()(None, cond)
    rows = found["age"][:, 0].long()
    assert (rows != torch.arange(4)).all()
    assert all(torch.equal(found[name], leaf[rows]) for name, leaf in cond.items()), "one other row for all leaves"
    many = {"text": 3 + 2 * bl.Rng(0).normal(torch.empty(2, 40, 50)), "mask": torch.ones(2, 40, dtype=torch.int64)}
    _, noisy = RandomCondition(noise=True)(None, many)
    assert torch.equal(noisy["mask"], many["mask"]) and not torch.equal(noisy["text"], many["text"])
    assert abs(noisy["text"].mean() - 3) < 0.15 and abs(noisy["text"].std() - 2) < 0.1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SkippedLayers(("block.9",))(network(), COND), r"no block 'block.9' in DiT; .*block.2"),
        (lambda: PerturbedAttention(("nothing",))(network(), COND), r"no block 'nothing' .*block.0"),
        (lambda: SmoothedAttention()(bl.Network(bl.networks.MLP(2)), None), "does not declare which tokens"),
        (lambda: SkippedLayers()(lambda x, t, cond=None: x, None), "declares no repeated blocks"),
        (lambda: RandomCondition()(network(), None), "got cond=None"),
        (lambda: History()(bl.networks.MapNetwork(bl.networks.MLP(2, span=True)), None), "History got a flow map"),
        (lambda: RandomCondition()(None, torch.ones(1, 2)), "got one sample"),
        (lambda: RandomCondition()(None, torch.ones(3, 2)), "found no other condition"),
        (lambda: RandomCondition(noise=True)(None, torch.tensor([1, 2])), "found no other condition"),
        (lambda: RandomCondition(seeds=(1,))(network(), COND), "1 seeds for a batch of 4"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_caches_are_refused(pretrained):
    from beeline.hub.pipelines import from_pipeline
    from beeline.hub.speed import cached
    from beeline.networks.hub.caches import FirstBlock
    from tests.networks.hub.test_families import CASES

    case = CASES["flux"]()
    field = cached(from_pipeline(case.pipe, **case.size), FirstBlock()).flow.field
    for reference in (SkippedLayers(), PerturbedAttention()):
        with pytest.raises(BeelineError, match="use the bundle without a cache"):
            reference(field, case.cond)
