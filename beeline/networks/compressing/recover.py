"""Training of a smaller network to compute what the larger one does, on states of its own sampling."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import LAYERS, Changed, weight_of
from beeline.networks.adapters.recast import recast, replaced, without
from beeline.networks.compressing.compressed import Compressed
from beeline.networks.compressing.compressor import Call, Compressor, Plan, Probe
from beeline.networks.compressing.formats import Gridded
from beeline.networks.compressing.packed import STORED, Decoded, packed
from beeline.networks.compressing.quantize import Quantize


@dataclass(frozen=True)
class Recovered:
    """A smaller network that is trained to have the outputs of the larger one, without data.

    min E |v_small(x_t, t, cond) - v(x_t, t, cond)|^2 over the states x_t of the sampling of the larger network
    Weights in number formats are trained through their rounding, w + (decode(encode(w)) - w).detach(); formats of
    factors, signs or zeros keep their codes, and their numbers are trained; all other weights are trained as well.
    Training that ends farther away than it began is undone.
    Source: Liu et al. 2023, LLM-QAT (arXiv 2305.17888); factors: Guo et al. 2024, PELA (arXiv 2310.10700); fewer
    blocks: Kim et al. 2023, BK-SDM (arXiv 2305.15798).

    >>> Recovered(steps=100).steps
    100
    """

    method: Compressor = Quantize()
    steps: Count = 300
    batch: Count = 64
    rate: Positive = 1e-3  # of Adam, falling to 0

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        plan = self.method.plan(network, probe)
        call = self.drawn(probe, Rng(0))
        begin = time.perf_counter()
        with torch.no_grad():
            network(*call.inputs)
        return Plan(
            plan.decisions,
            plan.before,
            plan.after,
            plan.seconds + 4 * self.steps * (time.perf_counter() - begin),
            plan,
        )

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        small = self.method.apply(network, plan.inner or plan, probe, rng.fork("method"))
        untrained = copy.deepcopy(small)
        latent(small, {name: weight_of(layer) for name, layer in network.named_modules() if isinstance(layer, LAYERS)})
        small.requires_grad_(True).train()
        optimizer = torch.optim.Adam([p for p in small.parameters() if p.requires_grad], self.rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        with torch.enable_grad():
            for step in range(self.steps):
                call = self.drawn(probe, rng.fork("step", step))
                with torch.no_grad():
                    wanted = network(*call.inputs)
                optimizer.zero_grad()
                loss = (small(*call.inputs) - wanted).square().mean()
                loss.backward()
                optimizer.step()
                falling.step()
        settled(small)
        worse = distance(small.eval(), network, probe) > distance(untrained, network, probe)
        return (untrained if worse else small).requires_grad_(False)

    def drawn(self, probe: Probe, rng: Rng) -> Call:
        """States at one time."""
        call = probe.calls[int(rng.fork("call").integers(len(probe.calls), 1))]
        n = len(call.x)
        return call.rows(rng.fork("rows").permutation(n)[: self.batch].to(call.x.device))


@torch.no_grad()
def distance(small: nn.Module, network: nn.Module, probe: Probe) -> float:
    """The sum of squared differences of two networks over some calls of a probe."""
    calls = probe.calls[:: max(1, len(probe.calls) // 16)]
    return sum(float((small(*call.inputs) - network(*call.inputs)).square().sum()) for call in calls)


class Rounded(nn.Module):
    """A layer whose weight is rounded, with gradients as if it were not."""

    form: Gridded

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        w = self._parameters["latent"]
        assert w is not None
        with torch.no_grad():
            flat = w.flatten(1)
            rest = self.form.decode(self.form.encode(flat), *flat.shape).view_as(w) - w
        return w + rest


def latent(network: nn.Module, starts: Mapping[str, Tensor] | None = None) -> None:
    """Make what is stored in formats trainable, in place.

    ``starts`` are the weights by name at which it begins; without them it begins at what is stored.  Networks that are
    frozen, and layers with adapters, stay as they are.
    """
    for inside, name, layer in decoded_in(network):
        if isinstance(layer.form, Gridded):
            start = stored_start(layer) if starts is None else starts[name]
            plain = without(layer, type(layer).__mro__[1])
            plain._buffers = {k: v for k, v in plain._buffers.items() if not k.startswith(STORED)}
            made = recast(plain, Rounded)
            made.form, made._parameters["latent"] = layer.form, nn.Parameter(start.detach().clone())
            replaced(inside, name, made)
            continue
        for key, tensor in list(layer._buffers.items()):
            if tensor is not None and key.startswith(STORED) and tensor.is_floating_point():
                del layer._buffers[key]
                layer.dtypes = {**layer.dtypes, key: tensor.dtype}
                layer.register_parameter(key, nn.Parameter(tensor.float()))


@torch.no_grad()
def stored_start(layer: Decoded) -> Tensor:
    """What is stored, or a multiple of it whose rounding is nearer to it, as scales may follow the mean of a row."""
    w = weight_of(layer)

    def rounded(start: Tensor) -> Tensor:
        flat = start.flatten(1)
        return layer.form.decode(layer.form.encode(flat), *flat.shape).view_as(w)

    again = rounded(w)
    other = w * torch.where(again == 0, 1.0, w / again)
    return other if (rounded(other) - w).norm() < 0.5 * (again - w).norm() else w


@torch.no_grad()
def settled(network: nn.Module) -> None:
    """Store trained weights in their formats, in place."""
    for inside in insides(network):
        for name, layer in [(n, m) for n, m in inside.named_modules() if isinstance(m, Rounded)]:
            plain = without(layer, Rounded)
            plain._parameters["weight"] = plain._parameters.pop("latent")
            replaced(inside, name, packed(plain, layer.form))
    for _, _, stored in decoded_in(network):
        for key in [k for k in stored._parameters if k.startswith(STORED)]:
            value = stored._parameters.pop(key)
            assert value is not None
            stored.register_buffer(key, value.detach().to(stored.dtypes[key]))


def insides(network: nn.Module) -> list[nn.Module]:
    """The networks inside every Compressed."""
    return [m.field for m in network.modules() if isinstance(m, Compressed)]


def decoded_in(network: nn.Module) -> list[tuple[nn.Module, str, Decoded]]:
    """(network inside Compressed, name, layer) of the layers whose weights are stored in formats, without adapters."""
    return [
        (inside, name, layer)
        for inside in insides(network)
        for name, layer in inside.named_modules()
        if isinstance(layer, Decoded) and not isinstance(layer, Changed)
    ]


def trainable(networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Make stored weights of networks trainable, in place, where the other weights of their network are."""
    for m in [m for network in networks.values() for m in network.modules() if isinstance(m, Compressed)]:
        if any(p.requires_grad for p in m.parameters()):
            latent(m)
    return networks


def finished(network: Any) -> Any:
    """The network with trained weights in their formats: a copy, where any are."""
    if not isinstance(network, nn.Module) or not insides(network):
        return network
    made = copy.deepcopy(network)
    settled(made)
    return made
