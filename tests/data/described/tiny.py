"""Tiny text encoders with random weights and tokenizers of whole words, and pictures with captions."""

import json

import numpy as np
import tokenizers
import transformers
from PIL import Image as Picture
from tokenizers.processors import TemplateProcessing

import beeline as bl

WORDS = ["a", "red", "green", "blue", "circle", "square", "on", "black", "picture", "of"]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def tokenizer(first=("<s>",), last="</s>"):
    """A tokenizer of whole words that puts ``first`` before a text and ``last`` after it."""
    special = ["<pad>", "<unk>", *first, last]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing(
        single=" ".join([*first, "$A", last]), special_tokens=[(t, vocabulary[t]) for t in (*first, last)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token=last
    )


def clip(folder, seed=0, projection=False, width=12):
    """A CLIP text model; its pooled output is that of the last token of a text."""
    words = tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=24,
        projection_dim=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=2,
    )
    cls = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return saved(cls, config, words, folder, seed)


def t5(folder, seed=0):
    words = tokenizer(first=())
    config = transformers.T5Config(
        vocab_size=len(words), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return saved(transformers.T5EncoderModel, config, words, folder, seed)


def bert(folder, seed=0):
    words = tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    return saved(transformers.BertModel, config, words, folder, seed)


def saved(cls, config, words, folder, seed):
    with bl.Rng(seed).ambient():
        net = cls(config).eval()
    net.save_pretrained(folder)
    words.save_pretrained(folder)
    return net, words, folder


def shapes(folder, n=24, side=8, metadata=False, seed=0):
    """Pictures of coloured squares and circles on black; text files beside them, or metadata.jsonl."""
    rng, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        colour, form = list(COLOURS)[i % 3], ("circle", "square")[i // 3 % 2]
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        radius = rng.uniform(0.3, 0.45) * side
        inside = np.maximum(abs(x), abs(y)) < radius if form == "square" else x**2 + y**2 < radius**2
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[inside] = COLOURS[colour]
        Picture.fromarray(pixels).save(folder / f"{i:03d}.png")
        caption = f"a {colour} {form}"
        if metadata:
            size = [[float(radius), float(i % 2)]] * (1 + i % 2)
            rows.append({"file_name": f"{i:03d}.png", "caption": caption, "sizes": size, "tone": [i % 3, 1.0]})
        else:
            (folder / f"{i:03d}.txt").write_text(caption + "\n")
    if metadata:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
