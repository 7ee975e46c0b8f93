"""Tiny image pipelines."""

from __future__ import annotations

import torch

from beeline.networks.hub.layout import pack, unpack
from tests.networks.hub.tiny import SCALE, Case, awake, df, dynamic, embeds, kl, kl8, masked, plain, rand, static


def sd3(scheduler=None) -> Case:
    net = awake(
        df.SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
        )
    )
    pipe = df.StableDiffusion3Pipeline(net, scheduler or static(3.0), kl(), None, None, None, None, None, None)
    x0 = rand(2, 4, 8, 8, seed=1)
    c = dict(text=rand(2, 5, 32, seed=2), pooled=rand(2, 64, seed=3))
    n = dict(text=rand(2, 5, 32, seed=4), pooled=rand(2, 64, seed=5))

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            pooled_prompt_embeds=c["pooled"],
            negative_pooled_prompt_embeds=n["pooled"],
            guidance_scale=SCALE if guided else 1.0,
            height=8,
            width=8,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=8, width=8))


def flux_net(guidance_embeds=True, in_channels=16, out_channels=None, num_single_layers=2):
    return awake(
        df.FluxTransformer2DModel(
            patch_size=1,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=1,
            num_single_layers=num_single_layers,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=guidance_embeds,
        )
    )


def flux(guidance_embeds=True) -> Case:
    pipe = df.FluxPipeline(dynamic(), kl(), None, None, None, None, flux_net(guidance_embeds))
    x0, g = rand(2, 4, 12, 8, seed=1), torch.full((2,), 3.5)
    c = dict(text=rand(2, 7, 32, seed=2), pooled=rand(2, 32, seed=3), guidance=g)
    n = dict(text=rand(2, 7, 32, seed=4), pooled=rand(2, 32, seed=5), guidance=g)

    def theirs(steps, guided):
        out = pipe(
            **embeds(c | {}, n),
            pooled_prompt_embeds=c["pooled"],
            negative_pooled_prompt_embeds=n["pooled"],
            guidance_scale=3.5,
            true_cfg_scale=SCALE if guided else 1.0,
            height=12,
            width=8,
            latents=pack(x0),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        return unpack(out, 12, 8)

    return Case(pipe, x0, c, n, theirs, dict(height=12, width=8))


def flux2_parts(guidance_embeds=True):
    net = awake(
        df.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            timestep_guidance_channels=256,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=guidance_embeds,
        )
    )
    vae = df.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return net, vae


def flux2() -> Case:
    net, vae = flux2_parts()
    pipe = df.Flux2Pipeline(dynamic(), vae, None, None, net)
    x0 = rand(2, 16, 4, 6, seed=1)
    c = dict(text=rand(2, 7, 16, seed=2), guidance=torch.full((2,), 4.0))

    def theirs(steps, guided):
        out = pipe(
            prompt_embeds=c["text"],
            guidance_scale=4.0,
            height=8,
            width=12,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        return out.mT.unflatten(2, (4, 6))

    return Case(pipe, x0, c, None, theirs, dict(height=8, width=12))


def flux2_klein() -> Case:
    net, vae = flux2_parts(guidance_embeds=False)
    pipe = df.Flux2KleinPipeline(dynamic(), vae, None, None, net)
    x0 = rand(2, 16, 4, 6, seed=1)
    c, n = plain(16)

    def theirs(steps, guided):
        out = pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=8,
            width=12,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        # these latents come back opened and with their statistics undone: both are done again
        x = pipe._patchify_latents(out)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return (x - vae.bn.running_mean.view(1, -1, 1, 1)) / std

    return Case(pipe, x0, c, n, theirs, dict(height=8, width=12))


def chroma() -> Case:
    net = awake(
        df.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=[4, 4, 8],
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        )
    )
    pipe = df.ChromaPipeline(dynamic(), kl(), None, None, net)
    x0 = rand(2, 4, 8, 8, seed=1)
    c, n = masked(32, dtype=torch.bool)

    def theirs(steps, guided):
        out = pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=8,
            width=8,
            latents=pack(x0),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        return unpack(out, 8, 8)

    return Case(pipe, x0, c, n, theirs, dict(height=8, width=8))


def sana(scheduler=None) -> Case:
    net = awake(
        df.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        )
    )
    blocks = ("ResBlock", "EfficientViTBlock")
    vae = df.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    pipe = df.SanaPipeline(None, None, vae, net, scheduler or static(3.0))
    x0 = rand(2, 4, 16, 16, seed=1)
    c, n = masked(8)
    side = 16 * pipe.vae_scale_factor

    def theirs(steps, guided):
        return pipe(
            prompt=None,
            negative_prompt=None,
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=side,
            width=side,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
            use_resolution_binning=False,
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=side, width=side))


def qwen_vae():
    return df.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def wan_vae():
    return df.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def qwen_net(**more):
    return awake(
        df.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
            **more,
        )
    )


def qwen_image() -> Case:
    scheduler = dynamic(base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)
    pipe = df.QwenImagePipeline(scheduler, qwen_vae(), None, None, qwen_net())
    k = pipe.vae_scale_factor
    x0 = rand(2, 4, 8, 6, seed=1)
    c, n = masked(16)

    def theirs(steps, guided):
        out = pipe(
            **embeds(c, n, "prompt_embeds_mask"),
            true_cfg_scale=SCALE if guided else 1.0,
            height=8 * k,
            width=6 * k,
            latents=pack(x0),
            num_inference_steps=steps,
            output_type="latent",
        ).images
        return unpack(out, 8, 6)

    return Case(pipe, x0, c, n, theirs, dict(height=8 * k, width=6 * k))


def lumina2() -> Case:
    net = awake(
        df.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=2,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=[4, 2, 2],
            cap_feat_dim=8,
        )
    )
    pipe = df.Lumina2Pipeline(net, static(6.0), kl8(), None, None)
    x0 = rand(2, 4, 8, 8, seed=1)
    c, n = masked(8, dtype=torch.bool)
    side = 8 * pipe.vae_scale_factor

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=16,
            width=16,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
            cfg_normalization=True,
            cfg_trunc_ratio=1.0,
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=side, width=side))


def z_image() -> Case:
    net = df.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # not initialised by the class
        net.x_pad_token.fill_(1.0)
        net.cap_pad_token.fill_(1.0)
    vae = kl(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[32, 64],
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    pipe = df.ZImagePipeline(static(3.0), vae, None, None, awake(net))
    side = 4 * pipe.vae_scale_factor * 2
    x0 = rand(2, 16, 8, 8, seed=1)
    c, n = masked(16)

    def rows(d):
        return [row[: int(k.sum())] for row, k in zip(d["text"], d["mask"], strict=True)]

    def theirs(steps, guided):
        return pipe(
            prompt_embeds=rows(c),
            negative_prompt_embeds=rows(n),
            guidance_scale=SCALE - 1 if guided else 0.0,
            height=side,
            width=side,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
            cfg_normalization=False,
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=side, width=side))
