"""Networks on devices, each for a model or for several that differ from it by low rank."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.data.described.descriptions import shape_of
from beeline.runs.bundle import Bundle
from beeline.serving.hosting.deltas import Amounts, Deltas, low_rank
from beeline.serving.hosting.evaluations import Evaluations, Shared, equal_sizes

FEW = 4  # rows by which the time of an evaluation is measured
NEAR = 1e-4  # of the largest number: the difference between changed weights and changes of outputs


@dataclass(eq=False)
class Replica:
    """A network on one device, and the bundles that it evaluates for by the names of their models."""

    bundles: Mapping[str, Bundle]
    network: nn.Module
    evaluations: Evaluations
    runs: int = 0  # that use it
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _copies: dict[str, Bundle] = field(default_factory=dict)

    def shared(self, model: str, amounts: Sequence[float] = ()) -> Bundle:
        """The bundle of a model, whose evaluations are shared and take these amounts of low-rank changes."""
        bundle = self.bundles[model]
        shared = Shared(self.network, self.evaluations, amounts).eval()
        return replace(bundle, flow=replace(bundle.flow, field=shared))

    @contextlib.contextmanager
    def alone(self, model: str) -> Iterator[Bundle]:
        """A copy of the bundle of a model for one user at a time: edits change its network for the time of a run."""
        with self._lock:
            if model not in self._copies:
                self._copies[model] = copy.deepcopy(self.bundles[model])
            yield self._copies[model]


class Host:
    """A network on one or more devices, which is loaded when it is used.

    ``names`` are those of its models: the first is that of the network, and the networks of others are that one with
    changes of low rank.  ``bundles`` gives a bundle for a name every time it is loaded.
    """

    def __init__(
        self, names: Sequence[str], bundles: Mapping[str, Bundle], most: int, devices: Sequence[str | torch.device] = ()
    ):
        self.names, self.bundles, self.most, self.devices = list(names), bundles, most, devices
        self.sizes: list[int] = []  # of batches that give equal bits; known after it was loaded once
        self.difference = 0.0  # of a row between batches of any sizes
        self.replicas: list[Replica] = []
        self._past: Counter[int] = Counter()  # batches of replicas that were unloaded
        self._lock = threading.Lock()

    @property
    def batches(self) -> Counter[int]:
        """The number of batches by the rows that were asked for."""
        return sum((replica.evaluations.batches for replica in list(self.replicas)), self._past.copy())

    def amounts(self, model: str, more: Mapping[str, float]) -> tuple[float, ...]:
        """What a model takes of the changes of this network, and ``more`` of some; ValueError for unknown ones."""
        known = self.names[1:]
        for name in more:
            require(
                name in known,
                f"there is no adapter {name!r} of {model!r}; it has {', '.join(known) or 'none'}: serve a bundle that "
                "was adapted from it beside it",
            )
        return tuple(more.get(name, 0.0) + (name == model) for name in known)

    @contextlib.contextmanager
    def use(self) -> Iterator[Replica]:
        """A replica with few runs; the network is loaded where it is not."""
        with self._lock:
            if not self.replicas:
                self.replicas = [self._replica(device) for device in self.devices or (None,)]
            replica = min(self.replicas, key=lambda replica: replica.runs)
            replica.runs += 1
        try:
            yield replica
        finally:
            with self._lock:
                replica.runs -= 1

    def unload(self) -> None:
        """Give its memory back."""
        with self._lock:
            self._past = self.batches
            for replica in self.replicas:
                replica.evaluations.close()
            self.replicas = []

    def _replica(self, device: str | torch.device | None) -> Replica:
        every = {name: self.bundles[name] for name in self.names}
        bundles = every if device is None else {name: bundle.to(device) for name, bundle in every.items()}
        base = bundles[self.names[0]]
        network, amounts = _mixed(base, [bundles[name] for name in self.names[1:]])
        if not self.sizes:
            self.sizes, self.difference = warmed(base, network, self.most, amounts)
        return Replica(bundles, network, Evaluations(network, self.sizes, amounts))


def _mixed(base: Bundle, adapted: Sequence[Bundle]) -> tuple[nn.Module, Amounts | None]:
    """The network of a bundle with the changes of others, and what sets their amounts."""
    network = base.flow.field
    assert isinstance(network, nn.Module)
    if not adapted:
        return network, None
    made = Deltas(network, [low_rank(bundle.flow.field) or {} for bundle in adapted]).eval()
    return made, made.amounts


@torch.no_grad()
def mixes(base: Bundle, adapted: Bundle) -> bool:
    """Whether a network, with the changes of another as low-rank ones of some rows, gives what both give alone."""
    changes = low_rank(adapted.flow.field)
    if changes is None or tuple(base.modality.shape) != tuple(adapted.modality.shape) or is_map(base.flow.field):
        return False
    network, amounts = _mixed(base, [adapted])
    assert amounts is not None
    rng, cond = Rng(0).fork("mixes"), probe_conditions(base, FEW)
    x = rng.normal(torch.empty(FEW, *base.modality.shape, device=base.device))
    t, taken = rng.fork("t").uniform(FEW, x), torch.arange(FEW) % 2
    amounts.take(taken[:, None].float())
    try:
        found = network(x, t, cond)
    except (RuntimeError, ValueError):  # a layer mixes the rows of samples
        return False
    alone = [bundle.flow.field(x, t, cond) for bundle in (base, adapted)]
    wanted = torch.where(taken.bool().to(x.device).view(-1, *[1] * (x.ndim - 1)), alone[1], alone[0])
    return bool((found - wanted).abs().max() <= NEAR * wanted.abs().max())


def warmed(base: Bundle, network: nn.Module, most: int, amounts: Amounts | None) -> tuple[list[int], float]:
    """Sizes of batches that give equal bits, and the difference of others; every size is evaluated once."""
    rng = Rng(0).fork("sizes")
    like = torch.empty(most, *base.modality.shape, device=base.device)
    x, t, cond = rng.normal(like), rng.fork("t").uniform(most, like), probe_conditions(base, most)
    rows = affordable(network, x, t, cond)
    few = map_cond(lambda leaf: leaf[:rows], cond)
    return equal_sizes(network, x[:rows], t[:rows], few, rows, amounts)


@torch.no_grad()
def affordable(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> int:
    """As many of the rows ``x`` as the network evaluates in about a second, and at least some."""
    more = (t[:FEW],) if is_map(network) else ()
    arguments = (x[:FEW], t[:FEW], map_cond(lambda leaf: leaf[:FEW], cond), *more)
    network(*arguments)  # the first call also prepares
    begin = time.perf_counter()
    network(*arguments)
    seconds = max(time.perf_counter() - begin, 1e-6)
    return min(len(x), max(FEW, int(FEW / seconds)))


def probe_conditions(bundle: Bundle, n: int) -> Any:
    """Conditions of any values for ``n`` rows, for a network that needs some."""
    known = bundle.modality.conditions
    made = {
        key: torch.arange(n, device=bundle.device) % spec["classes"]
        if "classes" in spec
        else torch.ones(n, *shape_of(spec), device=bundle.device)
        for key, spec in known.items()
    }
    return made or None
