"""Files of adapters: written in the form of a tool, and put into a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.files import read_json, read_with_header, settings_in, write_json, write_tensors
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.amounts import amount_of
from beeline.networks.adapters.delta import Changed, Delta, LoRA, changed_layers, layers_of, weight_of
from beeline.networks.adapters.factors import Factors, factored
from beeline.networks.adapters.inside import backbone_of, with_backbone
from beeline.networks.adapters.members.low_rank import Difference, DoRA
from beeline.runs.adapters.dialects import Contents, Dialect, contents
from beeline.runs.adapters.names import Match, match, sizes_of
from beeline.runs.adapters.sites import LowRankSite, ScaledRows

DELTA = "beeline_delta"  # in the header of files that hold the numbers of any delta
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # in a folder of peft


def export(network: nn.Module, path: str | Path, dialect: Dialect | None = None, rank: int | None = None) -> Path:
    """Write the change of an adapted network as a safetensors file; as a folder of peft where ``path`` has no suffix.

    With a dialect the change is written as a LoRA whose scale is 1 (and DoRA as DoRA): exact for deltas of low rank,
    and for others with the rank of the change, or the nearest of ``rank``.  Without one, the numbers of the delta are
    written as they are, for Beeline alone.
    Raises ValueError for a network that is not adapted, and for an amount that depends on the time.
    """
    path, net = Path(path), backbone_of(network)
    require(
        isinstance(net, Adapted),
        f"{type(net).__name__} was to be exported as an adapter, and has no changed weights; give a network that "
        "'beeline adapt' made, or extract a change from two networks",
    )
    assert isinstance(net, Adapted)
    if dialect is None:
        return _own(net, path)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for full, layer in changed_layers(net).items():
        name = plain_name(full, net)
        change, length = change_of(layer, rank)
        ranks[name] = change.rank
        tensors |= dialect.tensors(name, change, layer.own.shape, length)
    settings = _settings(ranks, any(key.endswith(dialect.length) for key in tensors))
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in settings.items()})}
    if path.suffix:
        write_tensors(path, tensors, header)
        return path
    write_tensors(path / FILE, tensors, header)
    write_json(path / CONFIG, settings)
    return path


def change_of(layer: Changed, rank: int | None = None) -> tuple[Factors, Tensor | None]:
    """The change of a layer as factors with the scale in them, and the lengths of rows of a DoRA."""
    own, last = layer.own.detach().flatten(1), layer.changes
    delta, amount = last[0].delta, amount_of(last[0].amount, last[0].layer)  # type: ignore[union-attr,arg-type]
    numbers: dict[str, Tensor] = {k: v.detach().float() for k, v in last[0].numbers.items()}  # type: ignore[union-attr,operator,misc]
    if len(last) == 1 and isinstance(delta, LoRA | DoRA) and (amount == 1 or isinstance(delta, LoRA)):
        made = Factors(numbers["up"], numbers["down"]).scaled(delta.scale * amount)
        made = made if rank is None or rank >= made.rank else made.truncated(rank)
        return made, numbers["length"] if isinstance(delta, DoRA) else None
    d = weight_of(layer).detach().flatten(1).double() - own.double()
    made = factored(d, rank) if rank or bool(d.any()) else Factors(d[:, :1], d[:1])
    return Factors(made.up.float(), made.down.float()), None


def plain_name(name: str, net: nn.Module) -> str:
    """The name of a layer in the network inside the adapters."""
    while isinstance(net, Adapted):
        name, net = name.removeprefix("field."), net.field
    return name


def _settings(ranks: Mapping[str, int], length: bool) -> dict[str, Any]:
    """The configuration of peft for layers with these ranks and the scale 1."""
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_dora": length,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _own(net: Adapted, path: Path) -> Path:
    said = {"delta": config.describe(net.settings["delta"]), "layers": net.settings["layers"]}
    tensors = {key.replace(".changes.", ".change."): value for key, value in _numbers(net).items()}
    target = path if path.suffix else path / "adapter.safetensors"
    write_tensors(target, tensors, {DELTA: json.dumps(said)})
    return target


def _numbers(net: Adapted) -> dict[str, Tensor]:
    """The numbers of the outermost delta of a network, by names as where it is the only one."""
    found: dict[str, Tensor] = {}
    for name, layer in layers_of(net.field, net.settings["layers"]).items():
        last: nn.Module = layer.changes[-1]  # type: ignore[union-attr,assignment,index]
        plain = plain_name(f"field.{name}", net)
        found |= {f"field.{plain}.changes.0.{key}": value for key, value in last.state_dict().items()}
    return found


@dataclass(frozen=True)
class Opened:
    """A file of an adapter: its changes, or the delta of Beeline that it holds with its numbers."""

    path: Path
    contents: Contents | None
    delta: Delta | None = None
    layers: tuple[str, ...] = ()
    numbers: Mapping[str, Tensor] | None = None


def read(path: str | Path) -> Opened:
    """Read a file of an adapter, or a folder of peft.  ValueError where it is missing, damaged or no adapter."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        found = [p for p in (path / FILE, path / "adapter.safetensors") if p.is_file()] or sorted(
            path.glob("*.safetensors")
        )
        require(
            bool(found), f"{path} holds no file of an adapter; give a .safetensors file, or a folder with {FILE} in it"
        )
        path = found[0]
    require(
        path.suffix == ".safetensors",
        f"{path} is no .safetensors file; other forms can run code while they are read: convert it with the tool that "
        "wrote it",
    )
    require(path.is_file(), f"there is no file {path}; check the path")
    header, tensors = read_with_header(path)
    if DELTA in header:
        said = settings_in(header, DELTA, path)
        numbers = {key.replace(".change.", ".changes."): value for key, value in tensors.items()}
        delta = config.build(said["delta"])
        return Opened(path, None, delta, tuple(said["layers"]), numbers)
    beside = folder / CONFIG
    settings = read_json(beside) if beside.is_file() and path.name == FILE else None
    return Opened(path, contents(tensors, header, settings))


