"""The transformers of diffusers as networks of slots: settings and places of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.dit import DiT
from beeline.networks.published.presets import SD3, Flux, PixArt
from beeline.networks.published.rules import (
    PatchesOut,
    Rule,
    Signed,
    attention,
    feed,
    layer,
    layers,
    patches_in,
    swapped,
)
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.positions import Learned, Rotary

Config = Mapping[str, Any]
GELUS = {"gelu": False, "gelu-approximate": True}


@dataclass(frozen=True)
class Wanted:
    """What a conversion may be told beside the checkpoint."""

    sign: float = -1.0  # of the network's output in ours: -1 for noise - data
    length: int | None = None  # vectors of a text
    guidance: float = 3.5  # of a network that was distilled with guidance as an input
    resolution: tuple[float, float] | None = None  # pixels, for a network that was trained with sizes as inputs


@dataclass(frozen=True)
class Converted:
    """How one network is made: a function that builds it, rules, constants, and copies that must be equal."""

    make: Callable[[], nn.Module]
    rules: list[Rule]
    constants: dict[str, Tensor] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)  # tensor of the checkpoint -> the one that it must equal


def width_of(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def common(config: Config, shift: int, side: int) -> dict[str, Any]:
    """The settings that all families have; times are embedded by 256 sines and cosines."""
    heads = config["num_attention_heads"]
    return {
        "patch": config["patch_size"],
        "width": width_of(config),
        "depth": config["num_layers"],
        "heads": heads,
        "shape": (config["in_channels"], side, side),
        "features": 256,
        "steps": shift,
    }


def clock(of: str) -> list[Rule]:
    """The embedding of the time."""
    return [*layer("embed.time.time.0", f"{of}.linear_1"), *layer("embed.time.time.2", f"{of}.linear_2")]


def ends(config: Config, sign: float) -> list[Rule]:
    """Patches, and the last layer of those families whose output is in the order of an image."""
    out = PatchesOut(config["in_channels"], config["patch_size"], sign)
    return [Rule("inp.weight", ("pos_embed.proj.weight",), patches_in), Rule("inp.bias", ("pos_embed.proj.bias",)),
            *layer("out", config.get("last", "proj_out"), out)]  # fmt: skip


def grid_table(config: Config, interpolation: float) -> Tensor:
    """The positions of ``PatchEmbed`` [N,D]: sines and cosines of the column, then of the row."""
    side, width = config["sample_size"] // config["patch_size"], width_of(config)
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    places = (torch.arange(side, dtype=torch.float32) / interpolation).double()[:, None] * rates
    waves = torch.cat([places.sin(), places.cos()], 1)
    columns, rows = waves.expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1).float()


def gelu(config: Config) -> FeedForward:
    """The feed of a configuration."""
    name = config.get("activation_fn", "gelu-approximate")
    require(
        name in GELUS,
        f"the checkpoint has feeds with activation_fn={name!r}; those of {' or '.join(GELUS)} are converted: use the "
        "pipeline through beeline.load",
    )
    return FeedForward(tanh=GELUS[name])


def dit(config: Config, wanted: Wanted) -> Converted:
    """DiTTransformer2DModel; all blocks must have equal embeddings of time and label, as the released ones."""
    count, classes = config["num_layers"], config["num_embeds_ada_norm"]
    slots = {"mixer": Attention(norm=False), "feed": gelu(config), "positions": Learned()}
    conditions = {"label": {"classes": classes}}
    settings = common(config, 1, config["sample_size"]) | slots | {"conditions": conditions}
    embed = "transformer_blocks.0.norm1.emb"
    rules = ends({**config, "last": "proj_out_2"}, wanted.sign) + clock(f"{embed}.timestep_embedder")
    rules += [Rule("embed.cond.parts.0.weight", (f"{embed}.class_embedder.embedding_table.weight",))]
    rules += layer("tell", "proj_out_1")
    copies = {}
    for i in range(count):
        of, into = f"transformer_blocks.{i}", f"block.{i}"
        rules += layer(f"{into}.tell", f"{of}.norm1.linear")
        rules += attention(f"{into}.mix", f"{of}.attn1", ("to_q", "to_k", "to_v"), "to_out.0")
        rules += feed(f"{into}.mlp", f"{of}.ff")
        parts = [f"timestep_embedder.linear_{k}.{part}" for k in (1, 2) for part in ("weight", "bias")]
        for part in (*parts, "class_embedder.embedding_table.weight") if i else ():
            copies[f"{of}.norm1.emb.{part}"] = f"{embed}.{part}"
    return Converted(lambda: DiT(**settings), rules, {"place.table": grid_table(config, 1)}, copies)


def joint(i: int, gains: bool, last: bool = False) -> list[Rule]:
    """A block of two streams."""
    of, into = f"transformer_blocks.{i}", f"joint.{i}"
    own, added = (("norm_q", "norm_k"), ("norm_added_q", "norm_added_k")) if gains else ((), ())
    rules = attention(f"{into}.mix.x", f"{of}.attn", ("to_q", "to_k", "to_v"), "to_out.0", own)
    projections = ("add_q_proj", "add_k_proj", "add_v_proj")
    rules += attention(f"{into}.mix.text", f"{of}.attn", projections, None if last else "to_add_out", added)
    rules += layer(f"{into}.tell.text", f"{of}.norm1_context.linear", *([swapped] if last else []))
    rules += feed(f"{into}.mlp.x", f"{of}.ff")
    return rules if last else rules + feed(f"{into}.mlp.text", f"{of}.ff_context")


def texts(config: Config, wanted: Wanted, length: int) -> dict[str, dict[str, int]]:
    """The conditions of a network with a text and a vector of all of it."""
    text = {"length": wanted.length or length, "size": config["joint_attention_dim"]}
    return {"pooled": {"size": config["pooled_projection_dim"]}, "text": text}


def pooled() -> list[Rule]:
    """The embedding of the vector of a text, which is the first condition, and the layer of its tokens."""
    rules = [*layer("embed.cond.parts.0.0", "time_text_embed.text_embedder.linear_1")]
    rules += layer("embed.cond.parts.0.2", "time_text_embed.text_embedder.linear_2")
    return [*rules, *layer("text.parts.0", "context_embedder"), *layer("tell", "norm_out.linear", swapped)]


def sd3(config: Config, wanted: Wanted) -> Converted:
    """SD3Transformer2DModel, of SD3 and SD3.5."""
    dual, depth, gains = tuple(config["dual_attention_layers"]), config["num_layers"], bool(config["qk_norm"])
    require(
        dual == tuple(range(len(dual))) and len(dual) < depth and config["qk_norm"] in (None, "rms_norm"),
        f"the checkpoint has dual_attention_layers={dual} and qk_norm={config['qk_norm']!r} in {depth} blocks; first "
        "blocks with a second attention, and norms 'rms_norm' or None, are converted: use the pipeline through "
        "beeline.load",
    )
    most = config["pos_embed_max_size"]
    settings = common(config, 0, config["sample_size"]) | {
        "conditions": texts(config, wanted, 333), "mixer": Attention(norm=gains), "dual": len(dual), "any_size": True,
        "positions": Learned((most, most)),
    }  # fmt: skip
    rules = ends(config, wanted.sign) + clock("time_text_embed.timestep_embedder") + pooled()
    rules += [Rule("place.table", ("pos_embed.pos_embed",), partial(torch.squeeze, dim=0))]
    for i in range(depth):
        of, into = f"transformer_blocks.{i}", f"joint.{i}"
        rules += joint(i, gains, last=i == depth - 1)
        if i in dual:
            six, three = (partial(_part, first=a, last=b) for a, b in ((0, 6), (6, 9)))
            rules += layer(f"{into}.tell.x", f"{of}.norm1.linear", six)
            rules += layer(f"{into}.again", f"{of}.norm1.linear", three)
            own = ("norm_q", "norm_k") if gains else ()
            rules += attention(f"{into}.own", f"{of}.attn2", ("to_q", "to_k", "to_v"), "to_out.0", own)
        else:
            rules += layer(f"{into}.tell.x", f"{of}.norm1.linear")
    return Converted(lambda: SD3(**settings), rules)


def _part(tensor: Tensor, first: int, last: int) -> Tensor:
    """Chunks ``first`` to ``last`` of nine."""
    return torch.cat(tensor.chunk(9)[first:last])


def flux(config: Config, wanted: Wanted) -> Converted:
    """FluxTransformer2DModel; guidance as an input becomes a constant."""
    channels, patch = config["in_channels"], 2
    require(
        channels % 4 == 0 and config["patch_size"] == 1,
        f"the checkpoint has in_channels={channels} and patch_size={config['patch_size']}; FLUX.1 takes patches of 2 x "
        "2 as channels: give one with a multiple of 4 and patch_size=1",
    )
    conditions = texts(config, wanted, 512)
    settings = common(config, 0, 128) | {
        "shape": (channels // 4, 128, 128), "patch": patch, "conditions": conditions,
        "single": config["num_single_layers"], "positions": Rotary(shares=tuple(config["axes_dims_rope"])),
    }  # fmt: skip
    embed = "time_text_embed"
    rules = [*layer("inp", "x_embedder"), *layer("out", "proj_out", Signed(wanted.sign))]
    rules += clock(f"{embed}.timestep_embedder") + pooled()
    if config["guidance_embeds"]:
        guided = constant([1000 * wanted.guidance], f"{embed}.timestep_embedder", [f"{embed}.guidance_embedder"])
        rules = replaced(rules, guided)
    for i in range(config["num_layers"]):
        rules += joint(i, gains=True)
        rules += layer(f"joint.{i}.tell.x", f"transformer_blocks.{i}.norm1.linear")
    for i in range(config["num_single_layers"]):
        of, into = f"single_transformer_blocks.{i}", f"single.{i}"
        rules += [*layer(f"{into}.tell", f"{of}.norm.linear"), *layer(f"{into}.mlp.0", f"{of}.proj_mlp")]
        rules += attention(f"{into}.mix", f"{of}.attn", ("to_q", "to_k", "to_v"), None, ("norm_q", "norm_k"))
        width = settings["width"]
        rules.append(Rule(f"{into}.mix.out.weight", (f"{of}.proj_out.weight",), partial(_columns, end=width)))
        rules.append(Rule(f"{into}.mlp.3.weight", (f"{of}.proj_out.weight",), partial(_columns, first=width)))
        rules.append(Rule(f"{into}.mix.out.bias", (f"{of}.proj_out.bias",)))
        rules.append(Rule(f"{into}.mlp.3.bias", (f"{of}.proj_out.bias",), torch.zeros_like))  # it is added once
    return Converted(lambda: Flux(**settings), rules)


def _columns(weight: Tensor, first: int = 0, end: int | None = None) -> Tensor:
    return weight[:, first:end]


def replaced(rules: list[Rule], new: Rule) -> list[Rule]:
    """The rules with another one for the tensor of ``new``."""
    return list({rule.into: rule for rule in (*rules, new)}.values())


def constant(values: list[float], clock: str, embedders: list[str]) -> Rule:
    """The bias of the time embedding with what embeddings of constant numbers add to it.

    Every number is embedded by the embedder at its place, and the results stand beside each other.
    """
    parts = [f"linear_{k}.{part}" for k in (1, 2) for part in ("weight", "bias")]
    names = [f"{clock}.linear_2.bias", *(f"{embedder}.{part}" for embedder in embedders for part in parts)]

    def by(bias: Tensor, *weights: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128)
        found = []
        for k, value in enumerate(values):
            w1, b1, w2, b2 = (w.double() for w in weights[4 * k : 4 * k + 4])
            features = torch.cat([(value * rates).cos(), (value * rates).sin()]).double()
            found.append(F.linear(F.silu(F.linear(features, w1, b1)), w2, b2))
        return (bias.double() + torch.cat(found)).to(bias.dtype)

    return Rule("embed.time.time.2.bias", tuple(names), by)


def pixart(config: Config, wanted: Wanted) -> Converted:
    """PixArtTransformer2DModel, alpha and sigma; sizes as inputs become constants."""
    side, width = config["sample_size"], width_of(config)
    require(
        config["caption_channels"] is not None and config["cross_attention_dim"] == width,
        f"the checkpoint has caption_channels={config['caption_channels']} and cross_attention_dim="
        f"{config['cross_attention_dim']} for {width} channels; those that embed captions in as many channels are "
        "converted: use the pipeline through beeline.load",
    )
    text = {"length": wanted.length or 300, "size": config["caption_channels"]}
    settings = common(config, 0, side) | {"conditions": {"text": text}, "feed": gelu(config), "positions": Learned()}
    rules = ends(config, wanted.sign) + clock("adaln_single.emb.timestep_embedder")
    rules += layer("root", "adaln_single.linear")
    rules += [Rule("tell.table", ("scale_shift_table",))]
    rules += [r for k in (1, 2) for r in layer(f"text.parts.0.{2 * k - 2}", f"caption_projection.linear_{k}")]
    sized = config.get("use_additional_conditions")
    if sized or (sized is None and side == 128):
        embed = "adaln_single.emb"
        height, length = wanted.resolution or (8.0 * side, 8.0 * side)
        names = ["resolution_embedder", "resolution_embedder", "aspect_ratio_embedder"]
        numbers = [height, length, height / length]
        embedders = [f"{embed}.{name}" for name in names]
        rules = replaced(rules, constant(numbers, f"{embed}.timestep_embedder", embedders))
    for i in range(config["num_layers"]):
        of, into = f"transformer_blocks.{i}", f"block.{i}"
        rules.append(Rule(f"{into}.tell.table", (f"{of}.scale_shift_table",)))
        rules += attention(f"{into}.mix", f"{of}.attn1", ("to_q", "to_k", "to_v"), "to_out.0")
        rules += [*layer(f"{into}.cross.q", f"{of}.attn2.to_q"), *layer(f"{into}.cross.out", f"{of}.attn2.to_out.0")]
        rules += layers(f"{into}.cross.kv", [f"{of}.attn2.to_k", f"{of}.attn2.to_v"])
        rules += feed(f"{into}.mlp", f"{of}.ff")
    scale = config.get("interpolation_scale") or max(side // 64, 1)
    return Converted(lambda: PixArt(**settings), rules, {"place.table": grid_table(config, scale)})


FAMILIES: dict[str, Callable[[Config, Wanted], Converted]] = {
    "DiTTransformer2DModel": dit,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "PixArtTransformer2DModel": pixart,
}
"""The conversion of every class of diffusers."""
