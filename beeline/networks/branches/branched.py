"""A frozen network with a branch."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from beeline.core.errors import BeelineError, require
from beeline.networks.adapters.adapted import WithAmount
from beeline.networks.adapters.amounts import Amount
from beeline.networks.adapters.inside import Reparametrized, with_backbone
from beeline.networks.adapters.recast import recast, replaced
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.branch import Beside, Branch, BranchModule, Site
from beeline.networks.controls.with_control import WithControl
from beeline.networks.mlp import MLP
from beeline.networks.transformer.backbone import FlowTransformer


class Branched(WithAmount):
    """A network with modules beside its blocks, their parts or its first layer, which alone are trained.

    y <- y + amount (branch(x, y) - y) for every layer with input x and output y where the branch stands
    With ``amount`` 0 the network is that inside, bit for bit; its weights keep their names.  Several branches are
    networks inside one another.  An amount that depends on the time is evaluated once for every different time.
    A branch is no change of weights, so it cannot be merged: its cost in every evaluation stays.
    Source: Houlsby et al. 2019 (arXiv 1902.00751); each branch names its own.

    >>> import torch
    >>> Branched(MLP(2, width=8), Bottleneck(2))(torch.ones(1, 2), torch.zeros(1)).shape
    torch.Size([1, 2])
    """

    def __init__(self, field: nn.Module, branch: Branch = Bottleneck(), amount: float | Amount = 1.0):
        super().__init__()
        self.settings: dict[str, Any] = {"branch": branch, "amount": amount}
        self.field = field.requires_grad_(False)
        net = network_of(field, branch)
        self.own = [
            (name, part, _put(net, name, part, _made(net, branch, name), amount))
            for place in branch.places
            for name, part in place.find(net, branch).items()
        ]  # layers, their parts, and the numbers of the modules there

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}

    @property
    def modules_beside(self) -> list[BranchModule]:
        """The modules of the branch."""
        net: Any = network_of(self.field, self.settings["branch"])
        return [net.get_submodule(name).branches[part][i] for name, part, i in self.own]

    def merged(self) -> nn.Module:
        """Raises ValueError: there are no weights that do the same."""
        raise BeelineError(
            f"the branch {type(self.settings['branch']).__name__} was to be merged, and it is a module beside layers "
            "that is not linear, which no weight of them can express; keep the network with the branch, or adapt the "
            "flow by a delta such as LoRA, which is merged"
        )

    def at(self, amount: float | Amount) -> Branched:
        """A copy with another amount."""
        made = copy.deepcopy(self)
        made.settings["amount"] = amount
        for module in made.modules_beside:
            module.amount = amount
        return made


def _made(net: nn.Module, branch: Branch, name: str) -> BranchModule:
    """The module of a branch beside a layer, in float32 on its device."""
    layer = net.get_submodule(name)
    width: int = net.settings["width"]  # type: ignore[index,assignment]
    made = branch.build(Site(net, layer, width))
    return made.to(next(layer.parameters()).device)


def _put(net: nn.Module, name: str, part: str, module: BranchModule, amount: float | Amount) -> int:
    """Put a module beside a part of a layer after those that stand there; its number."""
    layer: Any = net.get_submodule(name)
    if not isinstance(layer, Beside):
        layer = recast(layer, Beside)
        layer.add_module("branches", nn.ModuleDict())
        replaced(net, name, layer)
    if part not in layer.branches:
        layer.branches[part] = nn.ModuleList()
    module.amount, module.place = amount, name
    layer.branches[part].append(module)
    return len(layer.branches[part]) - 1


def network_of(field: nn.Module, branch: Branch) -> nn.Module:
    """The network inside of wrappers; ValueError for one whose width is not known."""
    net = field
    while isinstance(net, Reparametrized | WithControl):
        net = net.field
    require(
        isinstance(net, FlowTransformer | MLP),
        f"{type(branch).__name__} was given to a {type(net).__name__}; a branch stands in networks whose blocks have "
        "one width: use MLP, DiT, UViT or MMDiT, or a delta such as LoRA",
    )
    return net


def branched(field: Any, branch: Branch, amount: float | Amount = 1.0) -> nn.Module:
    """A copy of a field with a branch in its network; in a ``Network`` it is the backbone.

    Raises ValueError for a network without the places of the branch.
    """
    return with_backbone(field, lambda net: Branched(net, branch, amount))
