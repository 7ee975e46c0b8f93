"""Tiny pipelines of further image families."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from beeline.networks.hub.layout import pack, unpack
from tests.networks.hub.tiny import Case, awake, df, dynamic, embeds, kl, kl8, looped, masked, plain, rand, static
from tests.networks.hub.tiny_images import flux2_parts, qwen_vae, wan_vae

FLUX_LIKE = dict(patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16)
FLUX_LIKE |= dict(num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=[4, 4, 8])


def packed_case(pipe, c, n, prompts, sides=(12, 8), channels=4, pixels=1, **more) -> Case:
    h, w = sides
    x0, size = rand(2, channels, h, w, seed=1), dict(height=h * pixels, width=w * pixels)
    theirs = looped(pipe, x0, size, prompts, given=pack, taken=lambda out: unpack(out, h, w), **more)
    return Case(pipe, x0, c, n, theirs, size)


def ovis() -> Case:
    net = awake(df.OvisImageTransformer2DModel(out_channels=16, **FLUX_LIKE))
    pipe = df.OvisImagePipeline(dynamic(), kl(), None, None, net)
    c, n = plain(32)
    return packed_case(pipe, c, n, embeds(c, n) | dict(negative_prompt=None))


def longcat() -> Case:
    net = awake(df.LongCatImageTransformer2DModel(pooled_projection_dim=32, **FLUX_LIKE))
    pipe = df.LongCatImagePipeline(dynamic(), kl(), None, None, None, net)
    c, n = plain(32)
    pipe._encode_prompt = lambda texts: c["text"] if texts[0] else n["text"]  # it takes no embeddings alone
    prompts = dict(prompt=["a", "b"], negative_prompt=["", ""], enable_prompt_rewrite=False)
    return packed_case(pipe, c, n, prompts)


def bria(scheduler=None) -> Case:
    net = awake(df.BriaTransformer2DModel(**FLUX_LIKE))
    pipe = df.BriaPipeline(net, scheduler or static(1.5), kl(), None, None)
    c, n = plain(32)
    return packed_case(pipe, c, n, embeds(c, n))


def bria_dynamic() -> Case:
    return bria(dynamic())


def nucleus() -> Case:
    net = df.NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        num_key_value_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
        dense_moe_strategy="leave_first_block_dense",
    )
    for name, p in net.named_parameters():  # those of the experts are not initialised by the class
        p.data = rand(*p.shape, seed=0) / 8 if "experts" in name else p.data
    pipe = df.NucleusMoEImagePipeline(awake(net), dynamic(), qwen_vae(), None, None)
    c, n = masked(16)
    prompts = embeds(c, n, "prompt_embeds_mask")
    return packed_case(pipe, c, n, prompts, pixels=pipe.vae_scale_factor)


def krea2(distilled=False) -> Case:
    net = awake(
        df.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=32,
            text_hidden_dim=16,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 4, 8),
        )
    )
    pipe = df.Krea2Pipeline(dynamic(), qwen_vae(), None, None, net, is_distilled=distilled)
    c, n = masked(16, dtype=torch.bool)
    for part, seed in ((c, 6), (n, 7)):
        part["text"] = rand(2, 7, 3, 16, seed=seed)
    prompts = embeds(c, n, "prompt_embeds_mask")
    return packed_case(pipe, c, n, prompts, pixels=pipe.vae_scale_factor, offset=1.0)


def krea2_distilled() -> Case:
    return krea2(distilled=True)


def ernie() -> Case:
    net = awake(
        df.ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=2,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=16,
            rope_axes_dim=(4, 4, 8),
        )
    )
    pipe = df.ErnieImagePipeline(net, flux2_parts()[1], None, None, static(3.0))
    c, n = masked(16)
    rows = {
        name: [row[: int(m.sum())] for row, m in zip(part["text"], part["mask"], strict=True)]
        for name, part in (("prompt_embeds", c), ("negative_prompt_embeds", n))
    }
    x0, size = rand(2, 16, 4, 6, seed=1), dict(height=8, width=12)
    return Case(pipe, x0, c, n, looped(pipe, x0, size, rows), size)


def kandinsky5_net(**more):
    settings = dict(in_text_dim=16, in_text_dim2=8, time_dim=16, model_dim=32, ff_dim=32)
    settings |= dict(num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 8))
    return awake(df.Kandinsky5Transformer3DModel(**(settings | more)), amount=0.04)  # rounding grows with 0.08


def kandinsky5_embeds(c, n):
    lengths = torch.tensor([0, 7, 14], dtype=torch.int32)
    return dict(
        prompt_embeds_qwen=c["text"],
        prompt_embeds_clip=c["pooled"],
        prompt_cu_seqlens=lengths,
        negative_prompt_embeds_qwen=n["text"],
        negative_prompt_embeds_clip=n["pooled"],
        negative_prompt_cu_seqlens=lengths,
    )


def kandinsky5() -> Case:
    pipe = df.Kandinsky5T2IPipeline(kandinsky5_net(), kl8(), None, None, None, None, static(3.0))
    pipe.resolutions = [(48, 64)]  # of which the pipeline takes the nearest
    x0, size = rand(2, 4, 8, 6, seed=1), dict(height=64, width=48)
    c, n = (dict(text=rand(2, 7, 16, seed=s), pooled=rand(2, 8, seed=s + 1)) for s in (2, 4))
    theirs = looped(
        pipe,
        x0,
        size,
        kandinsky5_embeds(c, n),
        result="image",
        given=lambda x: x.permute(0, 2, 3, 1)[:, None],
        taken=lambda out: out[:, 0].permute(0, 3, 1, 2),
    )
    return Case(pipe, x0, c, n, theirs, size)


def fibo() -> Case:
    settings = FLUX_LIKE | dict(in_channels=16, num_single_layers=2, text_encoder_dim=16, joint_attention_dim=16)
    pipe = df.BriaFiboPipeline(awake(df.BriaFiboTransformer2DModel(**settings)), dynamic(), wan_vae(), None, None)
    pipe.text_encoder, pipe.vae_scale_factor = SimpleNamespace(dtype=torch.float32), 8  # that of the tiny autoencoder
    c, n = masked(16)
    for part, seed in ((c, 6), (n, 7)):
        part["layers"] = rand(2, 2, 7, 16, seed=seed)  # fewer layers than blocks: the last one is repeated
    parts = {"a": c, "": n}

    def embedded(prompt, **more):
        part = parts[prompt[0]]
        return part["text"], list(part["layers"].unbind(1)), part["mask"]

    pipe.get_prompt_embeds = embedded  # it takes no embeddings
    x0, size = rand(2, 16, 4, 8, seed=1), dict(height=32, width=64)
    prompts = dict(prompt=["a", "a"], negative_prompt=["", ""])
    theirs = looped(
        pipe, x0, size, prompts, given=lambda x: x.flatten(2).mT, taken=lambda out: out.mT.unflatten(2, (4, 8))
    )
    return Case(pipe, x0, c, n, theirs, size)


def fibo2() -> Case:
    net = awake(
        df.BriaFibo2Transformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=16,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=2,
            max_num_gist_tokens=4,
            gist_step=1,
            gist_min_text_len=2,
            gist_max_text_len=8,
            axes_dims=(4, 6, 6),
            axes_lens=(32, 32, 32),
        )
    )
    pipe = df.BriaFibo2Pipeline(net, dynamic(), flux2_parts()[1], None, None)
    c, n = masked(16, dtype=torch.bool)
    for part, seed in ((c, 6), (n, 7)):
        part["text"] = rand(2, 2, 7, 16, seed=seed)
    x0, size = rand(2, 4, 12, 8, seed=1), dict(height=12, width=8)
    return Case(pipe, x0, c, n, looped(pipe, x0, size, embeds(c, n, "prompt_embeds_mask")), size)
