"""Tiny pipelines that take images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from beeline.networks.hub.families import family_of
from beeline.networks.hub.layout import pack, unpack
from tests.networks.hub.tiny import SCALE, Case, certain, df, dynamic, embeds, kl, rand
from tests.networks.hub.tiny_images import flux_net


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def inputs(pipe, size, **images):
    """The leaves that the family makes of images, for two samples."""
    family = family_of(pipe)
    made = family.inputs(pipe, family, images, size)
    return {name: leaf.expand(2, *leaf.shape[1:]) for name, leaf in made.items()}


def flux_case(pipe, images, guided_by=None, **more) -> Case:
    x0, g = rand(2, 4, 12, 8, seed=1), torch.full((2,), 3.5)
    extra = inputs(pipe, (4, 12, 8), **images)
    c = dict(text=rand(2, 7, 32, seed=2), pooled=rand(2, 32, seed=3), guidance=g, **extra)
    n = dict(text=rand(2, 7, 32, seed=4), pooled=rand(2, 32, seed=5), guidance=g, **extra)

    def theirs(steps, guided):
        prompts = dict(prompt_embeds=c["text"])
        if guided_by:
            prompts = embeds(c, n) | {"negative_pooled_prompt_embeds": n["pooled"], guided_by: SCALE if guided else 1.0}
        out = pipe(
            **prompts,
            **images,
            **more,
            pooled_prompt_embeds=c["pooled"],
            guidance_scale=3.5,
            height=12,
            width=8,
            latents=pack(x0),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        return unpack(out, 12, 8)

    return Case(pipe, x0, c, n if guided_by else None, theirs, dict(height=12, width=8))


def flux_kontext() -> Case:
    pipe = df.FluxKontextPipeline(dynamic(), kl(), None, None, None, None, flux_net())
    images = dict(image=picture(12, 8))
    return flux_case(pipe, images, "true_cfg_scale", max_area=96, _auto_resize=False)


def flux_fill() -> Case:
    net = flux_net(in_channels=16 + 16 + 4, out_channels=16)
    pipe = df.FluxFillPipeline(dynamic(), certain(kl()), None, None, None, None, net)
    mask = Image.fromarray(np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((6, 4), np.uint8)))
    return flux_case(pipe, dict(image=picture(12, 8), mask_image=mask))


def flux_control() -> Case:
    net = flux_net(in_channels=32, out_channels=16)
    pipe = df.FluxControlPipeline(dynamic(), certain(kl()), None, None, None, None, net)
    return flux_case(pipe, dict(control_image=picture(12, 8)))
