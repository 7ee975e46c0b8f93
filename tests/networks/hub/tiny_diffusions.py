"""Tiny pipelines of diffusion networks."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import torch
from diffusers.pipelines.dit import pipeline_dit

from tests.networks.hub.tiny import SCALE, Case, awake, df, embeds, kl8, looped, masked, plain, rand

SIZE = dict(height=64, width=48)


def ddim(**more):
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return df.DDIMScheduler(**(settings | dict(set_alpha_to_one=False, steps_offset=1) | more))


def dit() -> Case:
    net = awake(
        df.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8
        ),
        amount=0.03,
    )
    pipe = df.DiTPipeline(net, kl8(), ddim(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"), {7: "gold fish"})
    x0, labels = rand(2, 4, 8, 8, seed=1), [7, 99]
    found = []

    def decoded(z):
        found.append(z * pipe.vae.config.scaling_factor)
        return SimpleNamespace(sample=torch.zeros(2, 3, 64, 64))

    def theirs(steps, guided):  # the pipeline takes and gives no latents
        given = mock.patch.object(pipeline_dit, "randn_tensor", lambda **_: x0.clone())
        with given, mock.patch.object(pipe.vae, "decode", decoded):
            pipe(labels, guidance_scale=SCALE if guided else 1.0, num_inference_steps=steps)
        return found[-1]

    c, n = (dict(label=torch.tensor(rows)) for rows in (labels, [1000, 1000]))
    return Case(pipe, x0, c, n, theirs, dict(height=64, width=64))


def pixart(kind, sample_size, scheduler) -> Case:
    net = awake(
        df.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=sample_size,
            cross_attention_dim=24,
            caption_channels=16,
        ),
        amount=0.03,
    )
    pipe = kind(None, None, kl8(), net, scheduler)
    x0 = rand(2, 4, 8, 6, seed=1)
    c, n = masked(16)
    theirs = looped(pipe, x0, SIZE, embeds(c, n), negative_prompt=None, use_resolution_binning=False)
    return Case(pipe, x0, c, n, theirs, SIZE)


def pixart_sigma() -> Case:
    return pixart(df.PixArtSigmaPipeline, 8, df.DPMSolverMultistepScheduler())


def pixart_alpha() -> Case:
    return pixart(df.PixArtAlphaPipeline, 128, ddim(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"))


def unet(**more):
    settings = dict(block_out_channels=(8, 16), layers_per_block=1, sample_size=8, norm_num_groups=4)
    settings |= dict(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4)
    settings |= dict(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16)
    return awake(df.UNet2DConditionModel(**(settings | more)), amount=0.03)


def stable_diffusion(scheduler=None) -> Case:
    pipe = df.StableDiffusionPipeline(
        kl8(), None, None, unet(), scheduler or ddim(), None, None, requires_safety_checker=False
    )
    x0 = rand(2, 4, 8, 6, seed=1)
    c, n = plain(16)
    return Case(pipe, x0, c, n, looped(pipe, x0, SIZE, embeds(c, n)), SIZE)


def stable_diffusion_v() -> Case:
    return stable_diffusion(ddim(prediction_type="v_prediction"))


def sdxl() -> Case:
    net = unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 12
    )
    pipe = df.StableDiffusionXLPipeline(kl8(), None, None, None, None, net, ddim(), add_watermarker=False)
    x0 = rand(2, 4, 8, 6, seed=1)
    c, n = (part | dict(pooled=rand(2, 12, seed=seed)) for part, seed in zip(plain(16), (6, 7), strict=True))
    pooled = dict(pooled_prompt_embeds=c["pooled"], negative_pooled_prompt_embeds=n["pooled"])
    return Case(pipe, x0, c, n, looped(pipe, x0, SIZE, embeds(c, n), **pooled), SIZE)


CASES = {
    "dit": dit,
    "pixart, sigma": pixart_sigma,
    "pixart, alpha": pixart_alpha,
    "stable-diffusion": stable_diffusion,
    "stable-diffusion, v": stable_diffusion_v,
    "sdxl": sdxl,
}
