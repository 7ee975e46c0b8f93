"""What a file of an adapter is, whether it fits a base, what it changes, and how it is mended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.files import write_tensors
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import changed_layers, weight_of
from beeline.networks.adapters.factors import Factors, overlap
from beeline.networks.adapters.inside import backbone_of
from beeline.runs.adapters.dialects import Contents, Dialect
from beeline.runs.adapters.files import Opened, load, read
from beeline.runs.adapters.names import match, sizes_of
from beeline.runs.adapters.sites import DenseSite, LowRankSite, ScaledRows, Site
from beeline.runs.bundle import Bundle

BINS = 5  # of the time, for the effect
STATES = 32  # samples of the base, for the effect
DEAD = 0.0  # norm of a change of nothing

BASES = (  # words in the paths of layers, and the family of networks that has them
    (("double_blocks", "single_blocks"), "FLUX, original names"),
    (("single_transformer_blocks",), "FLUX, names of diffusers"),
    (("joint_blocks",), "SD3, original names"),
    (("add_q_proj", "transformer_blocks"), "SD3 or another joint transformer, names of diffusers"),
    (("down_blocks", "mid_block", "up_blocks"), "a UNet of Stable Diffusion"),
    (("input_blocks", "output_blocks"), "a UNet of Stable Diffusion, original names"),
    (("transformer_blocks",), "a transformer of diffusers"),
    (("blocks", "self_attn"), "Wan"),
    (("mix.qkv", "mix_qkv"), "a DiT of Beeline"),
)


@dataclass(frozen=True)
class Row:
    """One layer of a file."""

    layer: str
    method: str
    size: str  # inputs x outputs
    rank: int | None
    alpha: float | None
    scale: float
    norm: float  # Frobenius norm of the change
    relative: float | None  # to that of the weight
    spectral: float | None  # largest singular value, relative to that of the weight
    stable_rank: float  # |D|_F^2 / |D|_2^2
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    file: str
    form: str  # the tool whose form it has
    methods: tuple[str, ...]
    base: str  # guessed from the names of layers
    dtypes: tuple[str, ...]
    rows: tuple[Row, ...]
    matched: int | None = None  # layers of the given base; None without one
    unmatched: tuple[str, ...] = ()  # layers of the base that the file leaves as they are
    unknown: tuple[str, ...] = ()  # paths of the file without a layer
    clashes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # tensors that are not of the flow
    effect: tuple[float, ...] = ()  # relative change of the velocity, by time
    endpoint: float | None = None  # root mean square change of samples from the same noise
    problems: tuple[str, ...] = ()
    header: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def examine(path: str | Path, base: Bundle | None = None, rng: Rng | None = None) -> Diagnosis:
    """A report on a file of an adapter, and with a base on how it fits and what it changes.

    Raises ValueError for a file that is none, and where no layer of it is one of the base.
    """
    opened = read(path)
    if opened.contents is None:
        return _own(opened, base, rng or Rng(0))
    found = opened.contents
    problems = _faults(found)
    sites, weights = dict(found.sites), dict[str, Tensor]()
    more: dict[str, Any] = {}
    if base is not None:
        network = backbone_of(base.flow.field)
        sizes = sizes_of(network)
        hit = match(found.sites, sizes)
        clashes = tuple(
            f"{name}: {a[1]} x {a[0]} in the file, {b[1]} x {b[0]} in the base" for name, (a, b) in hit.clashes.items()
        )
        require(
            bool(hit.sites) or bool(clashes),
            f"{opened.path} has no layer of the base: the file has {list(hit.unknown)[:3]} ({_base(found.sites)}), "
            f"the base {list(sizes)[:3]}; it changes nothing there: give the base that it was trained for",
        )
        problems += [f"{len(clashes)} layers have another size: {'; '.join(clashes[:3])}"] * bool(clashes)
        problems += [f"{len(hit.unknown)} paths are no layer of the base: {', '.join(hit.unknown[:3])}"] * bool(
            hit.unknown
        )
        sites = dict(hit.sites)
        weights = {n: weight_of(m).detach().flatten(1).float() for n, m in network.named_modules() if n in sites}
        more = {
            "matched": len(hit.sites),
            "unmatched": tuple(n for n in sizes if n not in hit.sites),
            "unknown": hit.unknown,
            "clashes": clashes,
        }
        if not clashes and not any("not finite" in p for p in problems):
            more |= _effect(base, load(base.flow.field, opened.path)[0], rng or Rng(0))
    rows = [_row(name, site, weights.get(name)) for name, site in sites.items()]
    dead = [row.layer for row in rows if row.norm == DEAD]
    problems += [f"{len(dead)} layers change nothing (a factor is zero): {', '.join(dead[:3])}"] * bool(dead)
    large = [row.layer for row in rows if (row.relative or 0) > 1]
    problems += [
        f"{len(large)} layers change by more than their own weight: {', '.join(large[:3])}; a scale may be lost"
    ] * bool(large)
    methods = tuple(sorted({s.method for s in found.sites.values()}))
    return Diagnosis(
        str(opened.path), found.dialect, methods, _base(found.sites), found.dtypes, tuple(rows), others=found.others,
        problems=tuple(problems), header=found.header, **more,
    )  # fmt: skip


def _own(opened: Opened, base: Bundle | None, rng: Rng) -> Diagnosis:
    """The report on numbers of a delta of Beeline."""
    assert opened.numbers is not None
    rows: list[Row] = []
    more: dict[str, Any] = {}
    if base is not None:
        made = load(base.flow.field, opened.path)[0]
        layers = changed_layers(backbone_of(made))
        for name, layer in layers.items():
            own = layer.own.detach().flatten(1).float()
            d = weight_of(layer).detach().flatten(1).float() - own
            rows.append(_row(name, DenseSite(d, method=type(opened.delta).__name__), own))
        more = {"matched": len(layers), **_effect(base, made, rng)}
    numbers = sum(t.numel() for t in opened.numbers.values())
    return Diagnosis(
        str(opened.path), "beeline", (repr(opened.delta),), f"{numbers:,} numbers in {len(opened.numbers)} tensors",
        tuple(sorted({str(t.dtype).removeprefix("torch.") for t in opened.numbers.values()})), tuple(rows), **more,
    )  # fmt: skip


def _base(paths: Mapping[str, Site]) -> str:
    """The family of networks that has such layers."""
    text = " ".join(paths)
    for words, family in BASES:
        if all(word in text for word in words):
            return family
    return "not known"


def _faults(found: Contents) -> list[str]:
    """What is wrong with the numbers of a file."""
    broken = [path for path, site in found.sites.items() if not all(bool(t.isfinite().all()) for t in _tensors(site))]
    problems = [f"{len(broken)} layers have numbers that are not finite: {', '.join(broken[:3])}"] * bool(broken)
    scales = {round(s.scale, 6) for s in found.sites.values() if isinstance(s, LowRankSite)}
    unsaid = any(isinstance(s, LowRankSite) and s.alpha is None for s in found.sites.values())
    problems += ["no alpha is stored: the scale is taken to be 1, and other tools may take another"] * unsaid
    if len(scales) > 1:
        problems.append(f"layers have different scales, from {min(scales):g} to {max(scales):g}")
    if found.others:
        problems.append(f"{len(found.others)} tensors are not of the flow, such as {found.others[0]}")
    return problems


def _tensors(site: Site) -> list[Tensor]:
    if isinstance(site, LowRankSite):
        return [site.factors.up, site.factors.down] + ([site.length] if isinstance(site, ScaledRows) else [])
    return [site.change(torch.empty(0))]


def _row(name: str, site: Site, w: Tensor | None) -> Row:
    """The sizes of the change of one layer; from its factors where it is of low rank."""
    alpha, scale = (site.alpha, site.scale) if isinstance(site, LowRankSite) else (None, 1.0)
    size = f"{site.shape[1]} x {site.shape[0]}"
    if not all(bool(t.isfinite().all()) for t in _tensors(site)):
        return Row(name, site.method, size, site.rank, alpha, scale, float("nan"), None, None, 0.0, "not finite")
    if isinstance(site, ScaledRows):
        sizes = torch.linalg.svdvals(site.change(w)) if w is not None else site.baked.singular_values()
    elif isinstance(site, LowRankSite):
        sizes = site.baked.singular_values()
    else:
        sizes = torch.linalg.svdvals(site.change(torch.empty(0)))
    norm, largest = float(torch.linalg.vector_norm(sizes)), float(sizes[0])
    relative = None if w is None else norm / max(float(torch.linalg.vector_norm(w)), 1e-30)
    spectral = None if w is None else largest / max(float(torch.linalg.matrix_norm(w, 2)), 1e-30)
    return Row(
        name, site.method, size, site.rank, alpha, scale, norm, relative, spectral,
        (norm / largest) ** 2 if largest else 0.0,
    )  # fmt: skip


@torch.no_grad()
def _effect(base: Bundle, changed: nn.Module, rng: Rng) -> dict[str, Any]:
    """|v' - v| / |v| on states of the base in bins of the time, and the change of samples."""
    shape = base.lineage.get("shape") if base.modality is None else base.modality.shape
    if shape is None:
        return {}
    like = torch.empty(STATES, *shape, device=base.device)
    x0 = base.flow.source.sample(like, rng.fork("noise"))
    other = replace(base, flow=replace(base.flow, field=changed.eval()))
    x1, made = base.draw(x0), other.draw(x0)
    effects = []
    for k in range(BINS):
        t = torch.full((STATES,), (k + 0.5) / BINS, device=x0.device)
        x = base.flow.path.point(x0, x1, t, rng.fork("path", k)).x
        v, w = base.flow.field(x, t, None), changed(x, t, None)
        effects.append(float((w - v).norm() / v.norm()))
    return {"effect": tuple(effects), "endpoint": float((made - x1).square().mean().sqrt())}


