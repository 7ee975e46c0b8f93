"""LoRA from two networks, and starts that look at data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LAYERS, LoRA, changed_layers, weight_of
from beeline.networks.adapters.factors import factored, floor, rank_for
from beeline.networks.adapters.members.low_rank import Principal
from beeline.networks.adapters.members.sparse import Sparse, WalshHadamard, walsh, walsh_size


@dataclass(frozen=True)
class Extracted:
    """The change between two networks as a LoRA, with what it leaves out."""

    network: Adapted
    errors: Mapping[str, float]  # |D - D_rank| / |D| by layer: no LoRA of the rank is nearer
    left: tuple[str, ...]  # tensors that differ and are no weight of a layer
    limited: Mapping[str, int]  # ranks of the layers that are too small for the largest one


def extract(tuned: nn.Module, base: nn.Module, rank: int | None = None, energy: float | None = None) -> Extracted:
    """The base with a LoRA in the layers that differ: the nearest of a rank, or of the rank with a share of energy.

    Layers that allow a smaller rank alone have that, in LoRAs of their own.  Without both,
    the rank is that of the change above the rounding of its weights.
    Source: Fleshman and Van Durme 2024, "RE-Adapt" (arXiv 2405.15007).
    Raises ValueError for networks of different layers, and for equal ones.
    """
    sizes = [{name: weight_of(m).shape for name, m in _layers(net).items()} for net in (tuned, base)]
    require(
        sizes[0] == sizes[1],
        "a change was to be extracted from two networks of different layers: "
        f"{[n for n in {**sizes[0], **sizes[1]} if sizes[0].get(n) != sizes[1].get(n)][:3]} differ; give a network and "
        "the base that it was trained from",
    )
    changes: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}  # without the rounding of the weights
    for name, layer in _layers(tuned).items():
        d = weight_of(layer).detach().double() - weight_of(_layers(base)[name]).detach().double()
        if bool(d.any()):
            changes[name] = d.flatten(1)
            w = weight_of(layer).detach().flatten(1)
            noise = torch.finfo(w.dtype).eps * max(w.shape) * float(torch.linalg.matrix_norm(w.float(), 2))
            ranks[name] = max(1, int((torch.linalg.svdvals(changes[name]) > noise).sum()))
    require(bool(changes), "the two networks have equal layers, so that there is no change to extract; give others")
    near = {
        name: factored(d, min(rank, *d.shape) if rank else rank_for(d, energy) if energy else ranks[name])
        for name, d in changes.items()
    }
    made = copy.deepcopy(base)
    most = max(f.rank for f in near.values())
    caps = {name: min(most, *d.shape) for name, d in changes.items()}  # one LoRA for layers of one rank
    kinds = sorted(set(caps.values()), reverse=True)
    for depth, cap in enumerate(kinds):
        made = Adapted(made, LoRA(cap), [f".{'field.' * depth}{n}" for n in sorted(caps) if caps[n] == cap])
    assert isinstance(made, Adapted)
    with torch.no_grad():
        for name, found in near.items():
            numbers = _numbers(made.get_submodule("field." * len(kinds) + name))
            numbers["up"].zero_()[:, : found.rank] = found.up.float()
            numbers["down"].zero_()[: found.rank] = found.down.float()
    states, weights = (tuned.state_dict(), base.state_dict()), {f"{name}.weight" for name in changes}
    left = [n for n, v in states[1].items() if n not in weights and not torch.equal(states[0][n], v)]
    limited = {n: f.rank for n, f in near.items() if f.rank == min(f.shape) and f.rank < most}
    return Extracted(made, {n: floor(d, near[n].rank) for n, d in changes.items()}, tuple(left), limited)


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """All layers by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LAYERS)}


def _numbers(layer: Any) -> Any:
    return layer.changes[-1].numbers


def oriented(network: Adapted, moments: Mapping[str, Tensor], damping: float = 0.01) -> Adapted:
    """A copy of a network with ``Principal`` deltas that start at the main directions of data (CorDA).

    SVD of W C, C = E[x x^T] + damping mean(diag C) I;  B0 A0 = the chosen components U S V^T C^-1
    ``moments`` [in,in] of the inputs of every layer by name, as ``Probe.moments`` of compression gives.  The largest
    components carry what the data use (to learn), the smallest what they do not (to keep).
    Source: Yang et al. 2024, "CorDA" (arXiv 2406.05223).
    Raises ValueError for other deltas and layers without moments.
    """
    delta = network.settings["delta"]
    require(
        isinstance(delta, Principal),
        f"a start by data is for Principal(rank), and the network has {delta!r}; adapt it with Principal(rank)",
    )
    made = copy.deepcopy(network)
    with torch.no_grad():
        for full, layer in changed_layers(made).items():
            name = full.removeprefix("field.")
            require(name in moments, f"there are no moments of the inputs of the layer {name!r}; measure them on data")
            c = moments[name].double()
            c = c + damping * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype)
            w = layer.own.flatten(1).double()
            u, sizes, v = torch.linalg.svd(w @ c, full_matrices=False)
            chosen = slice(0, delta.rank) if delta.largest else slice(len(sizes) - delta.rank, None)
            near = factored(u[:, chosen] @ (sizes[chosen, None] * torch.linalg.solve(c, v[chosen].mT).mT), delta.rank)
            change: Any = layer.changes[-1]
            for end, value in (("up", near.up), ("down", near.down)):
                change.numbers[end].copy_(value)
                change.get_buffer(f"_{end}").copy_(value)
    return made


