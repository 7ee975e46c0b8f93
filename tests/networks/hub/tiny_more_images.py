"""More tiny image pipelines."""

from __future__ import annotations

import torch

from tests.networks.hub.tiny import SCALE, Case, awake, df, dynamic, embeds, kl, masked, plain, rand, static


def auraflow() -> Case:
    net = awake(
        df.AuraFlowTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        )
    )
    pipe = df.AuraFlowPipeline(None, None, kl(), net, static(1.73))
    x0, m = rand(2, 4, 8, 8, seed=1), torch.ones(2, 7)
    c, n = plain(32)

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            prompt_attention_mask=m,
            negative_prompt_attention_mask=m,
            guidance_scale=SCALE if guided else 1.0,
            height=8,
            width=8,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=8, width=8))


def cogview4() -> Case:
    net = awake(
        df.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=4,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        )
    )
    scheduler = dynamic(shift=1.0, base_shift=0.25, max_shift=0.75, time_shift_type="linear")
    pipe = df.CogView4Pipeline(None, None, kl(), net, scheduler)
    x0 = rand(2, 4, 16, 16, seed=1)
    c, n = plain(32, length=16)
    side = 16 * pipe.vae_scale_factor

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=side,
            width=side,
            original_size=(side, side),
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=side, width=side))


def prx() -> Case:
    net = awake(
        df.PRXTransformer2DModel(
            patch_size=1,
            in_channels=4,
            context_in_dim=8,
            hidden_size=8,
            mlp_ratio=2.0,
            num_heads=2,
            depth=1,
            axes_dim=[2, 2],
        )
    )
    pipe = df.PRXPipeline(net, static(3.0), None, None, kl())
    x0 = rand(1, 4, 8, 8, seed=1)  # the pipeline's guidance takes one sample only
    c, n = masked(8, batch=1, dtype=torch.bool)
    side = 8 * pipe.vae_scale_factor

    def theirs(steps, guided):
        return pipe(
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


def hidream() -> Case:
    net = awake(
        df.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 16],
            text_emb_dim=64,
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=(0, 1),
        )
    )
    vae = df.AutoencoderKL(scaling_factor=0.3611, shift_factor=0.1159)
    pipe = df.HiDreamImagePipeline(static(3.0), vae, *[None] * 8, net)
    pipe.default_sample_size = 8  # every request is scaled to one area
    side = 8 * pipe.vae_scale_factor
    x0 = rand(2, 4, 8, 8, seed=1)
    c = dict(t5=rand(2, 7, 32, seed=2), llama=rand(2, 2, 7, 16, seed=3), pooled=rand(2, 64, seed=4))
    n = dict(t5=rand(2, 7, 32, seed=5), llama=rand(2, 2, 7, 16, seed=6), pooled=rand(2, 64, seed=7))

    def theirs(steps, guided):
        return pipe(
            prompt_embeds_t5=c["t5"],
            prompt_embeds_llama3=c["llama"].transpose(0, 1),
            negative_prompt_embeds_t5=n["t5"],
            negative_prompt_embeds_llama3=n["llama"].transpose(0, 1),
            pooled_prompt_embeds=c["pooled"],
            negative_pooled_prompt_embeds=n["pooled"],
            guidance_scale=SCALE if guided else 1.0,
            height=side,
            width=side,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images

    return Case(pipe, x0, c, n, theirs, dict(height=side, width=side))


def hunyuan_image(use_meanflow=True) -> Case:
    net = awake(
        df.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(1, 1),
            guidance_embeds=True,
            text_embed_dim=32,
            text_embed_2_dim=32,
            rope_axes_dim=(4, 4),
            use_meanflow=use_meanflow,
        )
    )
    vae = df.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    pipe = df.HunyuanImagePipeline(static(5.0), vae, None, None, None, None, net)
    side = 4 * pipe.vae_scale_factor
    x0, m = rand(2, 4, 4, 4, seed=1), torch.ones(2, 7, dtype=torch.long)
    c = dict(text=rand(2, 7, 32, seed=2), mask=m, glyphs=rand(2, 5, 32, seed=3), glyph_mask=m[:, :5])
    c["guidance"] = torch.full((2,), 3250.0)

    def theirs(steps, guided):
        return pipe(
            prompt_embeds=c["text"],
            prompt_embeds_mask=m,
            prompt_embeds_2=c["glyphs"],
            prompt_embeds_mask_2=m[:, :5],
            distilled_guidance_scale=3.25,
            height=side,
            width=side,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).images

    return Case(pipe, x0, c, None, theirs, dict(height=side, width=side))


def hunyuan_image_field() -> Case:
    return hunyuan_image(use_meanflow=False)
