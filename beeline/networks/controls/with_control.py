"""A flow transformer with a control: a network around it, whose hint is a condition."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import nearest, require
from beeline.core.types import Cond, leaves
from beeline.networks.adapters.adapted import WithAmount
from beeline.networks.adapters.amounts import Amount
from beeline.networks.adapters.inside import Reparametrized, backbone_of, with_backbone
from beeline.networks.controls.branches import ControlBranch
from beeline.networks.controls.control import Control, Memory, strength_of
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import After, ControlOf, asked, controlling

CONTROL = "control"  # the condition that holds the hints


class WithControl(Wrapping):
    """A frozen flow transformer, and a control that is trained.

    v(x, t, cond) = the network with its tokens changed by strength * control(cond["control"])
    The hint is a picture [B,C,*sides] in [-1, 1] with the sides of the datum; several controls are networks inside one
    another, and cond["control"] holds their hints by name, of which some may be left out.  A hint of zeros is none, as
    is no condition at all.  Strengths are factors of what is added, so those of several controls add.  With strength 0
    the network is that inside, bit for bit; its weights keep their names.
    Source: Zhang, Rao and Agrawala 2023 (arXiv 2302.05543), ControlNet; each control names its own.

    >>> from beeline.networks.dit import DiT
    >>> net = WithControl(DiT((1, 8, 8), width=16, depth=2, heads=2))
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), {"control": torch.ones(2, 1, 8, 8)}).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        control: Control = ControlBranch(),
        channels: int = 1,  # of the hint
        name: str = "hint",  # of the control; those of several differ
        strength: float | Amount = 1.0,  # 0 is the network inside; Window(0.0, 0.5) is the half near noise
    ):
        super().__init__()
        self.settings: dict[str, Any] = {
            "control": control, "channels": channels, "name": name, "strength": strength,
        }  # fmt: skip
        net, inside = transformer_of(field), controls_of(field)
        require(
            bool(name) and "." not in name and name not in inside,
            f"a control was named {name!r} beside {sorted(inside)}; names are different and have no full stop: give "
            "another one, such as that of its hint",
        )
        require(
            isinstance(channels, int) and channels >= 1,
            f"WithControl got channels={channels!r}; it is the number of channels of the hint: 1 for grey, 3 for "
            "colours",
        )
        self.field = field.requires_grad_(False)
        self.names = (*inside, name)
        self.control = control.build(net, channels, name)
        weight = next(net.parameters())
        self.control.to(weight.device, weight.dtype)
        self.memory = Memory()

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        hint, rest = self.parted(cond, x)
        strength = None if hint is None else strength_of(self.settings["strength"], self.settings["name"], t)
        if hint is None or strength is None:
            return self.evaluated(x, t, rest, s)
        other = without_hints(rest)
        key = [hint, *(leaf for _, leaf in leaves(other))] if self.control.of_condition else [hint]

        def ask(change: ControlOf) -> None:
            one = torch.ones_like(t)
            with controlling(change):
                self.evaluated(torch.zeros_like(x), one, self.bare(other), None if s is None else one)

        read = self.memory.get(key, self, lambda: self.control.read(hint.to(x.dtype), ask))
        given = (hint != 0).flatten(1).any(1)[:, None, None]  # a picture of zeros is no hint
        gain, before = given.to(x.dtype) * strength.to(x.dtype), asked().control

        def change(stages: Any) -> tuple[Any, After]:
            stages, after = before(stages)
            stages, own = self.control.act(read, stages, gain)
            return stages, {**after, **{k: _both(after.get(k), act) for k, act in own.items()}}

        with controlling(change):
            return self.evaluated(x, t, rest, s)

    def evaluated(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None) -> Tensor:
        """The output of the network inside."""
        out: Tensor = self.field(x, t, cond) if s is None else self.field(x, t, cond, s)
        return out

    def parted(self, cond: Cond, x: Tensor) -> tuple[Tensor | None, Cond]:
        """The own hint, or None without one, and the condition of the network inside."""
        if cond is None:
            return None, None
        given, others = _hints(cond, self.names)
        for name in given:
            require(name in self.names, f"there is no control {name!r} in this network; {nearest(name, self.names)}")
        hint = given.pop(self.settings["name"], None)
        if hint is not None:
            self.check(hint, x)
        if len(self.names) > 1:
            others[CONTROL] = given
        return hint, others or None

    def check(self, hint: Any, x: Tensor) -> None:
        """Refuse a hint that does not fit the state."""
        wanted = (len(x), self.settings["channels"], *x.shape[2:])
        require(
            isinstance(hint, Tensor) and tuple(hint.shape) == wanted,
            f"the hint of the control {self.settings['name']!r} has the shape "
            f"{tuple(hint.shape) if isinstance(hint, Tensor) else type(hint).__name__}, and the data have {wanted}; a "
            "hint is a picture with the sides of the data: resize it, or make it from data of that size",
        )

    def bare(self, cond: Cond) -> Cond:
        """The condition of the network inside where none of its controls acts."""
        if len(self.names) == 1:
            return cond
        return {**(cond if isinstance(cond, Mapping) else {}), CONTROL: {}}

    def at(self, strength: float | Amount) -> WithControl:
        """A copy with another strength."""
        made = copy.deepcopy(self)
        made.settings["strength"] = strength
        return made


