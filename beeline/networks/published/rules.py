"""Where every tensor of a network comes from in another checkpoint, and the report of what was matched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beeline.core.errors import require


def same(tensor: Tensor) -> Tensor:
    return tensor


def joined(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


@dataclass(frozen=True)
class Rule:
    """A tensor of our network, and the tensors of the checkpoint from which it is computed."""

    into: str
    of: tuple[str, ...]
    by: Callable[..., Tensor] = same


@dataclass(frozen=True)
class Report:
    """The tensors of a conversion, by name; a conversion that leaves one out is refused."""

    matched: Mapping[str, tuple[str, ...]]  # tensor of our network -> those of the checkpoint
    copies: tuple[str, ...] = ()  # of the checkpoint: equal to others that were matched
    constants: tuple[str, ...] = ()  # of our network: from the settings of the checkpoint
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        used = len({name for of in self.matched.values() for name in of})
        return (
            f"{used} tensors of the checkpoint into {len(self.matched)} of the network, {len(self.copies)} copies, "
            f"{len(self.constants)} from settings, {len(self.unused)} unused, {len(self.missing)} missing"
        )


def layer(into: str, of: str, by: Callable[..., Tensor] = same) -> tuple[Rule, Rule]:
    """Weight and bias of a linear layer."""
    return Rule(f"{into}.weight", (f"{of}.weight",), by), Rule(f"{into}.bias", (f"{of}.bias",), by)


def layers(into: str, of: Sequence[str]) -> tuple[Rule, Rule]:
    """Weight and bias of a linear layer from several with the same input."""
    weights, biases = (tuple(f"{name}.{part}" for name in of) for part in ("weight", "bias"))
    return Rule(f"{into}.weight", weights, joined), Rule(f"{into}.bias", biases, joined)


def attention(into: str, of: str, names: Sequence[str], out: str | None, gains: Sequence[str] = ()) -> list[Rule]:
    """Queries, keys and values, the gains of their norms, and the output."""
    rules = [*layers(f"{into}.qkv", [f"{of}.{name}" for name in names])]
    if gains:
        rules.append(Rule(f"{into}.gain", tuple(f"{of}.{name}.weight" for name in gains), _gains))
    return rules if out is None else [*rules, *layer(f"{into}.out", f"{of}.{out}")]


def _gains(*gains: Tensor) -> Tensor:
    return torch.stack(gains)[:, None]


def feed(into: str, of: str) -> list[Rule]:
    """The two layers of a feed."""
    return [*layer(f"{into}.0", f"{of}.net.0.proj"), *layer(f"{into}.3", f"{of}.net.2")]


def swapped(tensor: Tensor) -> Tensor:
    """(scale, shift) as (shift, scale)."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def patches_in(weight: Tensor) -> Tensor:
    """The weight of a convolution [D,C,p,p] as that of a linear layer of patches."""
    return weight.flatten(1)


@dataclass(frozen=True)
class PatchesOut:
    """Rows (patch row, patch column, channel) of the last layer as (channel, patch row, patch column), times a sign.

    Channels after the first ``channels``, such as a variance, are left out.
    """

    channels: int
    patch: int
    sign: float

    def __call__(self, rows: Tensor) -> Tensor:
        cells = rows.unflatten(0, (self.patch, self.patch, -1)).movedim(2, 0)[: self.channels]
        return self.sign * cells.flatten(0, 2)


@dataclass(frozen=True)
class Signed:
    """The tensor times a sign."""

    sign: float

    def __call__(self, tensor: Tensor) -> Tensor:
        return self.sign * tensor


def filled(
    net: nn.Module,
    rules: Iterable[Rule],
    tensors: Mapping[str, Tensor],
    source: str,
    constants: Mapping[str, Tensor] | None = None,
    copies: Sequence[str] = (),
) -> Report:
    """Fill a network that may be on the meta device; BeelineError names tensors that are missing, unused or unfit."""
    constants, rules = constants or {}, list(rules)
    own = net.state_dict()
    missing = sorted({name for rule in rules for name in rule.of if name not in tensors})
    used = {name for rule in rules for name in rule.of}
    unused = sorted(set(tensors) - used - set(copies))
    known = len(used) - len(missing)
    require(
        not missing and not unused,
        f"{source} has {known} of the {len(used)} tensors that the network needs"
        + (f", not {listed(missing)}" if missing else "")
        + (f"; {len(unused)} of its own have no place: {listed(unused)}" if unused else "")
        + "; a conversion takes all of both: give the whole checkpoint of the transformer, with the configuration that "
        "belongs to it",
    )
    made = {rule.into: rule.by(*(tensors[name] for name in rule.of)) for rule in rules} | dict(constants)
    report = Report({rule.into: rule.of for rule in rules}, tuple(copies), tuple(constants))
    wrong = [
        f"{name} {list(made[name].shape)} for {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in made and made[name].shape != tensor.shape
    ]
    require(
        not wrong,
        f"{source} has tensors of other sizes than its configuration says: {listed(wrong)}; weights and config.json "
        "have to be of one network: give both as they were saved",
    )
    left = sorted(set(own) ^ set(made))
    require(
        not left,
        f"the conversion of {source} leaves out {listed(left)} of the network; every tensor needs a rule: this is a "
        "fault of beeline.networks.published",
    )
    net.load_state_dict({name: made[name].to(t.dtype).contiguous() for name, t in own.items()}, assign=True)
    return report


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
