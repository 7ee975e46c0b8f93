"""Parameter groups: matrices, to which weight decay and Muon apply, and gains, biases and embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_MATRICES = (nn.Linear, nn.Bilinear, _ConvNd)
_GAINS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase, nn.Embedding, nn.EmbeddingBag)


def matrices(networks: Mapping[str, nn.Module]) -> dict[int, str]:
    """Names of the parameters that are matrices (linear maps and convolution kernels), by ``id(parameter)``.

    A matrix is the weight of a linear, bilinear or convolutional layer, or a parameter of another module whose name
    contains "weight" and which has two dimensions larger than 1.  Parameters of norms and embeddings, biases, and
    parameters with other names (positions, tokens, gains, scales) are not matrices.
    """
    found: dict[int, str] = {}
    for network_name, network in networks.items():
        for module_name, module in network.named_modules():
            for name, p in module.named_parameters(recurse=False):
                if _is_matrix(module, module_name, name, p):
                    found[id(p)] = ".".join(part for part in (network_name, module_name, name) if part)
    return found


def _is_matrix(module: nn.Module, module_name: str, name: str, p: nn.Parameter) -> bool:
    if isinstance(module, _GAINS) or p.ndim < 2:
        return False
    if isinstance(module, _MATRICES):
        return p is module._parameters.get("weight")  # a changed layer computes ``weight``
    wide = sum(size > 1 for size in p.shape) >= 2
    return wide and ("weight" in name or module_name.endswith("parametrizations.weight"))


def describe_groups(networks: Mapping[str, nn.Module]) -> str:
    """One line of text that lists both groups of trainable parameters; layer numbers are written as ``*``."""
    chosen = matrices(networks)
    names = {id(p): f"{n}.{k}" for n, net in networks.items() for k, p in net.named_parameters() if p.requires_grad}
    yes = [name for key, name in names.items() if key in chosen]
    no = [name for key, name in names.items() if key not in chosen]
    return (
        f"weight decay and orthogonalised updates apply to {len(yes)} matrices ({_short(yes)}), not to {len(no)} "
        f"gains, biases, embeddings and others ({_short(no)})"
    )


def _short(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)) or "none"


def split(
    parameters: Sequence[nn.Parameter], matrices: Collection[int] | None
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices, other parameters); without ``matrices`` every parameter with two or more dimensions is a matrix."""
    chosen = [p for p in parameters if (p.ndim >= 2 if matrices is None else id(p) in matrices)]
    known = {id(p) for p in chosen}
    return chosen, [p for p in parameters if id(p) not in known]
