"""Prompts of pretrained pipelines: one at a time, counted, and with the layers of the text encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.prompts import OneByOne, Prompt, of_area
from tests.networks.hub import tiny_videos
from tests.networks.hub.tiny import df

Image = pytest.importorskip("PIL.Image", reason="PIL is not installed")


class Counted:
    """A pipeline that reshapes its embeddings by the argument ``batch_size``."""

    def __call__(self):
        raise AssertionError("not called")

    def encode_prompt(self, prompt, batch_size=1):
        return (torch.ones(len(prompt), 4, 3).view(batch_size, 4, -1),)


class Single:
    """A pipeline that takes one text at a time."""

    def __call__(self):
        raise AssertionError("not called")

    def encode_prompt(self, prompt, image=None):
        (text,) = prompt
        return torch.full((1, len(text), 2), float(len(image))), None if len(text) == 2 else torch.ones(1, len(text))


class Layered:
    def __call__(self):
        raise AssertionError("not called")

    def encode_prompt(self, prompt):
        return torch.zeros(len(prompt), 4, 3), [torch.full((len(prompt), 4, 3), float(i)) for i in range(5)]


def test_pipelines_that_count_texts_are_told_their_number():
    assert Prompt({"text": 0}, {})(Counted(), ["a", "b"])["text"].shape == (2, 4, 3)


def test_texts_are_encoded_one_by_one_and_padded_with_a_mask():
    found = OneByOne(Prompt({"text": 0, "mask": 1}, {}, images=("image",)))(Single(), ["ab", "abcd"], {"image": "x"})
    assert found["text"].shape == (2, 4, 2) and found["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert float(found["text"][1].max()) == 1, "one picture for every text"


def test_layers_are_stacked():
    found = Prompt({"text": 0, "layers": 1}, {}, layers="layers")(Layered(), ["a", "b"])
    assert found["layers"].shape == (2, 5, 4, 3) and found["layers"][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_pictures_for_text_encoders_have_the_area_of_their_pipeline():
    pipeline = df.QwenImageEditPlusPipeline(None, None, None, None, None, None)
    picture = Image.fromarray(np.zeros((300, 400, 3), np.uint8))
    assert of_area(pipeline, picture, 384).size == (448, 320)  # as calculate_dimensions(384 * 384, 4 / 3)
    assert of_area(pipeline, picture, None) is picture and of_area(pipeline, 3, 384) == 3


def test_the_scale_of_a_guider_is_the_default():
    case = tiny_videos.hunyuan_video15()
    assert from_pipeline(case.pipe, **case.size).sampler.guidance.rule.scale == 6.0