def _hints(cond: Cond, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hints of a condition by name, and the other conditions; ValueError where hints are missing altogether."""
    require(
        isinstance(cond, Mapping),
        f"cond is a {type(cond).__name__} for a network with the controls {', '.join(names)}; hints are part of it by "
        'name: give {"control": picture} beside the other conditions',
    )
    assert isinstance(cond, Mapping)
    others = {name: value for name, value in cond.items() if name.partition(".")[0] != CONTROL}
    found: dict[str, Any] = {
        name.partition(".")[2]: value for name, value in cond.items() if name not in others and name != CONTROL
    }
    require(
        len(others) < len(cond),
        f"the condition has no hint, only {sorted(cond)}, and this network has the controls {', '.join(names)}; give "
        'cond["control"], a picture or pictures by name; zeros, {} or cond=None are no hint',
    )
    own: Any = cond.get(CONTROL, {})
    if isinstance(own, Mapping):
        return {**found, **own}, others
    require(
        len(names) == 1,
        f"cond['control'] is one picture for the controls {', '.join(names)}; give several by name: "
        "{" + ", ".join(f"{name!r}: picture" for name in names) + "}",
    )
    return {names[0]: own}, others


def without_hints(cond: Cond) -> Cond:
    """A condition without the hints."""
    if not isinstance(cond, Mapping):
        return cond
    return {name: value for name, value in cond.items() if name.partition(".")[0] != CONTROL} or None


def _both(first: Any, second: Any) -> Any:
    return second if first is None else lambda h, n: second(first(h, n), n)


def transformer_of(field: nn.Module) -> FlowTransformer:
    """The flow transformer inside; ValueError where there is none."""
    net = field
    while isinstance(net, Reparametrized | WithControl):
        require(
            not (isinstance(net, WithAmount) and net.timed),
            "a control was given to a network with an adapter whose amount depends on the time, which evaluates rows "
            "apart; give the adapter to the controlled network instead",
        )
        net = net.field
    require(
        isinstance(net, FlowTransformer),
        f"a control was given to a {type(net).__name__}; it changes the tokens of a flow transformer: use a network "
        "such as DiT, UViT or MMDiT",
    )
    assert isinstance(net, FlowTransformer)
    return net


def controls_of(field: Any) -> dict[str, WithControl]:
    """The controls of a field by name, the inner ones first."""
    found = [m for m in field.modules() if isinstance(m, WithControl)] if isinstance(field, nn.Module) else []
    return {m.settings["name"]: m for m in reversed(found)}


def hint_channels(field: Any) -> dict[str, int]:
    """The channels of the hints of all controls of a field, by name."""
    return {name: net.settings["channels"] for name, net in controls_of(field).items()}


def controlled(
    field: Any, control: Control, channels: int = 1, name: str = "hint", strength: float | Amount = 1.0
) -> nn.Module:
    """A copy of a field with a control around its network; in a ``Network`` around the backbone.

    Raises ValueError for a network without tokens, and for a control that does not fit it.
    """
    return with_backbone(field, lambda net: WithControl(net, control, channels, name, strength))


def with_strengths(field: Any, strengths: Mapping[str, float | Amount] | Sequence[float | Amount]) -> nn.Module:
    """A copy of a field with other strengths of its controls: some by name, or one for each, the inner ones first."""
    made: nn.Module = copy.deepcopy(field)
    known = controls_of(made)
    if not isinstance(strengths, Mapping):
        require(
            len(strengths) == len(known),
            f"{len(strengths)} strengths were given for the controls {', '.join(known) or 'of a network without any'}; "
            "give one for each, or some by name",
        )
        strengths = dict(zip(known, strengths, strict=True))
    for name, strength in strengths.items():
        require(
            name in known,
            f"there is no control {name!r} in {type(backbone_of(field)).__name__}; {nearest(name, known)}",
        )
        known[name].settings["strength"] = strength
    return made
