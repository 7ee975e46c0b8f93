"""Several changes of one layer, of which every row takes its own shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Count, Whole, dataclass
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.amounts import GIVEN
from beeline.networks.adapters.delta import Change, Changed, Delta, LoRA, Part, changed_layers
from beeline.networks.adapters.inside import backbone_of, with_backbone


class Gate(Protocol):
    """How much of each of K changes of a layer the rows of its input take."""

    reads: ClassVar[bool]  # whether rows differ, by the input or the condition

    def start(self, into: int, count: int) -> dict[str, Tensor]:
        """The numbers of a gate of ``count`` changes of a layer of ``into`` inputs; "_" begins the fixed ones."""
        ...

    def shares(self, x: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        """The shares [...,H,K] of K changes in H blocks of the outputs, for rows [...,in]."""
        ...


@dataclass(frozen=True)
class Constant(Gate):
    """The same shares for all rows, which are not trained.

    g_k = 1/K, or what ``fixed`` put in its place

    >>> Constant().shares(torch.zeros(3, 4), Constant().start(4, 2))
    tensor([[0.5000, 0.5000]])
    """

    heads: Count = 1  # blocks of the outputs with shares of their own
    reads: ClassVar[bool] = False

    def start(self, into: int, count: int) -> dict[str, Tensor]:
        return {"_shares": torch.full((self.heads, count), 1 / count)}

    def shares(self, x: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return p["_shares"]


@dataclass(frozen=True)
class Token(Gate):
    """Shares by a router that reads every token, or every row, of the input of the layer.

    g = sigmoid(R x), R = 0 at first, so that g = 1/2;  with ``compete`` softmax(R x), 1/K at first
    For linear layers.  Shares of a sigmoid do not compete, so that no term of the loss has to balance them.
    Source: Cao et al. 2025, "MoA: Heterogeneous Mixture of Adapters for Parameter-Efficient Fine-Tuning of Large
    Language Models" (arXiv 2506.05928).

    >>> Token().shares(torch.ones(3, 4), Token().start(4, 2)).shape
    torch.Size([3, 1, 2])
    """

    compete: bool = False
    reads: ClassVar[bool] = True

    def start(self, into: int, count: int) -> dict[str, Tensor]:
        return {"router": torch.zeros(count, into)}

    def shares(self, x: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        require(
            x.shape[-1] == p["router"].shape[1],
            f"the gate Token reads {p['router'].shape[1]} inputs and got rows of {x.shape[-1]}, as of a convolution; "
            "choose linear layers by layers=, or use the gate Task",
        )
        logits = (x @ p["router"].mT)[..., None, :]
        return logits.softmax(-1) if self.compete else logits.sigmoid()


@dataclass(frozen=True)
class Task(Gate):
    """Shares of every task, which is a label of the condition, for ``heads`` blocks of the outputs.

    g_h = softmax(Z[task,h]), Z = 0 at first
    Labels from ``tasks`` on, such as the null, and no condition at all, take the mean over tasks.  Changes are
    mixed, not their factors: the mean of the factors of LoRAs is another change.
    Source: Caccia et al. 2022, "Multi-Head Adapter Routing for Cross-Task Generalization" (arXiv 2211.03831), with
    changes in place of factors.

    >>> Task(3).start(4, 2)["logits"].shape  # tasks, heads, changes
    torch.Size([3, 1, 2])
    """

    tasks: Count = 10
    heads: Count = 1
    condition: str = "label"
    reads: ClassVar[bool] = True

    def start(self, into: int, count: int) -> dict[str, Tensor]:
        return {"logits": torch.zeros(self.tasks, self.heads, count)}

    def shares(self, x: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        every = p["logits"].softmax(-1)
        table = torch.cat([every, every.mean(0, keepdim=True)])
        given = GIVEN.get()
        require(
            given is not None,
            "a layer with the gate Task was used outside of its Adapted network, where it sees no condition; evaluate "
            "the whole network, or fix its shares by fixed(network, task)",
        )
        assert given is not None
        cond: Any = given[0]
        require(
            not isinstance(cond, Mapping) or self.condition in cond,
            f"the gate Task reads the condition {self.condition!r}, and the network was given {sorted(cond or ())}; "
            "name one of these in condition=, or give no condition at all for the mean over tasks",
        )
        found: Any = cond[self.condition] if isinstance(cond, Mapping) else cond
        if found is None:
            return table[-1:].reshape(*[1] * (x.ndim - 1), self.heads, -1)
        require(
            found.ndim == 1 and not found.is_floating_point() and (len(x) == 1 or len(x) % len(found) == 0),
            f"the gate Task reads the condition {self.condition!r} of shape {tuple(found.shape)} and {found.dtype} for "
            f"an input of {len(x)} rows; give one label for every row",
        )
        label = torch.where((found >= 0) & (found < self.tasks), found, self.tasks)
        rows = table[label].repeat_interleave(max(1, len(x) // len(found)), 0)
        return rows.reshape(len(rows), *[1] * (x.ndim - 2), self.heads, -1)


@dataclass(frozen=True)
class Mixture(Delta):
    """Several changes of one layer, of which a gate gives every row its shares.

    y = W x + sum_k g_k (W_k - W) x,  W_k = delta_k(W)
    All K weights act on every row.  With a gate that reads nothing it is one change, and merged; with Task it is merged
    after ``fixed``, and with Token it stays as it is.  ``trained=False`` trains the gate alone, as ``mixture`` of
    trained changes does.
    Source: the gates name their own.

    >>> w, delta = torch.zeros(3, 4), Mixture((LoRA(1), LoRA(2)))
    >>> delta.weight(w, delta.start(w)).shape
    torch.Size([3, 4])
    """

    experts: tuple[Delta, ...] = (LoRA(), LoRA())
    gate: Gate = field(default_factory=Constant)
    trained: bool = True  # whether the experts are, beside the gate

    def __post_init__(self) -> None:
        require(
            len(self.experts) >= 1 and not any(expert.mixes for expert in self.experts),
            f"Mixture got experts={self.experts}; give one or more changes that are no mixtures",
        )

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.gate.reads

    @property
    def moves_bias(self) -> bool:  # type: ignore[override]
        return any(expert.moves_bias for expert in self.experts)

    def start(self, w: Tensor) -> dict[str, Tensor]:
        made = {}
        for k, expert in enumerate(self.experts):
            for name, value in expert.start(w).items():
                made[self.key(k, name)] = value
        gate = self.gate.start(w.shape[1], len(self.experts))
        return made | {f"{'_' if n.startswith('_') else ''}gate/{n}": v for n, v in gate.items()}

    def key(self, k: int, name: str) -> str:
        """The name of a number of expert ``k`` among those of the mixture."""
        return f"{'_' if name.startswith('_') or not self.trained else ''}{k}/{name}"

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        g = self._constant(p, len(w))
        every = [expert.weight(w, of(p, str(k))) for k, expert in enumerate(self.experts)]
        return w + sum(g[:, k, None] * (changed - w) for k, changed in enumerate(every))

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        g = self._constant(p, len(w))
        every = [expert.bias(b, w, of(p, str(k))) for k, expert in enumerate(self.experts)]
        return b + sum(g[:, k] * (changed - b) for k, changed in enumerate(every))

    def parts_for(self, x: Tensor, w: Tensor, b: Tensor | None, p: Mapping[str, Tensor]) -> Sequence[Part]:
        g = in_blocks(self.gate.shares(x, of(p, "gate")), len(w))
        made = []
        for k, expert in enumerate(self.experts):
            own = of(p, str(k))
            made.append(Part(g[..., k], expert.weight(w, own), None if b is None else expert.bias(b, w, own)))
        return made

    def _constant(self, p: Mapping[str, Tensor], out: int) -> Tensor:
        """The shares [out,K] of a gate that reads nothing."""
        require(
            not self.gate.reads,
            f"a mixture with the gate {self.gate!r} has no weight of its own, as the rows of an input take different "
            "shares; fix those of the gate Task first by members.mixture.fixed(network, task), and keep an adapter "
            "with another gate unmerged",
        )
        return in_blocks(self.gate.shares(next(iter(p.values())), of(p, "gate")), out).expand(out, -1)


def of(p: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """The numbers of an expert or a gate among those of a mixture, by its own names."""
    return {name.split("/", 1)[1]: v for name, v in p.items() if name.lstrip("_").split("/", 1)[0] == owner}


def in_blocks(shares: Tensor, out: int) -> Tensor:
    """Shares [...,H,K] of blocks of ``out`` outputs, as those of every output [...,out,K]; [...,1,K] for one block."""
    heads = shares.shape[-2]
    require(heads <= out, f"a gate has heads={heads} for a layer of {out} outputs; give as many at most")
    return shares if heads == 1 else shares[..., torch.arange(out, device=shares.device) * heads // out, :]


def mixture(networks: Sequence[nn.Module], gate: Gate | None = None) -> nn.Module:
    """The base of several adapted networks with a mixture of their deltas, whose gate (Constant) alone is trained.

    Source: "Audio-AdapterFusion: A Task-ID-free Approach for Efficient and Non-Destructive Multi-task Speech
    Recognition" (arXiv 2310.13015), with the gate Token(compete=True).
    Raises ValueError for networks of other bases, other changed layers, or another amount than 1.
    """
    require(bool(networks), "a mixture of no networks was asked for; give one or more adapted networks of one base")
    nets = [backbone_of(net) for net in networks]
    layers = [_changed(net) for net in nets]
    for k, (net, own) in enumerate(zip(nets, layers, strict=True)):
        require(
            isinstance(net, Adapted) and net.settings["amount"] == 1 and all(len(m.changes) == 1 for m in own.values()),
            f"network {k + 1} of {len(nets)} is no network with one delta of amount 1; give networks that 'beeline "
            "adapt' made, the gate says how much of each is used",
        )
        require(
            own.keys() == layers[0].keys() and all(torch.equal(m.own, layers[0][n].own) for n, m in own.items()),
            f"network {k + 1} of {len(nets)} has another base or other changed layers than the first; a mixture is of "
            "deltas of one base in the same layers: adapt one base with equal layers=",
        )
    deltas: tuple[Delta, ...] = tuple(next(iter(own.values())).changes[0].delta for own in layers)  # type: ignore[misc]
    delta, names = Mixture(deltas, gate or Constant(), trained=False), sorted(f".{name}" for name in layers[0])

    def change(net: nn.Module) -> nn.Module:
        assert isinstance(net, Adapted)
        made = Adapted(net.at(0.0).merged(), delta, names)
        for name, layer in _changed(made).items():
            _fill(layer.changes[0], delta, [_stored(own[name].changes[0]) for own in layers])
        return made

    return with_backbone(networks[0], change)


def fixed(network: nn.Module, task: Whole | None = None) -> nn.Module:
    """A copy of a network whose mixtures have the shares of one task, or of all, for every row; it can be merged.

    Its changes are trained on as before: from the mean over tasks as one change.
    Raises ValueError where there is no mixture with the gate Task, or no such task.
    """

    def fix(net: nn.Module) -> nn.Module:
        delta = _mixture_of(net)
        gate = delta.gate
        require(
            isinstance(gate, Task) and (task is None or task < gate.tasks),
            f"the shares of the task {task} were to be fixed in a network with {delta!r}; give one with "
            "Mixture(gate=Task(n)) and a task below n, or None for the mean over tasks",
        )
        assert isinstance(gate, Task)
        before = {name: _stored(change)["gate/logits"].detach() for name, change in _mixed(net).items()}
        made = _gated(net, replace(delta, gate=Constant(gate.heads)))
        for name, change in _mixed(made).items():
            every = before[name].softmax(-1)
            _stored(change)["_gate/_shares"].copy_(every.mean(0) if task is None else every[task])
        return made

    return with_backbone(network, fix)


def regated(network: nn.Module, gate: Gate) -> nn.Module:
    """A copy of a network whose mixtures have another gate, which alone is trained: for a new task.

    Raises ValueError where there is no mixture.
    """
    return with_backbone(network, lambda net: _gated(net, replace(_mixture_of(net), gate=gate, trained=False)))


def _mixture_of(net: nn.Module) -> Mixture:
    delta = net.settings["delta"] if isinstance(net, Adapted) else None
    require(
        isinstance(delta, Mixture),
        f"the gate of a mixture was to be changed in a network with the delta {delta!r}; give a network that was "
        "adapted with Mixture, or one that mixture() makes",
    )
    assert isinstance(delta, Mixture)
    return delta


def _gated(net: Any, delta: Mixture) -> nn.Module:
    """A network, changed in place, whose mixtures have the same experts and the gate of ``delta``."""
    for name, last in _mixed(net).items():
        layer = changed_layers(net)[name]
        made = Change(delta, layer.own, last.amount, last.layer)
        _fill(made, delta, [of(_stored(last), str(k)) for k in range(len(delta.experts))])
        layer.changes[-1] = made
    net.settings["delta"] = delta
    return net  # type: ignore[no-any-return]


def _mixed(net: nn.Module) -> dict[str, Change]:
    """The changes by mixtures, by the names of their layers."""
    every: Any = {name: layer.changes[-1] for name, layer in changed_layers(net).items()}
    return {name: change for name, change in every.items() if isinstance(change.delta, Mixture)}


def _fill(change: Any, delta: Mixture, experts: Sequence[Mapping[str, Tensor]]) -> None:
    """Copy the numbers of the experts, each by its own names, into the change of a layer by a mixture."""
    target = _stored(change)
    with torch.no_grad():
        for k, numbers in enumerate(experts):
            for name, value in numbers.items():
                target[delta.key(k, name)].copy_(value)


def _stored(change: Any) -> dict[str, Tensor]:
    """The numbers of a change of a layer as they are stored."""
    return {**dict(change.numbers), **dict(change.named_buffers(recurse=False))}


def _changed(net: nn.Module) -> dict[str, Changed]:
    """The changed layers by their names inside the adapters."""
    return {name.removeprefix("field."): layer for name, layer in changed_layers(net).items()}
