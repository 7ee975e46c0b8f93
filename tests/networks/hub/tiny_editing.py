"""Tiny pipelines that take images."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image

from beeline.networks.hub.families import family_of
from beeline.networks.hub.layout import pack, unpack
from tests.networks.hub.tiny import (
    SCALE,
    Case,
    awake,
    certain,
    df,
    dynamic,
    embeds,
    flow_prediction,
    kl,
    kl8,
    looped,
    masked,
    plain,
    rand,
    static,
)
from tests.networks.hub.tiny_further import FLUX_LIKE, kandinsky5_embeds, kandinsky5_net
from tests.networks.hub.tiny_images import flux_net, qwen_net, qwen_vae, wan_vae
from tests.networks.hub.tiny_videos import hunyuan_video_net, hunyuan_video_vae, ltx_parts, wan_net


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


def qwen_edit() -> Case:
    scheduler = dynamic(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
    pipe = df.QwenImageEditPipeline(scheduler, qwen_vae(), None, None, None, qwen_net(zero_cond_t=True))
    k = pipe.vae_scale_factor
    size, image = dict(height=8 * k, width=6 * k), picture(8 * k, 6 * k)
    x0, extra = rand(2, 4, 8, 6, seed=1), inputs(pipe, (4, 8, 6), image=image)
    c, n = (part | extra for part in masked(16))
    prompts = embeds(c, n, "prompt_embeds_mask") | dict(image=image)
    loop = looped(pipe, x0, size, prompts, given=pack, taken=lambda out: unpack(out, 8, 6), scale="true_cfg_scale")

    def theirs(steps, guided):  # the pipeline resizes every picture to an area of 1024 x 1024
        with mock.patch.object(edit, "calculate_dimensions", lambda area, ratio: (6 * k, 8 * k, None)):
            return loop(steps, guided)

    return Case(pipe, x0, c, n, theirs, size)


def qwen_edit_plus() -> Case:
    """The pipeline takes one prompt at a time."""
    scheduler = dynamic(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
    pipe = df.QwenImageEditPlusPipeline(scheduler, qwen_vae(), None, None, None, qwen_net(zero_cond_t=True))
    k = pipe.vae_scale_factor
    size, image = dict(height=8 * k, width=6 * k), picture(8 * k, 6 * k)
    x0, extra = rand(2, 4, 8, 6, seed=1), inputs(pipe, (4, 8, 6), image=image)
    c, n = (part | extra for part in masked(16))

    def one(i):
        prompts = embeds(*({k: v[i : i + 1] for k, v in part.items()} for part in (c, n)), "prompt_embeds_mask")
        return looped(pipe, x0[i : i + 1], size, prompts | dict(image=image), given=pack,
                      taken=lambda out: unpack(out, 8, 6), scale="true_cfg_scale")  # fmt: skip

    def theirs(steps, guided):
        with mock.patch.object(edit_plus, "calculate_dimensions", lambda area, ratio: (6 * k, 8 * k)):
            return torch.cat([one(i)(steps, guided) for i in range(2)])

    return Case(pipe, x0, c, n, theirs, size)


def longcat_edit() -> Case:
    """The pipeline takes one prompt at a time, and has 16 channels and the size of the picture."""
    net = awake(df.LongCatImageTransformer2DModel(pooled_projection_dim=32, **FLUX_LIKE | dict(in_channels=64)))
    vae, processor = certain(kl(latent_channels=16)), mock.Mock()
    pipe = df.LongCatImageEditPipeline(dynamic(), vae, None, None, processor, net)
    pipe.register_modules(text_processor=None)
    size, image = dict(height=12, width=8), picture(12, 8)
    x0, extra = rand(2, 16, 12, 8, seed=1), inputs(pipe, (16, 12, 8), image=image)
    c, n = (part | extra for part in plain(32))

    def theirs(steps, guided):
        made, prompts = [], dict(prompt=["a"], image=image, negative_prompt=[""])
        with mock.patch.object(longcat, "calculate_dimensions", lambda area, ratio: (8, 12)):
            for i in range(2):
                pipe._encode_prompt = lambda text, image, i=i: (c if text[0] else n)["text"][i : i + 1]
                loop = looped(pipe, x0[i : i + 1], {}, prompts, given=pack, taken=lambda out: unpack(out, 12, 8))
                made.append(loop(steps, guided))
        return torch.cat(made)

    return Case(pipe, x0, c, n, theirs, size)


def kandinsky5_image() -> Case:
    net = kandinsky5_net(in_visual_dim=4, out_visual_dim=4, visual_cond=True)
    pipe = df.Kandinsky5I2IPipeline(net, certain(kl8()), None, None, None, None, static(3.0))
    pipe.resolutions = [(48, 64)]  # of which the pipeline takes the nearest
    x0, size, image = rand(2, 4, 8, 6, seed=1), dict(height=64, width=48), picture(64, 48)
    extra = inputs(pipe, (4, 8, 6), image=image)
    c, n = (dict(text=rand(2, 7, 16, seed=s), pooled=rand(2, 8, seed=s + 1)) | extra for s in (2, 4))

    def given(x):  # latents that are given hold the picture
        full = torch.cat([x, extra["reference"], torch.ones_like(x[:, :1])], 1)
        return full.permute(0, 2, 3, 1)[:, None]

    theirs = looped(
        pipe, x0, size, kandinsky5_embeds(c, n) | dict(image=image), result="image", given=given,
        taken=lambda out: out[:, 0].permute(0, 3, 1, 2),
    )  # fmt: skip
    return Case(pipe, x0, c, n, theirs, size)


def hunyuan_frames() -> Case:
    net = hunyuan_video_net(in_channels=8)
    pipe = df.HunyuanSkyreelsImageToVideoPipeline(
        None, None, net, certain(hunyuan_video_vae()), static(7.0), None, None
    )
    size, image = dict(height=32, width=48, num_frames=9), picture(32, 48)
    x0, g = rand(2, 4, 3, 4, 6, seed=1), torch.full((2,), 1000.0)
    extra = inputs(pipe, (4, 3, 4, 6), image=image) | dict(guidance=g)
    c, n = (part | extra | dict(pooled=rand(2, 8, seed=s)) for s, part in zip((3, 5), masked(16), strict=True))
    prompts = embeds(c, n) | dict(image=[image] * 2, guidance_scale=1.0)
    prompts |= dict(pooled_prompt_embeds=c["pooled"], negative_pooled_prompt_embeds=n["pooled"])
    return Case(pipe, x0, c, n, looped(pipe, x0, size, prompts, result="frames", scale="true_cfg_scale"), size)


def skyreels_frames() -> Case:
    net = wan_net(kind=df.SkyReelsV2Transformer3DModel, in_channels=36, image_dim=12, added_kv_proj_dim=24)
    scheduler = flow_prediction(df.UniPCMultistepScheduler, 5.0)
    pipe = df.SkyReelsV2ImageToVideoPipeline(None, None, None, None, net, wan_vae(), scheduler)
    pipe.encode_image = lambda image, device: rand(1, 5, 12, seed=8)
    size, image = dict(height=32, width=48, num_frames=9), picture(32, 48)
    x0, extra = rand(2, 16, 3, 4, 6, seed=1), inputs(pipe, (16, 3, 4, 6), image=image)
    c, n = (part | extra for part in plain(32))
    return Case(pipe, x0, c, n, looped(pipe, x0, size, embeds(c, n) | dict(image=image), result="frames"), size)


def wan_frames(expand=False) -> Case:
    net = wan_net(in_channels=16 if expand else 36, image_dim=None if expand else 12, added_kv_proj_dim=24)
    pipe = df.WanImageToVideoPipeline(None, None, wan_vae(), static(5.0), transformer=net, expand_timesteps=expand)
    pipe.encode_image = lambda image, device: rand(1, 5, 12, seed=8)
    size, image = dict(height=32, width=48, num_frames=9), picture(32, 48)
    x0, extra = rand(2, 16, 3, 4, 6, seed=1), inputs(pipe, (16, 3, 4, 6), image=image)
    c, n = (part | extra for part in plain(32))
    return Case(pipe, x0, c, n, looped(pipe, x0, size, embeds(c, n) | dict(image=image), result="frames"), size)


def wan_frames_per_token() -> Case:
    return wan_frames(expand=True)


def ltx_frames() -> Case:
    scheduler, vae, net = ltx_parts()
    pipe = df.LTXImageToVideoPipeline(scheduler, vae, None, None, net)
    space, frames = pipe.vae_spatial_compression_ratio, pipe.vae_temporal_compression_ratio
    size = dict(height=8 * space, width=16 * space, num_frames=2 * frames + 1)
    x0, extra = rand(2, 8, 3, 8, 16, seed=1), inputs(pipe, (8, 3, 8, 16), image=picture(8 * space, 16 * space))
    c, n = (part | extra for part in masked(32))

    def given(x):  # latents that are given hold the first frame
        return torch.cat([extra["known"], x[:, :, 1:]], 2).flatten(2).mT

    theirs = looped(
        pipe, x0, size, embeds(c, n), result="frames", given=given, taken=lambda o: o.mT.unflatten(2, (3, 8, 16))
    )
    return Case(pipe, x0, c, n, theirs, size)
