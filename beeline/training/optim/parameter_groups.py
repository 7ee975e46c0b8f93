"""Kinds of parameters: matrices, which weight decay and Muon act on, and gains, biases and embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_MATRICES = (nn.Linear, nn.Bilinear, _ConvNd)
_GAINS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase, nn.Embedding, nn.EmbeddingBag)


def matrices(networks: Mapping[str, nn.Module]) -> dict[int, str]:
    """The names of the parameters that are matrices (linear maps and kernels), by identity.

    A matrix is the weight of a linear, bilinear or convolutional layer, or a parameter of another module whose name
    holds "weight" and which is longer than 1 along two dimensions.  Parameters of norms, embeddings, biases and
    parameters with other names (positions, tokens, gains, scales) are none.
    """
    found: dict[int, str] = {}
    for name, network in networks.items():
        for place, module in network.named_modules():
            for own, p in module.named_parameters(recurse=False):
                if _matrix(module, place, own, p):
                    found[id(p)] = ".".join(part for part in (name, place, own) if part)
    return found


def _matrix(module: nn.Module, place: str, name: str, p: nn.Parameter) -> bool:
    if isinstance(module, _GAINS) or p.ndim < 2:
        return False
    if isinstance(module, _MATRICES):
        return p is module.weight
    wide = sum(size > 1 for size in p.shape) >= 2
    return wide and ("weight" in name or place.endswith("parametrizations.weight"))


def listed(networks: Mapping[str, nn.Module]) -> str:
    """Both kinds of the parameters that learn, in words; numbers of layers are written as ``*``."""
    chosen = matrices(networks)
    names = {id(p): f"{n}.{k}" for n, net in networks.items() for k, p in net.named_parameters() if p.requires_grad}
    yes = [name for key, name in names.items() if key in chosen]
    no = [name for key, name in names.items() if key not in chosen]
    return (
        f"weight decay and orthogonal updates act on {len(yes)} matrices ({_short(yes)}), not on {len(no)} gains, "
        f"biases, embeddings and others ({_short(no)})"
    )


def _short(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)) or "none"


def split(
    parameters: Sequence[nn.Parameter], matrices: Collection[int] | None
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are matrices, and the others."""
    wide = [p for p in parameters if (p.ndim >= 2 if matrices is None else id(p) in matrices)]
    chosen = {id(p) for p in wide}
    return wide, [p for p in parameters if id(p) not in chosen]
