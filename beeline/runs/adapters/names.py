"""The layers of a network that the paths in a file of an adapter mean: other names, fused and divided layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from beeline.networks.adapters.delta import LAYERS, weight_of
from beeline.networks.adapters.factors import Factors, split, stacked
from beeline.runs.adapters.sites import DenseSite, LowRankSite, ScaledRows, Site

HEADS = 4  # leading parts of the names of layers that a file may leave out

_FLUX, _SINGLE = r"transformer_blocks.\1.", r"single_transformer_blocks.\1."
RULES: Sequence[tuple[str, tuple[str, ...]]] = (  # a fused layer, and the layers whose rows it holds, in order
    (
        r"double_blocks\.(\d+)\.img_attn\.qkv",
        tuple(_FLUX + end for end in ("attn.to_q", "attn.to_k", "attn.to_v")),
    ),
    (
        r"double_blocks\.(\d+)\.txt_attn\.qkv",
        tuple(_FLUX + end for end in ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    ),
    (r"double_blocks\.(\d+)\.img_attn\.proj", (_FLUX + "attn.to_out.0",)),
    (r"double_blocks\.(\d+)\.txt_attn\.proj", (_FLUX + "attn.to_add_out",)),
    (r"double_blocks\.(\d+)\.img_mlp\.0", (_FLUX + "ff.net.0.proj",)),
    (r"double_blocks\.(\d+)\.img_mlp\.2", (_FLUX + "ff.net.2",)),
    (r"double_blocks\.(\d+)\.txt_mlp\.0", (_FLUX + "ff_context.net.0.proj",)),
    (r"double_blocks\.(\d+)\.txt_mlp\.2", (_FLUX + "ff_context.net.2",)),
    (r"double_blocks\.(\d+)\.img_mod\.lin", (_FLUX + "norm1.linear",)),
    (r"double_blocks\.(\d+)\.txt_mod\.lin", (_FLUX + "norm1_context.linear",)),
    (
        r"single_blocks\.(\d+)\.linear1",
        tuple(_SINGLE + end for end in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
    ),
    (r"single_blocks\.(\d+)\.linear2", (_SINGLE + "proj_out",)),
    (r"single_blocks\.(\d+)\.modulation\.lin", (_SINGLE + "norm.linear",)),
    (r"img_in", ("x_embedder",)),
    (r"txt_in", ("context_embedder",)),
    (r"time_in\.in_layer", ("time_text_embed.timestep_embedder.linear_1",)),
    (r"time_in\.out_layer", ("time_text_embed.timestep_embedder.linear_2",)),
    (r"guidance_in\.in_layer", ("time_text_embed.guidance_embedder.linear_1",)),
    (r"guidance_in\.out_layer", ("time_text_embed.guidance_embedder.linear_2",)),
    (r"vector_in\.in_layer", ("time_text_embed.text_embedder.linear_1",)),
    (r"vector_in\.out_layer", ("time_text_embed.text_embedder.linear_2",)),
    (r"final_layer\.linear", ("proj_out",)),
    (r"final_layer\.adaLN_modulation\.1", ("norm_out.linear",)),
    (r"(.*)\.qkv", tuple(rf"\1.to_{end}" for end in "qkv")),
    (r"(.*)\.qkv", tuple(rf"\1.{end}_proj" for end in "qkv")),
    (r"(.*)\.to_kv", (r"\1.to_k", r"\1.to_v")),
)
SWAPPED = "norm_out_linear"  # whose halves, shift and scale, stand in the other order in the original FLUX


@dataclass(frozen=True)
class Match:
    """Which layers of a network a file changes, and what does not fit."""

    sites: Mapping[str, Site]  # by the name of the layer
    unknown: tuple[str, ...]  # paths of the file without a layer
    clashes: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]  # layer -> sizes in the file and in the network
    renamed: int = 0  # layers that were fused, divided or called otherwise


def flat(name: str) -> str:
    """A path with "_" in place of ".", as in files of kohya."""
    return name.replace(".", "_")


def sizes_of(network: nn.Module) -> dict[str, tuple[int, int]]:
    """The outputs and inputs of the layers of a network by name."""
    found = {name: weight_of(m) for name, m in network.named_modules() if isinstance(m, LAYERS)}
    return {name: (w.shape[0], w[0].numel()) for name, w in found.items()}


def match(sites: Mapping[str, Site], sizes: Mapping[str, tuple[int, int]]) -> Match:
    """The changes of a file by the names of layers of a network, whose sizes are given."""
    known = best_names(sites, sizes)
    found: dict[str, Site] = {}
    left, clashes = dict(sites), {}
    for path in sites:
        if (name := known.get(flat(path))) is not None:
            found[name] = left.pop(path)
    direct = len(found)
    for fused, others, swap in _rules(left, known):
        names = [known.get(flat(part)) for part in others]
        if fused in left and all(names) and not set(names) & set(found):  # a fused layer of the file
            rows = [sizes[name] for name in names if name]
            if sum(r[0] for r in rows) == left[fused].shape[0]:
                pieces = divided(left.pop(fused), [r[0] for r in rows])
                found |= {n: halves(p) if swap else p for n, p in zip(names, pieces, strict=True) if n}
    for fused, name in known.items():
        for pattern, parts in RULES:  # a fused layer of the network
            if name in found or not (hit := re.fullmatch(_any(pattern), fused)):
                continue
            paths = {flat(p): p for p in left}
            wanted = [paths.get(flat(hit.expand(part))) for part in parts]
            if any(wanted) and len(parts) > 1:
                found[name] = joined([left.pop(p) if p else None for p in wanted], sizes[name])
    for name in list(found):
        if found[name].shape != sizes[name]:
            clashes[name] = (found.pop(name).shape, sizes[name])
    return Match(found, tuple(sorted(left)), clashes, len(found) + len(clashes) - direct)


def best_names(paths: Mapping[str, Site], sizes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """Names of layers by flat path, without the leading parts with which most paths fit."""
    heads = {""} | {".".join(n.split(".")[:k]) + "." for n in sizes for k in range(1, HEADS) if n.count(".") >= k}
    wanted = {flat(p) for p in paths}
    wanted |= {flat(part) for _, parts, _ in _rules(dict(paths), {}) for part in parts}

    def fitting(head: str) -> dict[str, str]:
        return {flat(n.removeprefix(head)): n for n in sizes if n.startswith(head)}

    def score(head: str) -> tuple[int, int]:
        names = fitting(head)
        fused = sum(
            any(flat(hit.expand(part)) in wanted for part in parts)
            for name in names
            for pattern, parts in RULES
            if (hit := re.fullmatch(_any(pattern), name)) and len(parts) > 1
        )
        return len(wanted & names.keys()) + fused, -len(head)

    return fitting(max(sorted(heads), key=score))


def _rules(paths: Mapping[str, Site], known: Mapping[str, str]) -> Iterator[tuple[str, list[str], bool]]:
    """Paths of a file that a rule names otherwise, with the other names and whether halves are swapped."""
    for path in list(paths):
        for pattern, parts in RULES:
            if hit := re.fullmatch(_any(pattern), flat(path)):
                names = [hit.expand(part) for part in parts]
                yield path, names, flat(names[0]) == SWAPPED


def _any(pattern: str) -> str:
    return pattern.replace(r"\.", "_")


def divided(site: Site, rows: Sequence[int]) -> list[Site]:
    """The changes of layers whose rows one layer holds."""
    if isinstance(site, ScaledRows) and site.by_rows:
        lengths = site.length.split(list(rows))
        return [ScaledRows(f, length=n) for f, n in zip(split(site.baked, rows), lengths, strict=True)]
    if isinstance(site, LowRankSite) and not isinstance(site, ScaledRows):
        return [LowRankSite(f) for f in split(site.baked, rows)]
    assert isinstance(site, DenseSite)
    return [replace(site, value=value) for value in site.value.split(list(rows))]


def halves(site: Site) -> Site:
    """A change with the halves of its rows swapped."""
    first, second = divided(site, [site.shape[0] // 2] * 2)
    if isinstance(site, LowRankSite):
        up = torch.cat(site.baked.up.chunk(2)[::-1])
        return LowRankSite(Factors(up, site.baked.down))
    assert isinstance(first, DenseSite) and isinstance(second, DenseSite)
    return replace(first, value=torch.cat([second.value, first.value]))


def joined(parts: Sequence[Site | None], size: tuple[int, int]) -> Site:
    """The change of a layer that holds the rows of several, some of which are not changed."""
    known = [p for p in parts if p is not None]
    given = sum(p.shape[0] for p in known)
    missing = parts.count(None)
    rest = (size[0] - given) // missing if missing else 0
    if all(isinstance(p, LowRankSite) and not isinstance(p, ScaledRows) for p in known):
        into = known[0].shape[1]
        nothing = Factors(torch.zeros(rest, 1), torch.zeros(1, into))
        made = stacked([p.baked if isinstance(p, LowRankSite) else nothing for p in parts])
        used = made.up.abs().sum(0) > 0 if missing else torch.ones(made.rank, dtype=torch.bool)
        return LowRankSite(Factors(made.up[:, used], made.down[used]) if used.any() else made)
    values = [torch.zeros(rest, known[0].shape[1]) if p is None else _value(p) for p in parts]
    return DenseSite(torch.cat(values), method=known[0].method)


def _value(site: Site) -> torch.Tensor:
    assert not isinstance(site, ScaledRows), "lengths of rows need the weights"
    return site.change(torch.empty(0))