@dataclass(frozen=True)
class Conflict:
    """Two adapters in one layer."""

    layer: str
    cosine: float  # of the changes
    overlap: float | None  # of their input spaces, from 0 to 1
    random: float | None  # the overlap of random ones of these ranks


def conflicts(first: str | Path, second: str | Path) -> tuple[Conflict, ...]:
    """Cosines and overlaps of two files in the layers that both change.  ValueError where there is none."""
    a, b = (_sites(read(path)) for path in (first, second))
    b = match(b, {name: site.shape for name, site in a.items()}).sites
    require(
        bool(b),
        f"{first} and {second} change no layer of the same name and size; they do not conflict, or are for different "
        "bases: see 'beeline lora doctor' of each",
    )
    made = []
    for name in b:
        one, two = a[name], b[name]
        if isinstance(one, LowRankSite) and isinstance(two, LowRankSite):
            d, e = one.baked, two.baked
            cosine = float(d.inner(e) / (d.norm() * e.norm()).clamp(min=1e-30))
            made.append(Conflict(name, cosine, overlap(d, e), max(d.rank, e.rank) / d.shape[1]))
        else:
            f, g = (s.baked.dense() if isinstance(s, LowRankSite) else s.change(torch.empty(0)) for s in (one, two))
            made.append(Conflict(name, float((f * g).sum() / (f.norm() * g.norm()).clamp(min=1e-30)), None, None))
    return tuple(made)


