"""The null condition: known to the network, recorded in the flow, exact in guidance, refused where it is a class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import beeline as bl
from beeline.core.declared import Traits
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.guided import Anticipating, GuidanceFree, ModelGuidance
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Weak, guidance_for_flow
from beeline.sampling.guidance.null import learned_null, null_like
from beeline.sampling.sampler import Sampler

MIXTURE = GaussianMixture(((1.0, 0.0), (-1.0, 0.5), (0.0, -2.0)), 0.5, labels=(0, 1, 2))
EXACT, K = MIXTURE.field(), 3
X, T = Rng(0).normal(torch.empty(6, 2)), torch.linspace(0.1, 0.9, 6)
LABEL = {"label": torch.tensor([0, 1, 2, 0, 1, 2])}


class Knowing:
    """The exact field of the mixture, which declares its null."""

    traits = Traits(nulls={"label": K})

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        return EXACT(x, t, cond)


def net(conditions: dict[str, Any] | None = None) -> Network:
    made = Network(MLP(2, width=8, depth=1, conditions=conditions or {"label": {"classes": K}}))
    torch.nn.init.normal_(made.backbone.out.weight)
    return made


def test_cfg_without_null_uses_that_of_the_flow() -> None:
    """On the exact mixture: v = weak + scale (strong - weak), weak the field of the whole mixture."""
    wanted = EXACT(X, T) + 3 * (EXACT(X, T, LABEL) - EXACT(X, T))
    for flow in (Flow(EXACT, null={"label": K}), Flow(EXACT, null=K), Bundle(Flow(EXACT), null={"label": K}).flow):
        assert torch.allclose(guidance_for_flow(CFG(3.0), flow)(flow.field, LABEL)(X, T), wanted, atol=1e-5)
        assert torch.allclose(guidance_for_flow(CFG(3.0, null=K), flow)(flow.field, LABEL)(X, T), wanted, atol=1e-5)
        named = Sampler(4, guidance=CFG(3.0, null={"label": K}))(flow, X, LABEL)
        assert torch.equal(Sampler(4, guidance=CFG(3.0))(flow, X, LABEL), named)
    assert torch.allclose(CFG(3.0)(Knowing(), LABEL)(X, T), wanted, atol=1e-5)


def test_guidance_without_a_trained_null_is_refused() -> None:
    with pytest.raises(ValueError, match="trained without condition dropout"):
        Sampler(2, guidance=CFG(3.0, null=K))(Flow(EXACT, null={}), X, LABEL)
    with pytest.raises(ValueError, match="the flow records none"):
        Sampler(2, guidance=CFG(3.0))(Flow(EXACT), X, LABEL)
    with pytest.raises(ValueError, match="neither the flow nor its network declares"):
        CFG(3.0)(EXACT, LABEL)
    with pytest.raises(ValueError, match="but the flow was trained with"):
        Sampler(2, guidance=CFG(3.0, null=2))(Flow(EXACT, null={"label": K}), X, LABEL)
    assert torch.isfinite(
        Sampler(2, guidance=Guide(Weak(EXACT), Extrapolate(2.0)))(Flow(EXACT, null={}), X, LABEL)
    ).all()


@pytest.mark.parametrize("field", [Knowing(), net()], ids=["exact", "network"])
def test_a_class_is_no_null(field: Any) -> None:
    for null in (0, 2, {"label": 1}, torch.tensor(2), {"label": LABEL["label"]}):
        with pytest.raises(ValueError, match="built with the null 3, and . is one of its classes"):
            null_like({"label": null} if isinstance(null, torch.Tensor) else null, LABEL, field)
    with pytest.raises(ValueError, match="one of its classes"):
        Sampler(2, guidance=CFG(2.0, null=2))(Flow(field), X, LABEL)
    for objective in (GuidanceFree, ModelGuidance, Anticipating):
        guided = objective(FlowMatching(drop=Drop(0.1)), null=2)
        with pytest.raises(ValueError, match="one of its classes"):
            guided(field, Batch(X, cond=LABEL), Rng(0))
        with pytest.raises(ValueError, match="no condition dropout"):
            objective(FlowMatching(), null=K)(field, Batch(X, cond=LABEL), Rng(0))
    with pytest.raises(ValueError, match="one of its classes"):
        FlowMatching(drop=Drop(0.5, null=0))(field, Batch(X, cond=LABEL), Rng(0))


def test_drop_uses_the_null_of_the_network() -> None:
    cond = {"label": torch.arange(4000) % K}
    dropped = Drop(0.3)(cond, 4000, Rng(0), torch.empty(0), net())["label"]
    share = float((dropped == K).float().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    kept = dropped != K
    assert torch.equal(dropped[kept], cond["label"][kept])
    assert torch.equal(dropped, Drop(0.3, null=K)(cond, 4000, Rng(0), torch.empty(0))["label"])
    same = FlowMatching(drop=Drop(0.3)), FlowMatching(drop=Drop(0.3, {"label": K}))
    field = net()
    values = [objective(field, Batch(X, cond=LABEL), Rng(2)).value for objective in same]
    assert torch.equal(*values)
    with pytest.raises(ValueError, match="neither the flow nor its network declares"):
        Drop(0.3)(cond, 4000, Rng(0), torch.empty(0))


def test_a_number_is_a_null_for_one_kind_of_leaf() -> None:
    cond = {"label": torch.tensor([0, 1]), "age": torch.ones(2, 1)}
    both = net({"label": {"classes": K}, "age": {"size": 1}})
    with pytest.raises(ValueError, match="one number for labels and vectors"):
        null_like(3, cond)
    for null in (None, {"label": 3}):
        made = null_like(null, cond, both)
        assert made["label"].tolist() == [3, 3] and made["age"] is cond["age"]
    assert null_like({"label": 3, "age": [0.5]}, cond, both)["age"].tolist() == [[0.5], [0.5]]
    assert null_like({"age": [0.5]}, cond)["label"] is cond["label"]
    for null, words in ((float("nan"), "finite"), (2.5, "consists of integers")):
        with pytest.raises(ValueError, match=words):
            null_like(null, LABEL)
    with pytest.raises(ValueError, match="did you mean 'label'"):
        null_like({"lable": 3}, LABEL)
    with pytest.raises(ValueError, match="vectors have no default null"):
        null_like(None, {"age": torch.ones(2, 1)}, net({"age": {"size": 1}}))


def test_conditions_dropped_independently() -> None:
    n = 20_000
    cond = {"a": torch.zeros(n, dtype=torch.long), "b": torch.zeros(n, dtype=torch.long)}
    null = {"a": 1, "b": 1}
    together = Drop(0.3, null)(cond, n, Rng(0), torch.empty(0))
    assert torch.equal(together["a"], together["b"])
    apart = Drop(0.3, null, apart=True)(cond, n, Rng(0), torch.empty(0))
    both = float((apart["a"] * apart["b"]).float().mean())
    assert abs(both - 0.09) < 4 * (0.09 * 0.91 / n) ** 0.5
    only = Drop(0.3, {"a": 1})(cond, n, Rng(0), torch.empty(0))
    assert int(only["b"].sum()) == 0 < int(only["a"].sum())


def test_null_recorded_by_a_run() -> None:
    labels, both = {"label": {"classes": 3}}, {"label": {"classes": 3}, "age": {"size": 1}}
    assert learned_null(Drop(), labels) == {"label": 3} == learned_null(Drop(0.2), both)
    assert learned_null(None, labels) == {} == learned_null(Drop(0.0), labels)
    assert learned_null(Drop(0.1, null=3), labels) == 3 and learned_null(Drop(), {}) is None
    assert learned_null(Drop(0.1, {"label": 3, "age": torch.tensor([0.5])}), both) == {"label": 3, "age": [0.5]}


def test_a_null_through_a_file(tmp_path: Any) -> None:
    made = Bundle(Flow(net(), null={"label": K}), lineage={"shape": [2]})
    again = bl.load(made.save(tmp_path / "b"))
    assert again.flow.null == {"label": K} == again.null
    assert torch.isfinite(again.draw(X, LABEL, sampler=Sampler(2, guidance=CFG(3.0)))).all()
    never = bl.load(Bundle(Flow(net(), null={})).save(tmp_path / "c"))
    with pytest.raises(ValueError, match="trained without condition dropout"):
        never.draw(X, LABEL, sampler=Sampler(2, guidance=CFG(3.0, null=K)))
