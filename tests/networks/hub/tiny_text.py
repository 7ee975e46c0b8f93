"""Tiny text encoders and tokenizers, and pipelines that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.networks.hub import tiny_images
from tests.networks.hub.tiny import df

tf = pytest.importorskip("transformers", reason="transformers is not installed")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of single letters."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{c}</w>" for c in LETTERS)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return tf.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def t5_tokenizer() -> Any:
    """A T5 tokenizer of single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -2.0), *((c, -3.0) for c in LETTERS)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip_settings(width: int) -> Any:
    return tf.CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
    )


def t5(width: int) -> Any:
    settings = tf.T5Config(vocab_size=30, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return tf.T5EncoderModel(settings).eval()


def sd3(folder: Path) -> Any:
    """A whole pipeline of Stable Diffusion 3 with two CLIP encoders and without T5."""
    torch.manual_seed(0)
    pipe = tiny_images.sd3().pipe
    encoders = [tf.CLIPTextModelWithProjection(clip_settings(w)).eval() for w in (24, 40)]
    tokenizer = clip_tokenizer(folder / "clip")
    made = df.StableDiffusion3Pipeline(
        widened(pipe.transformer), pipe.scheduler, pipe.vae, encoders[0], tokenizer, encoders[1], tokenizer, None, None
    )
    made.set_progress_bar_config(disable=True)
    return made


def widened(net: Any) -> Any:
    """The same network for embeddings of 64 numbers, the sum of both CLIP encoders."""
    from tests.networks.hub.tiny import awake

    return awake(type(net).from_config({**net.config, "joint_attention_dim": 64, "pooled_projection_dim": 64}))


def flux(folder: Path) -> Any:
    """A whole pipeline of FLUX with a CLIP and a T5 encoder."""
    torch.manual_seed(0)
    pipe = tiny_images.flux().pipe
    made = df.FluxPipeline(
        pipe.scheduler,
        pipe.vae,
        tf.CLIPTextModel(clip_settings(32)).eval(),
        clip_tokenizer(folder / "clip"),
        t5(32),
        t5_tokenizer(),
        pipe.transformer,
    )
    made.set_progress_bar_config(disable=True)
    return made
