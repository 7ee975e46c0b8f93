"""Features by name: vision models, bundles and components, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

import beeline
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.images import Image, Images
from beeline.evaluation.encoded import Encoded, EncodedPictures
from beeline.evaluation.features import SmallClassifier
from beeline.fields.flow import Flow, Network
from beeline.networks.unet import UNet
from beeline.runs.bundle import Bundle
from beeline.runs.features.bundles import OfBundle
from beeline.runs.features.hub import HubVision
from beeline.runs.features.names import features_named
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import descent
from beeline.sampling.steering.energies.pictures import FeatureDistance

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PIXELS = Rng(0).integers(256, 60 * 12 * 12 * 3).reshape(60, 12, 12, 3).to(torch.uint8).numpy()
RAW = Images(PIXELS)
MODALITY = Image().fit(RAW)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny DINOv2 and a tiny CLIP with the files that published ones have."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("models")
    with Rng(0).ambient():
        config = transformers.Dinov2Config(image_size=28, patch_size=4, **SIZES)
        transformers.Dinov2Model(config).save_pretrained(place / "dinov2")
        text = {**SIZES, "vocab_size": 20, "max_position_embeddings": 8}
        vision = {**SIZES, "image_size": 16, "patch_size": 4}
        both = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        transformers.CLIPModel(both).save_pretrained(place / "clip")
    size = {"height": 16, "width": 16}
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(place / "clip")
    transformers.BitImageProcessor(
        size={"shortest_edge": 20}, crop_size=size, image_mean=[0.485, 0.456, 0.406], image_std=[0.2, 0.2, 0.3]
    ).save_pretrained(place / "dinov2")
    return place


@pytest.fixture
def bundle() -> Bundle:
    with Rng(0).ambient():
        net = Network(UNet((3, 12, 12), width=8))
    return Bundle(Flow(net), Sampler(steps=2), MODALITY)


@pytest.mark.parametrize(("name", "size"), [("dinov2", 16), ("clip", 6)])
def test_vision_models_are_given_what_their_processor_gives(models, name, size):
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(models / name)
    # the whole picture at the size of the crop
    whole = {"height": 16, "width": 16}
    shown = processor(list(PIXELS[:5]), do_center_crop=False, size=whole, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        if name == "clip":
            net = transformers.CLIPModel.from_pretrained(models / name).eval()
            wanted = net.visual_projection(net.vision_model(pixel_values=shown).pooler_output)
        else:
            wanted = transformers.AutoModel.from_pretrained(models / name).eval()(pixel_values=shown).pooler_output
    features = features_named(name, MODALITY, weights=str(models / name), device="cpu")
    found = features(MODALITY.encode(RAW).x1[:5])
    assert found.shape == (5, size) and float(found.std(0).mean()) > 1e-3
    assert torch.allclose(found, wanted.double(), atol=0.02)
    assert len(features.hash) == 64 and features.name == str(models / name)
    assert features_named(str(models / name), MODALITY).hash == features.hash


def test_tokens_leave_the_class_token_out(models):
    encoder = HubVision(str(models / "dinov2"))
    assert encoder(torch.zeros(2, 1, 12, 12)).shape == (2, 16, 16)
    with pytest.raises(BeelineError, match="it takes pictures"):
        encoder.pooled(torch.zeros(2, 4, 12, 12))


def test_models_without_all_weights_are_refused(models, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.CLIPTextModel(
        transformers.CLIPTextConfig(vocab_size=20, max_position_embeddings=8, **SIZES)
    ).save_pretrained(tmp_path / "text")
    with pytest.raises(BeelineError, match="takes no pictures"):
        HubVision(str(tmp_path / "text"))(torch.zeros(1, 3, 8, 8))
    config = transformers.Dinov2Config(image_size=28, patch_size=4, **SIZES)
    other = transformers.ViTConfig(image_size=28, patch_size=4, **SIZES)
    transformers.ViTModel(other).save_pretrained(tmp_path / "wrong")
    config.save_pretrained(tmp_path / "wrong")  # weights of another architecture
    with pytest.raises(BeelineError, match="would be random"):
        HubVision(str(tmp_path / "wrong"))(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["dinov2", "clip", "bundle"])
def test_features_are_differentiable_and_leave_no_graph_without_need(models, bundle, tmp_path, name):
    if name == "bundle":
        bundle.save(tmp_path / "run")
    encoder = OfBundle(str(tmp_path / "run")) if name == "bundle" else HubVision(str(models / name))
    x = MODALITY.encode(RAW).x1[:3]
    plain = encoder.pooled(x)
    energy = FeatureDistance(encoder, x[0])
    value, slope, *_ = descent(energy, lambda x: x, x, torch.ones(3))
    assert not plain.requires_grad and not encoder(x).requires_grad
    assert torch.allclose(value, energy(x, torch.ones(3))) and float(value[0]) == pytest.approx(0, abs=1e-4)
    assert bool((slope[1:].flatten(1).norm(dim=1) > 0).all())


def test_a_bundle_gives_features(bundle, tmp_path):
    bundle.save(tmp_path / "run")
    features = features_named(str(tmp_path / "run"), MODALITY)
    found = features(MODALITY.encode(RAW).x1)
    assert isinstance(features, Encoded) and found.ndim == 2 and len(found) == 60 and len(features.hash) == 64
    with pytest.raises(BeelineError, match="was given data of shape"):
        features(torch.zeros(1, 3, 8, 8))


def test_components_and_the_classifier():
    assert isinstance(features_named("classifier", MODALITY), SmallClassifier)
    assert features_named("SmallClassifier(steps=3)", MODALITY) == SmallClassifier(steps=3)
    made = features_named("RandomFeatures(16)", MODALITY)
    assert isinstance(made, EncodedPictures) and made(MODALITY.encode(RAW).x1).shape == (60, 16)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("incption", "", "did you mean 'inception'.*classifier, clip, dinov2, inception"),
        ("classifier", "w.pth", "have their own"),
        ("pictures", "", "neither a bundle"),
        ("net.pt", "", "pickled models are not read"),
        ("inception", "missing.pth", "are not in missing.pth"),
    ],
)
def test_refusals(tmp_path, monkeypatch, name, weights, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(BeelineError, match=message):
        features_named(name, MODALITY, weights=weights)(MODALITY.encode(RAW).x1)


def test_a_bundle_is_evaluated_in_features(bundle):
    report = bundle.evaluate(PIXELS // 8, n=40, features="RandomFeatures(16)")
    names = [score.name for score in report.scores]
    assert names == ["Frechet distance", "KID", "precision", "recall", "density", "coverage"]
    assert report["Frechet distance"].n_made == 40 and report["Frechet distance"].n_real == 60
    assert report["Frechet distance"].value > 3 * report["Frechet distance"].baseline  # dark pictures
    with pytest.raises(BeelineError, match="needs at least 17 samples"):
        bundle.evaluate(PIXELS, n=16, features="RandomFeatures(16)")
    with pytest.raises(BeelineError, match="takes pictures"):
        EncodedPictures(HubVision("none"))(torch.zeros(1, 3))
    few = bundle.evaluate(np.ascontiguousarray(PIXELS[:16]), n=40, features="RandomFeatures(16)")
    assert "needs more data than features" in few.details["not measured"] and few.scores[0].name == "KID"
    assert beeline.features_named("classifier", MODALITY).learned