def cancelling(network: Adapted, original: nn.Module, moments: Mapping[str, Tensor], damping: float = 1e-6) -> Adapted:
    """A copy of a network with few bits and ``WalshHadamard`` deltas, which start where they undo its rounding.

    E = W - W_rounded; places of a row: the largest |E T^T|;  coefficients: argmin_f (E - f T_S) C (E - f T_S)^T,
    C = E[x x^T] + damping mean(diag) I
    ``original`` is the network before its weights were rounded, and ``moments`` [in,in] are those of the inputs of
    every layer by its name there.  Training begins nearer to the original than the base is.
    Source: Jeon et al. 2025, "QWHA" (arXiv 2509.17428).
    Raises ValueError for other deltas, and for layers that the original has not or that have no moments.
    """
    delta = network.settings["delta"]
    require(
        isinstance(delta, WalshHadamard),
        f"a start that undoes rounding is for WalshHadamard(count), and the network has {delta!r}; adapt it with "
        "WalshHadamard(count)",
    )
    made, before = copy.deepcopy(network), _layers(original)
    with torch.no_grad():
        for full, layer in changed_layers(made).items():
            ends = [full.split(".", k)[-1] for k in range(full.count(".") + 1)]  # the network is inside of others
            name = next((end for end in ends if end in before), "")
            require(bool(name), f"the original has no layer {full!r}; give the network whose weights were rounded")
            require(name in moments, f"there are no moments of the inputs of the layer {name!r}; measure them on data")
            error = (weight_of(before[name]) - layer.own).flatten(1).double()
            c = moments[name].to(error)
            c = c + damping * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device)
            wide = (0, walsh_size(len(c)) - len(c))
            change: Any = layer.changes[-1]
            places = walsh(F.pad(error, wide)).abs().topk(change.numbers["coefficients"].shape[1]).indices.sort().values
            products = walsh(F.pad(error @ c, wide)).gather(1, places)
            left = walsh(F.pad(walsh(F.pad(c, wide)).mT, wide))  # T C T^T
            chosen = left[places[:, :, None], places[:, None]]
            change.numbers["coefficients"].copy_(torch.linalg.solve(chosen, products))
            change.get_buffer("_places").copy_(places)
    return made


def placed(network: nn.Module, loss: Callable[[int], Tensor], batches: int = 8) -> nn.Module:
    """A network with ``Sparse`` deltas, changed in place, at the entries or columns that matter most to a loss.

    score = mean over batches of |g * w| of an entry, or of |sum g * w| of a column: the first term of the change of the
    loss without it;  in every layer those with the largest scores
    ``loss(i)`` is that of batch i of this network.
    Source: Zhao et al. 2023, "Revisit Parameter-Efficient Transfer Learning: A Two-Stage Paradigm" (arXiv 2303.07910).
    Raises ValueError where no layer has such a delta as its last.
    """
    every: Mapping[str, Any] = changed_layers(network)
    layers = {name: layer for name, layer in every.items() if isinstance(layer.changes[-1].delta, Sparse)}
    require(
        bool(layers),
        f"places were to be chosen for the delta Sparse, and the {len(every)} changed layers have others; "
        "adapt the network with Sparse(share)",
    )
    deltas = [layer.changes[-1].delta for layer in layers.values()]
    weights = [layer._parameters["weight"] for layer in layers.values()]
    scores: list[Any] = [0.0] * len(weights)
    for w in weights:
        w.requires_grad_(True)
    for i in range(batches):
        for k, (w, g) in enumerate(zip(weights, torch.autograd.grad(loss(i), weights), strict=True)):
            product = (g * w.detach()).flatten(1)
            scores[k] = scores[k] + (product.sum(0) if deltas[k].columns else product.flatten()).abs().double()
    for w, score, layer in zip(weights, scores, layers.values(), strict=True):
        w.requires_grad_(False)
        places = layer.changes[-1].get_buffer("_places")
        places.copy_(score.topk(len(places)).indices.sort().values)
    return network
