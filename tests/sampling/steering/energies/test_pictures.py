"""Colours and features of images, and the similarity to a text by a tiny CLIP model."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from beeline.core.rng import Rng
from beeline.objectives.losses.encoders import RandomFeatures
from beeline.sampling.steering.controller import descent
from beeline.sampling.steering.energies.pictures import FeatureDistance, MeanColour, PerceptualDistance
from beeline.sampling.steering.energies.text import TextSimilarity

X = Rng(0).normal(torch.empty(4, 3, 8, 8)).clamp(-1, 1)
T = torch.ones(4)


def test_the_colour_is_the_mean_in_units_of_the_user():
    wanted = ((((X + 1) / 2).mean((2, 3)) - torch.tensor([1.0, 0.5, 0.0])) ** 2).sum(1) / (2 * 0.1**2)
    assert torch.allclose(MeanColour((1.0, 0.5, 0.0), deviation=0.1)(X, T), wanted)


def test_features_are_compared_by_their_angle():
    encoder = RandomFeatures(16)
    made = FeatureDistance(encoder, X[:2], weight=3.0)(X, T)
    f, mean = encoder.pooled(X), encoder.pooled(X[:2]).mean(0)
    wanted = 3 * (1 - (f @ mean) / (f.norm(dim=1) * mean.norm()))
    assert torch.allclose(made, wanted, atol=1e-5)
    assert float(FeatureDistance(encoder, X[1])(X, T)[1]) == pytest.approx(0, abs=1e-5)


def test_perceptual_distance_is_that_of_normalised_features():
    with Rng(0).ambient():
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    made = PerceptualDistance(net, ("0", "2"), X[0], weight=2.0)(X, T)
    wanted = torch.zeros(4)
    for depth in (1, 3):
        h = net[:depth](X)
        h = h / h.norm(dim=1, keepdim=True)
        wanted = wanted + 2 * (h - h[:1]).square().sum(1).mean((1, 2))
    assert torch.allclose(made, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (MeanColour((0.5,)), "1 channels"),
        (FeatureDistance(RandomFeatures(4), X[:, :1]), "one shape"),
        (PerceptualDistance(nn.Sequential(nn.Flatten()), ("1",), X), "no module '1'"),
        (TextSimilarity("a boat"), "one or three channels"),
    ],
)
def test_data_that_do_not_fit_are_refused(energy, message):
    x = X[:, :2] if isinstance(energy, TextSimilarity) else X
    with pytest.raises(ValueError, match=message):
        energy(x, T)


def test_an_empty_text_and_no_layers_are_refused():
    with pytest.raises(ValueError, match="some"):
        TextSimilarity(" ")
    with pytest.raises(ValueError, match="at least one module"):
        PerceptualDistance(nn.Identity(), (), X)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The directory of a CLIP model with random weights and a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    numbers = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = transformers.CLIPConfig(
        text_config={**small, **numbers, "vocab_size": len(words), "max_position_embeddings": 20},
        vision_config={**small, "image_size": 12, "patch_size": 4},
        projection_dim=8,
    )
    with Rng(0).ambient():
        transformers.CLIPModel(config).save_pretrained(place)
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt")).save_pretrained(place)
    return place, transformers


def test_text_similarity_is_that_of_the_model_and_has_a_gradient(clip):
    place, transformers = clip
    energy = TextSimilarity("red boat", model=str(place), weight=10.0)
    image = Rng(1).normal(torch.empty(2, 3, 12, 12)).clamp(-1, 1)  # of the size of the model
    net = transformers.CLIPModel.from_pretrained(place)
    mean, std = (torch.tensor(part)[:, None, None] for part in ((0.48145466, 0.4578275, 0.40821073),
                                                               (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    words = transformers.AutoTokenizer.from_pretrained(place)(["red boat"], return_tensors="pt")
    with torch.no_grad():
        found = net(pixel_values=((image + 1) / 2 - mean) / std, **words)
    cosine = found.logits_per_image[:, 0] / net.logit_scale.exp()
    value, slope, *_ = descent(energy, lambda x: x, image, torch.ones(2))
    assert torch.allclose(value, 10 * (1 - cosine), atol=1e-4)
    assert bool((slope.flatten(1).norm(dim=1) > 0).all())
    assert energy(image[:, :1].repeat(1, 1, 2, 2), torch.ones(2)).shape == (2,)  # grey, of another size


def test_a_directory_without_a_model_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="gave no CLIP model"):
        TextSimilarity("a boat", model=str(tmp_path))(X, T)