def load(network: Any, path: str | Path, amount: float = 1.0) -> tuple[nn.Module, Match]:
    """A copy of a network with the adapter of a file, and which layers were found.

    A LoRA or DoRA stays one, with the largest rank of the file and its scale in the factors; LoHa, LoKr and mixed
    files become differences.  Raises ValueError where no layer is found, or one has another size.
    """
    opened = read(path)
    if opened.delta is not None:
        return _loaded_own(network, opened, amount)
    assert opened.contents is not None
    found = match(opened.contents.sites, sizes_of(backbone_of(network)))
    require(
        bool(found.sites) or bool(found.clashes),
        f"no layer of {opened.path} is one of {type(backbone_of(network)).__name__}: the file has "
        f"{list(found.unknown)[:3]}, the network {list(sizes_of(backbone_of(network)))[:3]}; it is for another base: "
        "see 'beeline lora doctor FILE'",
    )
    require(
        not found.clashes,
        f"{opened.path} is for a base of other sizes: "
        + "; ".join(
            f"{n} is {a[1]} x {a[0]} there and {b[1]} x {b[0]} here" for n, (a, b) in list(found.clashes.items())[:3]
        )
        + "; give the base that it was trained for",
    )
    made = with_backbone(network, lambda net: _with_sites(net, found, amount))
    return made, found


def _with_sites(net: nn.Module, found: Match, amount: float) -> nn.Module:
    """A network with the changes of layers as one delta."""
    sites = found.sites
    rows = all(isinstance(s, ScaledRows) and s.by_rows for s in sites.values())
    plain = all(isinstance(s, LowRankSite) and not isinstance(s, ScaledRows) for s in sites.values())
    delta: Delta = Difference()
    ranks = [s.rank or 1 for s in sites.values()]
    fits = max(ranks) <= min(min(s.shape) for s in sites.values())
    if (plain or rows) and fits:
        delta = DoRA(max(ranks)) if rows else LoRA(max(ranks))
    made = Adapted(net, delta, sorted(sites), amount)
    layers = {name.removeprefix("field."): layer for name, layer in changed_layers(made).items()}
    with torch.no_grad():
        for name, site in sites.items():
            numbers: Any = layers[name].changes[-1].numbers
            if isinstance(delta, Difference):
                w = layers[name].own.flatten(1)
                numbers["difference"].copy_(site.change(w.float()))
                continue
            assert isinstance(site, LowRankSite)
            for p in (numbers["up"], numbers["down"]):
                p.zero_()
            numbers["up"][:, : site.rank] = site.baked.up
            numbers["down"][: site.rank] = site.baked.down
            if isinstance(site, ScaledRows):
                numbers["length"].copy_(site.length[:, 0])
    return made


def _loaded_own(network: Any, opened: Opened, amount: float) -> tuple[nn.Module, Match]:
    """A network with the delta of Beeline that a file holds."""
    assert opened.delta is not None and opened.numbers is not None
    delta, numbers = opened.delta, opened.numbers
    made = with_backbone(network, lambda net: Adapted(net, delta, opened.layers, amount))
    inner: Any = backbone_of(made)
    wanted = _numbers(inner)
    other = [k for k, v in numbers.items() if k not in wanted or wanted[k].shape != v.shape]
    require(
        not other and len(numbers) == len(wanted),
        f"{opened.path} is for another base: it has {len(numbers)} tensors, the network takes {len(wanted)}; "
        f"{other[:3]} are unknown or of another size; give the base that it was trained for",
    )
    for name, value in numbers.items():
        wanted[name].copy_(value)
    return made, Match({}, (), {})
