"""Pipelines that are trained in place: both libraries load them and make the same pictures."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.testing import foreign

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
demo = pytest.importorskip("benchmarks.foreign_demo")


@pytest.fixture(scope="module")
def data():
    return demo.small_digits()


@pytest.mark.parametrize("name", sorted(demo.KINDS))
def test_both_libraries_make_the_same_pictures(name, data, tmp_path):
    few = dict(steps=40, autoencoder_steps=40, sampling_steps=4, each=1, probed=32)
    found = demo.demonstration(name, data, foreign.SMALL, tmp_path / name, **few)
    assert found["equality"]["largest difference of pixels, of 255"] <= 1
    assert found["equality"]["largest difference of latents"] < 1e-4
    first, last = found["training loss, first and last tenth"]
    assert last < first
    assert (tmp_path / name / "samples.png").is_file() and (tmp_path / name / "model_index.json").is_file()


def test_latents_have_unit_variance_after_training(data):
    pipeline, images = foreign.sd3(), foreign.pictures(data.images, 8)
    foreign.train_autoencoder(pipeline.vae, images, 5)
    vae = pipeline.vae.config
    z = (foreign.encoded(pipeline.vae, images[:1000]) - vae.shift_factor) * vae.scaling_factor
    assert abs(float(z.std()) - 1) < 1e-3 and abs(float(z.mean())) < 1e-3


def test_prompts_are_words_and_differ():
    reader = foreign.tokenizer(foreign.DIGITS)
    ids = reader(["Three", "unknown"], padding="max_length", max_length=foreign.TOKENS).input_ids
    assert ids == [[1, 7, 3, 0, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0, 0, 0]]
    table = foreign.labelled(foreign.flux(), foreign.DIGITS)
    for name in table.names:
        rows = table.get_buffer(f"table_{name}").flatten(1)
        assert len(rows) == 11 and float(torch.pdist(rows).min()) > 0.1


def test_training_changes_the_transformer_alone(data):
    pipeline, images = foreign.flux(), foreign.pictures(data.images[:64], 8)
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in pipeline.components.items()
              if isinstance(part, torch.nn.Module)}  # fmt: skip
    foreign.train(pipeline, images, data.labels[:64], steps=3)
    for name, weights in before.items():
        same = [torch.equal(v, pipeline.components[name].state_dict()[k]) for k, v in weights.items()]
        assert all(same) == (name != "transformer"), name
    assert not pipeline.transformer.training


@pytest.mark.parametrize("shape", [(2, 8, 9), (2, 40, 40), (8, 8)])
def test_images_of_another_form_are_refused(shape):
    with pytest.raises(BeelineError, match="give gray images"):
        foreign.pictures(torch.zeros(shape), 32)
