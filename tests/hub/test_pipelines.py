"""Pretrained pipelines as bundles: prompts in, pictures out, equal to the pipelines' own."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub.loading import pipeline_index
from beeline.hub.pipelines import from_pipeline, resized
from beeline.networks.hub.layout import pack
from beeline.networks.hub.prompts import Prompt
from tests.networks.hub import tiny_editing, tiny_text
from tests.networks.hub.tiny import df
from tests.networks.hub.tiny_editing import picture

PROMPTS = ["a lighthouse", "two birds"]


def pixels(pictures):
    return np.stack([np.asarray(one) for one in pictures]).astype(int)


def four_steps(bundle):
    return replace(bundle, sampler=replace(bundle.sampler, steps=4))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return tiny_text.sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return tiny_text.flux(tmp_path_factory.mktemp("flux"))


def test_prompts_give_the_pictures_of_the_pipeline(sd3):
    bundle = four_steps(from_pipeline(sd3, height=8, width=8))
    x0 = bundle.start([3, 4])
    wanted = sd3(PROMPTS, negative_prompt="dark", height=8, width=8, latents=x0.clone(), num_inference_steps=4).images
    cond = {"prompt": PROMPTS, "negative_prompt": "dark"}
    found = bundle.sample(2, cond=cond, seeds=[3, 4])
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 1


def test_embedded_guidance_is_that_of_the_pipeline(flux):
    bundle = four_steps(from_pipeline(flux, height=8, width=8))
    x0 = bundle.start([3, 4])
    more = dict(height=8, width=8, num_inference_steps=4, guidance_scale=2.0)
    wanted = flux(PROMPTS, latents=pack(x0), **more).images
    found = bundle.sample(2, prompt=PROMPTS, guidance=2.0, seeds=[3, 4])
    other = bundle.sample(2, prompt=PROMPTS, seeds=[3, 4])
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 1
    assert np.abs(pixels(other) - pixels(wanted)).max() > 1


def test_a_negative_prompt_has_the_embedded_guidance_of_the_prompt(flux):
    bundle = four_steps(from_pipeline(flux, height=8, width=8))
    x0 = bundle.start([3, 4])
    more = dict(height=8, width=8, num_inference_steps=4, guidance_scale=2.0, true_cfg_scale=3.0)
    wanted = flux(PROMPTS, negative_prompt=["dark", "red"], latents=pack(x0), **more).images
    guided = replace(bundle.sampler, guidance=bl.CFG(3.0))
    cond = dict(prompt=PROMPTS, negative_prompt=["dark", "red"], guidance=2.0)
    found = bundle.sample(2, cond=cond, seeds=[3, 4], sampler=guided)
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 1


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_colour_of_pictures_leads_latents_through_the_decoder(family, request):
    bundle = four_steps(from_pipeline(request.getfixturevalue(family), height=8, width=8))
    red = bl.steering.Decoded(bl.steering.MeanColour((1.0, 0.0, 0.0), deviation=0.1))
    steered = replace(bundle.sampler, controllers=(bl.steering.TFG(red, rho=0.0, mu=20.0, clip=5.0),))
    found, plain = (
        pixels(bundle.sample(2, prompt=PROMPTS, seeds=[3, 4], sampler=how)).mean((0, 1, 2))
        for how in (steered, bundle.sampler)
    )
    assert found[0] - found[1] - found[2] > plain[0] - plain[1] - plain[2] + 20


@pytest.fixture(scope="module")
def kontext(flux):
    return df.FluxKontextPipeline(**flux.components)


def test_a_picture_in_a_file_is_edited_as_by_the_pipeline(kontext, tmp_path):
    kontext.set_progress_bar_config(disable=True)
    picture(8, 8).save(tmp_path / "one.png")
    bundle = four_steps(from_pipeline(kontext, height=8, width=8))
    more = dict(height=8, width=8, num_inference_steps=4, max_area=64, _auto_resize=False)
    wanted = kontext(picture(8, 8), PROMPTS, latents=pack(bundle.start([3, 4])), **more).images
    found = bundle.sample(2, prompt=PROMPTS, image=str(tmp_path / "one.png"), seeds=[3, 4])
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 1


@pytest.mark.parametrize(
    "image, message",
    [
        ("nowhere.png", "nowhere.png cannot be read as an image"),
        (3, "is int, which the pipeline's processor refuses"),
        ([picture(8, 8)] * 3, "3 images were given for 2 samples"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(kontext, image, message):
    with pytest.raises(BeelineError, match=message):
        from_pipeline(kontext, height=8, width=8).sample(2, prompt=PROMPTS, image=image)


def test_images_of_a_condition_are_given_together(flux):
    pipe = tiny_editing.flux_fill().pipe
    with pytest.raises(BeelineError, match="lacks mask_image; the family flux-fill"):
        from_pipeline(pipe, height=8, width=8).condition({"image": picture(8, 8)}, 1)


def test_a_saved_pipeline_loads_by_its_directory(sd3, tmp_path):
    sd3.save_pretrained(tmp_path / "model")
    bundle = four_steps(
        bl.load(tmp_path / "model", device="cpu", height=8, width=8, text_encoder_3=None, tokenizer_3=None)
    )
    a = bundle.sample(1, prompt="a bird", seeds=[1])
    b = four_steps(from_pipeline(sd3, height=8, width=8)).sample(1, prompt="a bird", seeds=[1])
    assert (pixels(a) == pixels(b)).all()


def test_pictures_are_encoded_and_inverted(sd3):
    bundle = four_steps(from_pipeline(sd3, height=8, width=8))
    picture = bundle.sample(1, prompt="a bird", seeds=[1])
    x1 = bundle.modality.encode(picture).x1
    assert x1.shape == (1, 4, 8, 8)
    cond = bundle.condition({"prompt": "a bird"}, 1)
    sampler = bl.Sampler(steps=20, solver=bl.solvers.RK4)
    x0 = sampler.invert(bundle.flow, x1, cond)
    assert (sampler(bundle.flow, x0, cond) - x1).abs().max() < 1e-3


def test_another_size_has_its_own_schedule(flux):
    bundle = four_steps(from_pipeline(flux, height=8, width=8))
    larger = resized(bundle, 64, 32)
    assert larger.modality.shape == (4, 64, 32)
    assert not torch.equal(larger.sampler.times(), bundle.sampler.times())


def test_impossible_sizes_name_the_nearest(flux):
    with pytest.raises(BeelineError, match="height=9 pixels.*multiple of it, such as 8 or 10"):
        from_pipeline(flux, height=9, width=8)


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_prompts_is_checked(sd3, count):
    with pytest.raises(BeelineError, match=f"{count} prompts were given for 2 samples"):
        from_pipeline(sd3, height=8, width=8).sample(2, prompt=["x"] * count)


def test_sampling_without_a_prompt_is_refused(sd3):
    with pytest.raises(BeelineError, match="needs a prompt and a negative one"):
        from_pipeline(sd3, height=8, width=8).sample(2)


def test_an_unknown_family_is_refused_before_weights_are_read(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomeOtherPipeline"}))
    with pytest.raises(BeelineError, match="SomeOtherPipeline.*families are anyflow"):
        bl.load(tmp_path)


def test_a_name_without_network_says_what_is_cached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BeelineError, match="the hub cannot be reached"):
        pipeline_index("owner/surely-not-there")


def test_offloaded_components_give_the_same_pictures(sd3, tmp_path):
    """Offload with the CPU on both sides: the hooks work under the loop of the package."""
    from beeline.hub.placement import OFFLOADS

    wanted = four_steps(from_pipeline(sd3, height=8, width=8)).sample(1, prompt="a", seeds=[1])
    other = tiny_text.sd3(tmp_path)
    OFFLOADS["group"](other, torch.device("cpu"))
    found = four_steps(from_pipeline(other, height=8, width=8)).sample(1, prompt="a", seeds=[1])
    assert (pixels(found) == pixels(wanted)).all()


def test_offload_needs_an_accelerator(sd3, tmp_path):
    sd3.save_pretrained(tmp_path / "model")
    with pytest.raises(BeelineError, match="offload='model' was given with the device cpu"):
        bl.load(tmp_path / "model", device="cpu", offload="model")
    with pytest.raises(BeelineError, match="offload='x' was given"):
        bl.load(tmp_path / "model", device="cpu", offload="x")


def test_saving_a_pretrained_bundle_is_refused_before_anything_is_written(sd3, tmp_path):
    with pytest.raises(BeelineError, match="not in the catalogue"):
        from_pipeline(sd3, height=8, width=8).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_misspelt_run_is_not_looked_up_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(BeelineError, match="runs/nope holds no bundle"):
        bl.load("runs/nope")


@pytest.mark.parametrize(
    "cond, message",
    [
        ({"promt": "a"}, "no such condition; did you mean 'prompt'"),
        ({"prompt": "a", "guidance": 3.5}, "'guidance' was given to a model of the family sd3"),
        ({"prompt": 3}, "prompt is int; give a text"),
        ({"prompt": "a", "text": "b"}, "the embeddings 'text' are str"),
    ],
)
def test_conditions_that_a_family_does_not_have_are_refused(sd3, cond, message):
    with pytest.raises(BeelineError, match=message):
        from_pipeline(sd3, height=8, width=8).sample(2, cond=cond)


def test_an_embedded_scale_is_a_number(flux):
    with pytest.raises(BeelineError, match="guidance='much' is no number"):
        from_pipeline(flux, height=8, width=8).sample(1, prompt="a", guidance="much")


class Ragged:
    """A pipeline whose prompts have lengths of their own, and another default length in its call."""

    def __call__(self, max_sequence_length=5):
        raise AssertionError("not called")

    def encode_prompt(self, prompt, max_sequence_length=2, device=None):
        return ([torch.ones(min(len(text), max_sequence_length), 3) for text in prompt],)


def test_prompts_have_the_length_of_the_call_and_are_padded_with_a_mask():
    found = Prompt({"text": 0}, {})(Ragged(), ["abcd", "abcdefgh"])
    assert found["text"].shape == (2, 5, 3) and found["mask"].sum(1).tolist() == [4, 5]
    assert float(found["text"][0, 4:].abs().max()) == 0


def test_the_length_of_prompts_is_that_of_the_call_with_the_same_argument(flux):
    from beeline.networks.hub.layout import pack

    bundle = four_steps(from_pipeline(flux, height=8, width=8, max_sequence_length=6))
    assert bundle.condition({"prompt": PROMPTS}, 2)["text"].shape[1] == 6
    x0 = bundle.start([3, 4])
    call = dict(height=8, width=8, num_inference_steps=4, max_sequence_length=6)
    wanted = flux(PROMPTS, latents=pack(x0), **call).images
    found = bundle.sample(2, prompt=PROMPTS, seeds=[3, 4])
    assert np.abs(pixels(found) - pixels(wanted)).max() <= 1
    assert resized(bundle, 16, 16).condition({"prompt": PROMPTS}, 2)["text"].shape[1] == 6


def test_a_length_of_prompts_that_cannot_work_is_refused(flux):
    with pytest.raises(BeelineError, match="max_sequence_length is 0"):
        from_pipeline(flux, height=8, width=8, max_sequence_length=0)
    with pytest.raises(BeelineError, match="a Fixed, whose prompts have a length of their own"):
        Prompt({"text": 0}, {}).with_length(Fixed(), 4)


class Fixed:
    def encode_prompt(self, prompt):
        raise AssertionError("not called")


def test_a_pretrained_field_can_be_copied(flux):
    """As averages and students need it."""
    field = from_pipeline(flux, height=8, width=8).flow.field
    assert copy.deepcopy(field).family.name == field.family.name