def _sites(opened: Opened) -> Mapping[str, Site]:
    require(
        opened.contents is not None,
        f"{opened.path} holds numbers of a delta of Beeline, which can be compared on its base alone; export it as "
        "LoRA with 'beeline lora export' first",
    )
    assert opened.contents is not None
    return opened.contents.sites


@torch.no_grad()
def mended(sites: Mapping[str, Site], rank: int | None = None) -> tuple[dict[str, Factors], dict[str, float]]:
    """Changes with the scale in their factors, without dead layers and numbers that are not finite, of at most a rank.

    Beside them the relative error of every layer that a smaller rank changes.  Raises ValueError for changes that are
    not of low rank where no ``rank`` is given.
    """
    made: dict[str, Factors] = {}
    errors: dict[str, float] = {}
    for name, site in sites.items():
        require(
            isinstance(site, LowRankSite) and not isinstance(site, ScaledRows),
            f"{name!r} has a {site.method}, which is no LoRA without its base; put the file into its base and export "
            "it from there with 'beeline lora export'",
        )
        assert isinstance(site, LowRankSite)
        change = Factors(site.baked.up.nan_to_num(0, 0, 0), site.baked.down.nan_to_num(0, 0, 0))
        sizes = change.singular_values()
        if not float(sizes[0]):
            continue
        if rank is not None and rank < change.rank:
            errors[name] = float(sizes[rank:].norm() / sizes.norm())
            change = change.truncated(rank)
        made[name] = change
    return made, errors


def weight_shape(site: Site) -> torch.Size:
    """The shape of the weight of a layer, with the kernel of a convolution."""
    out, into = site.shape
    kernel = site.kernel if isinstance(site, LowRankSite) else ()
    return torch.Size((out, into // math.prod(kernel), *kernel))


def write_mended(path: str | Path, out: str | Path, dialect: Dialect, rank: int | None = None) -> dict[str, float]:
    """Write a mended file in a form of ``dialect``; the errors of smaller ranks by layer."""
    sites = _sites(read(path))
    changes, errors = mended(sites, rank)
    require(bool(changes), f"{path} changes nothing in any layer, so that nothing is left to write; give another file")
    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        tensors |= dialect.tensors(name, change, weight_shape(sites[name]))
    write_tensors(Path(out), tensors, {"format": "pt"})
    return errors
