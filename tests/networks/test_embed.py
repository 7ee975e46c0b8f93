"""Time and condition embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.embed import ConditionEmbedding, Embedding, sinusoidal_features
from beeline.networks.fp32 import WideGroupNorm, layer_norm, norm_groups, rms_norm
from beeline.sampling.guidance.guide import null_like

BOTH = {"x": {"size": 2}, "label": {"classes": 3}}


def test_features_are_sines_and_cosines_from_one_to_the_scale() -> None:
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    made = sinusoidal_features(t, 6, 100.0)
    rates = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    wanted = torch.cat([torch.sin(t[:, None] * rates), torch.cos(t[:, None] * rates)], -1)
    assert torch.allclose(made, wanted, atol=1e-12)


def test_features_of_half_precision_times_are_float32() -> None:
    assert sinusoidal_features(torch.tensor([0.5], dtype=torch.bfloat16), 8, 1000.0).dtype == torch.float32
    exact = sinusoidal_features(torch.linspace(0, 1, 50, dtype=torch.float64), 64, 1000.0)
    close = sinusoidal_features(torch.linspace(0, 1, 50), 64, 1000.0)
    assert (close - exact).abs().max() < 1e-3


def test_conditions_add_up() -> None:
    embed = ConditionEmbedding(8, BOTH)
    label, x = torch.tensor([0, 3]), torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    both = embed({"x": x, "label": label}, x)
    table, tower = embed.parts  # in the order of their names
    assert torch.allclose(both, table(label) + tower(x))
    assert torch.equal(embed({"label": label.int(), "x": x.double()}, x), both)


def test_the_order_of_names_does_not_matter() -> None:
    one, two = ConditionEmbedding(8, BOTH), ConditionEmbedding(8, dict(reversed(BOTH.items())))
    two.load_state_dict(one.state_dict())
    cond = {"x": torch.ones(1, 2), "label": torch.tensor([1])}
    assert torch.equal(one(cond, torch.zeros(1)), two(cond, torch.zeros(1)))


def test_one_number_per_sample_may_be_flat() -> None:
    embed = ConditionEmbedding(8, {"heat": {"size": 1}})
    c = torch.tensor([0.5, 1.0])
    assert torch.equal(embed(c, c), embed({"heat": c[:, None]}, c))


def test_the_null_of_guidance_is_the_null_row() -> None:
    embed = ConditionEmbedding(8, {"label": {"classes": 3}})
    label = torch.tensor([0, 2])
    assert torch.equal(embed(null_like(3, label), label), embed(None, label))


def test_names_may_contain_any_character() -> None:
    embed = ConditionEmbedding(8, {"a.b": {"size": 1}, "keys": {"classes": 2}})
    assert embed({"a.b": torch.zeros(1, 1), "keys": torch.tensor([0])}, torch.zeros(1)).shape == (1, 8)


def test_without_conditions_nothing_is_added() -> None:
    embed = Embedding(8)
    t = torch.tensor([0.1, 0.7])
    assert torch.equal(embed(t), embed(t, {})) and torch.equal(embed(t), torch.nn.functional.silu(embed.time(t)))


L, X = torch.tensor([0, 1]), torch.zeros(2, 2)
REFUSALS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "outside above": ({"label": {"classes": 3}}, torch.tensor([0, 4]), "'label' contains the label 4.*0 to 2"),
    "outside below": ({"label": {"classes": 3}}, torch.tensor([-1, 4]), "'label' contains the label -1"),
    "floating label": ({"label": {"classes": 3}}, torch.zeros(2), "'label' is torch.float32.*labels are integers"),
    "one-hot": ({"label": {"classes": 3}}, torch.zeros(2, 3).long(), r"'label' has shape \(2, 3\)"),
    "fewer labels": ({"label": {"classes": 3}}, torch.tensor([1]), "one row per sample"),
    "longer vector": ({"x": {"size": 2}}, torch.zeros(2, 3), r"'x' has shape \(2, 3\).*\(2, 2\)"),
    "no tensor": ({"x": {"size": 2}}, {"x": [1.0, 2.0]}, "'x' is a list"),
    "bare for two": (BOTH, L, "exactly one"),
    "bare for none": ({}, L, "None for a network without"),
    "missing": (BOTH, {"x": X}, "'label' is missing"),
    "misspelt": (BOTH, {"x": X, "lable": L}, "did you mean 'label'"),
    "unknown": ({}, {"label": L}, "unknown to this network"),
    "no vector": (BOTH, None, "only labels and sequences have a default null"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_conditions(case: str) -> None:
    conditions, cond, message = REFUSALS[case]
    with pytest.raises(BeelineError, match=message):
        ConditionEmbedding(8, conditions)(cond, torch.zeros(2))


@pytest.mark.parametrize("spec", [{}, {"classes": 0}, {"kind": 3}, {"size": 2.5}, {"size": 2, "classes": 3}])
def test_refused_descriptions(spec: dict[str, Any]) -> None:
    with pytest.raises(BeelineError, match="use one of the three"):
        ConditionEmbedding(8, {"label": spec})


def test_norms_of_half_precision_inputs_use_float32() -> None:
    x = (100 + torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))).bfloat16()
    norm = WideGroupNorm(3, 6).bfloat16()
    full = torch.nn.functional.group_norm(x.float(), 3)
    assert torch.allclose(norm(x).float(), full, atol=1e-2, rtol=1e-2)
    assert torch.equal(layer_norm(x), layer_norm(x.float()).bfloat16())
    assert torch.allclose(rms_norm(x.double(), torch.ones(5)).square().mean(-1), torch.ones(4, 6).double(), atol=1e-8)


def test_groups_divide_the_channels() -> None:
    assert [norm_groups(n) for n in (1, 6, 8, 7, 13, 12)] == [1, 6, 8, 7, 1, 6]


def test_sequences_are_embedded_by_the_mean_of_what_is_no_padding() -> None:
    with Rng(0).ambient():
        embed = ConditionEmbedding(8, {"text": {"length": 4, "size": 3}})
        text = torch.randn(2, 4, 3)
    text[0, 2:] = 0
    wanted = torch.stack([text[0, :2].mean(0), text[1].mean(0)])
    assert torch.allclose(embed(text, text), embed.parts[0](wanted), atol=1e-6)
    assert torch.equal(embed(None, text), embed(torch.zeros(2, 4, 3), text))
    with pytest.raises(BeelineError, match=r"pass shape \(2, 4, 3\)"):
        embed(text[:, :3], text)
