"""Tiny video pipelines."""

from __future__ import annotations

import torch

from tests.networks.hub.tiny import (
    SCALE,
    Case,
    awake,
    df,
    dynamic,
    embeds,
    flow_prediction,
    looped,
    masked,
    masks,
    plain,
    rand,
    static,
)
from tests.networks.hub.tiny_further import kandinsky5_embeds, kandinsky5_net
from tests.networks.hub.tiny_images import wan_vae


def wan_net(seed=0, kind=None, **more):
    return awake(
        (kind or df.WanTransformer3DModel)(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            **(dict(in_channels=16) | more),
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        seed,
    )


def wan(scheduler=None, expand=False) -> Case:
    pipe = df.WanPipeline(None, None, wan_vae(), scheduler or static(5.0), wan_net(), expand_timesteps=expand)
    x0 = rand(2, 16, 3, 4, 4, seed=1)
    c, n = plain(32)

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=32,
            width=32,
            num_frames=9,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames

    return Case(pipe, x0, c, n, theirs, dict(height=32, width=32, num_frames=9))


def wan_per_token() -> Case:
    return wan(expand=True)


def wan_experts() -> Case:
    case = wan()
    pipe = df.WanPipeline(
        None, None, case.pipe.vae, case.pipe.scheduler, case.pipe.transformer, wan_net(9), boundary_ratio=0.875
    )

    def theirs(steps, guided):
        return pipe(
            **embeds(case.cond, case.null),
            guidance_scale=SCALE if guided else 1.0,
            height=32,
            width=32,
            num_frames=9,
            latents=case.x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames

    return Case(pipe, case.x0, case.cond, case.null, theirs, case.size)


def anyflow() -> Case:
    net = awake(
        df.AnyFlowTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            rope_max_seq_len=32,
            gate_value=0.25,
            deltatime_type="r",
        )
    )
    pipe = df.AnyFlowPipeline(None, None, net, wan_vae(), df.FlowMapEulerDiscreteScheduler(shift=5.0))
    x0 = rand(2, 16, 3, 4, 4, seed=1)
    c, n = plain(32)

    def theirs(steps, guided):
        negative = dict(negative_prompt_embeds=n["text"]) if guided else {}  # given unguided, it fails there
        out = pipe(
            prompt_embeds=c["text"],
            **negative,
            guidance_scale=SCALE if guided else 1.0,
            height=32,
            width=32,
            num_frames=9,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames
        return out if out.shape == x0.shape else out.transpose(1, 2)

    return Case(pipe, x0, c, n, theirs, dict(height=32, width=32, num_frames=9))


def ltx_parts():
    net = awake(
        df.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=32,
        )
    )
    vae = df.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
        patch_size_t=1,
    )
    scheduler = dynamic(shift=1.0, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1)
    return scheduler, vae, net


def ltx() -> Case:
    scheduler, vae, net = ltx_parts()
    pipe = df.LTXPipeline(scheduler, vae, None, None, net)
    space, frames = pipe.vae_spatial_compression_ratio, pipe.vae_temporal_compression_ratio
    x0 = rand(2, 8, 3, 8, 16, seed=1)
    c, n = masked(32)
    size = dict(height=8 * space, width=16 * space, num_frames=2 * frames + 1)

    def theirs(steps, guided):
        out = pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            **size,
            frame_rate=25,
            latents=x0.flatten(2).mT.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames
        return out.mT.unflatten(2, (3, 8, 16))

    return Case(pipe, x0, c, n, theirs, size)


def hunyuan_video_vae():
    return df.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )


def skyreels() -> Case:
    net = wan_net(kind=df.SkyReelsV2Transformer3DModel)
    pipe = df.SkyReelsV2Pipeline(None, None, net, wan_vae(), flow_prediction(df.UniPCMultistepScheduler, 8.0))
    x0, size = rand(2, 16, 3, 4, 4, seed=1), dict(height=32, width=32, num_frames=9)
    c, n = plain(32)
    return Case(pipe, x0, c, n, looped(pipe, x0, size, embeds(c, n), result="frames"), size)


def sana_video() -> Case:
    net = awake(
        df.SanaVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=16,
            rope_max_seq_len=32,
        )
    )
    pipe = df.SanaVideoPipeline(None, None, wan_vae(), net, flow_prediction(df.DPMSolverMultistepScheduler, 8.0))
    x0, size = rand(2, 16, 3, 4, 4, seed=1), dict(height=32, width=32)
    c, n = masked(16)
    theirs = looped(
        pipe, x0, size, embeds(c, n), result="frames", frames=9, use_resolution_binning=False, negative_prompt=None
    )
    return Case(pipe, x0, c, n, theirs, dict(num_frames=9, **size))


