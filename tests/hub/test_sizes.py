"""Pretrained bundles above the trained size: enlarging between steps, and guides of the trained size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate

import beeline as bl
from beeline.cli.commands import sampler_of
from beeline.core.errors import BeelineError
from beeline.hub.pipelines import from_pipeline, resized
from beeline.sampling.enlarging import Enlarging
from beeline.sampling.guidance.projected import ProjectedFlow, block_means
from tests.networks.hub import tiny_text


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return tiny_text.flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def larger(flux):
    return resized(from_pipeline(flux, height=8, width=8), 16, 16)


def enlarging(bundle, **more):
    how = bundle.sampler
    return Enlarging(4, how.schedule, how.solver, how.guidance, at=(0.3,), **more)


def test_the_schedule_is_that_of_the_new_size(larger):
    smaller, pipeline = resized(larger, 8, 8), larger.modality.pipeline
    assert not torch.equal(smaller.sampler.times(), larger.sampler.times())
    assert torch.equal(larger.sampler.times(), from_pipeline(pipeline, height=16, width=16).sampler.times())


@pytest.mark.parametrize("through", [False, True])
def test_enlarging_samples_a_pretrained_flow(larger, through):
    shape, sizes = larger.modality.shape, []
    sampler = enlarging(larger, **({"resize": bl.hub.through_pixels(larger)} if through else {}))
    made = larger.sample(2, prompt="a bird", sampler=sampler, watch=lambda x, t: sizes.append(x.shape[-1]))
    assert sorted({*sizes}) == [shape[-1] // 2, shape[-1]] and sizes == sorted(sizes)
    assert made[0].size == (16, 16)


def test_pixels_are_resized_between_decoding_and_encoding(larger):
    x, vae = torch.randn(1, *larger.modality.shape), larger.modality.pipeline.vae
    found = bl.hub.through_pixels(larger)(x, (2 * x.shape[-2], 2 * x.shape[-1]))
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    with torch.no_grad():
        pixels = interpolate(vae.decode(x / scale + shift).sample, scale_factor=2, mode="bicubic")
        wanted = (vae.encode(pixels).latent_dist.mode() - shift) * scale
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(BeelineError, match="no autoencoder of a pipeline"):
        bl.hub.through_pixels(bl.Bundle(bl.Flow(lambda x, t: x)))


def test_the_command_line_takes_it(larger):
    made = sampler_of(larger, ["sampler=Enlarging(4, at=(0.3,), guidance=CFG(2.0, null=0))"])
    assert isinstance(made, Enlarging) and made.at == (0.3,) and made.sizes == (0.5,)
    assert sampler_of(replace(larger, sampler=made), ["sampler.at=(0.7,)"]).at == (0.7,)


def test_low_frequencies_of_a_pretrained_flow_are_those_of_a_guide(larger):
    shape = larger.modality.shape
    x0, guide = torch.randn(2, *shape), torch.randn(2, *shape)
    how = replace(larger.sampler, steps=3, guidance=ProjectedFlow(until=math.inf))
    found = how(larger.flow, x0, {**larger.condition({"prompt": "a bird"}, 2), "guide": guide})
    assert (block_means(found, 2) - block_means(guide, 2)).abs().max() < 1e-4
    assert not torch.allclose(found, guide, atol=1e-2)