def kandinsky5_video(visual_cond=False) -> Case:
    net = kandinsky5_net(in_visual_dim=4, out_visual_dim=4, visual_cond=visual_cond)
    pipe = df.Kandinsky5T2VPipeline(net, hunyuan_video_vae(), None, None, None, None, static(5.0))
    x0, size = rand(2, 4, 3, 4, 6, seed=1), dict(height=32, width=48, num_frames=9)
    c, n = (dict(text=rand(2, 7, 16, seed=s), pooled=rand(2, 8, seed=s + 1)) for s in (2, 4))

    def given(x):
        last = x.permute(0, 2, 3, 4, 1)
        return torch.cat([last, torch.zeros_like(last), last[..., :1] * 0], -1) if visual_cond else last.clone()

    theirs = looped(
        pipe, x0, size, kandinsky5_embeds(c, n), result="frames", given=given, taken=lambda o: o.permute(0, 4, 1, 2, 3)
    )
    return Case(pipe, x0, c, n, theirs, size)


def kandinsky5_video_known_frames() -> Case:
    return kandinsky5_video(visual_cond=True)


def hunyuan_video_net(**more):
    settings = dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1)
    settings |= dict(num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True)
    settings |= dict(text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4))
    return awake(df.HunyuanVideoTransformer3DModel(**(settings | more)))


def hunyuan_video() -> Case:
    net = hunyuan_video_net()
    pipe = df.HunyuanVideoPipeline(None, None, net, hunyuan_video_vae(), static(7.0), None, None)
    x0, g, m = rand(2, 4, 3, 4, 4, seed=1), torch.full((2,), 6000.0), masks(2)
    c = dict(text=rand(2, 7, 16, seed=2), mask=m, pooled=rand(2, 8, seed=3), guidance=g)
    n = dict(text=rand(2, 7, 16, seed=4), mask=m.flip(0), pooled=rand(2, 8, seed=5), guidance=g)

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            pooled_prompt_embeds=c["pooled"],
            negative_pooled_prompt_embeds=n["pooled"],
            true_cfg_scale=SCALE if guided else 1.0,
            guidance_scale=6.0,
            height=32,
            width=32,
            num_frames=9,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames

    return Case(pipe, x0, c, n, theirs, dict(height=32, width=32, num_frames=9))


def easyanimate() -> Case:
    net = awake(
        df.EasyAnimateTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            num_layers=2,
            mmdit_layers=1,
            time_embed_dim=16,
            text_embed_dim=16,
        )
    )
    vae = df.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=[8] * 4, layers_per_block=1, norm_num_groups=4, spatial_group_norm=False
    )
    pipe = df.EasyAnimatePipeline(vae, None, None, net, dynamic())
    x0, size = rand(2, 4, 3, 4, 6, seed=1), dict(height=32, width=48, num_frames=9)
    c, n = plain(16)
    ones = dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(2, 7))
    return Case(pipe, x0, c, n, looped(pipe, x0, size, embeds(c, n) | ones, result="frames"), size)


def hunyuan_video15() -> Case:
    net = awake(
        df.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=12,
            image_embed_dim=8,
            rope_axes_dim=(2, 4, 4),
            target_size=32,
            task_type="t2v",
        )
    )
    vae = df.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, spatial_compression_ratio=8
    )
    pipe = df.HunyuanVideo15Pipeline(None, None, net, vae, static(5.0), None, None, df.ClassifierFreeGuidance(6.0))
    pipe.vision_num_semantic_tokens = 5
    x0, size = rand(2, 4, 3, 4, 6, seed=1), dict(height=32, width=48, num_frames=9)
    c, n = masked(16)
    for part, seed in ((c, 6), (n, 7)):
        part |= dict(glyphs=rand(2, 5, 12, seed=seed), glyph_mask=masks(2, length=5).roll(seed, 0))
    prompts = embeds(c, n, "prompt_embeds_mask")
    for start, part in (("", c), ("negative_", n)):
        prompts |= {f"{start}prompt_embeds_2": part["glyphs"], f"{start}prompt_embeds_mask_2": part["glyph_mask"]}

    def theirs(steps, guided):
        pipe.guider = df.ClassifierFreeGuidance(guidance_scale=SCALE if guided else 1.0)
        call = dict(latents=x0.clone(), num_inference_steps=steps, output_type="latent")
        return pipe(**prompts, **size, **call).frames

    return Case(pipe, x0, c, n, theirs, size)


def mochi() -> Case:
    net = df.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    net.pos_frequencies.data.zero_()  # not initialised by the class
    vae = df.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    pipe = df.MochiPipeline(df.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae, None, None, awake(net))
    x0 = rand(2, 12, 2, 4, 4, seed=1)
    c, n = masked(32, dtype=torch.bool)

    def theirs(steps, guided):
        return pipe(
            **embeds(c, n),
            guidance_scale=SCALE if guided else 1.0,
            height=32,
            width=32,
            num_frames=7,
            latents=x0.clone(),
            num_inference_steps=steps,
            output_type="latent",
        ).frames

    return Case(pipe, x0, c, n, theirs, dict(height=32, width=32, num_frames=7))
