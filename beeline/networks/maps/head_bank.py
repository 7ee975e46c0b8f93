"""A last layer in several copies, one for each interval of time, that decode several steps from one evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Wrapping, is_map, last_layer_of
from beeline.core.errors import BeelineError, require
from beeline.core.host_times import known_host_times
from beeline.core.protocols.flows import Schedule
from beeline.core.types import Cond
from beeline.fields.flow import Network
from beeline.times.schedules import Uniform


class Bank(nn.Module):
    """Copies of a linear or convolutional layer; a call computes M mixtures of them, as M times the rows of its input.

    y_m = (sum_k c_mk W_k) h + sum_k c_mk b_k
    """

    def __init__(self, layer: nn.Module | None, count: int):
        super().__init__()
        require(
            isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1),
            f"Bank got a {type(layer).__name__} as the last layer of a network; copies are mixed of a Linear or a "
            "Conv2d without groups: use a network with such a last layer",
        )
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.conv: Any = (layer.stride, layer.padding, layer.dilation) if isinstance(layer, nn.Conv2d) else None
        bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        self.weight = nn.Parameter(layer.weight.detach().repeat(count, *[1] * layer.weight.ndim))
        self.bias = nn.Parameter(bias.repeat(count, 1))
        self.mixtures: Tensor | None = None  # [M,B,count], or [M,1,count] for all rows

    @contextlib.contextmanager
    def mixing(self, mixtures: Tensor) -> Iterator[None]:
        """Context manager: calls compute these mixtures."""
        self.mixtures = mixtures
        try:
            yield
        finally:
            self.mixtures = None

    def forward(self, h: Tensor) -> Tensor:
        assert self.mixtures is not None
        c = self.mixtures.float()  # sums of many heads in half precision would lose digits
        weight = (c @ self.weight.flatten(1).float()).to(h.dtype).unflatten(-1, self.weight.shape[1:])
        bias = (c @ self.bias.float()).to(h.dtype)
        if c.shape[:2] == (1, 1):  # the fused layer of a jump, as fast as the layer of the teacher
            return (
                F.linear(h, weight[0, 0], bias[0, 0]) if self.conv is None else self._convolved(h, weight, bias[0, 0])
            )
        require(
            len(h) == c.shape[1] or c.shape[1] == 1,
            f"the last layer of the network was called with {len(h)} rows for a batch of {c.shape[1]}; jumps that "
            "differ between samples need one row for each: train it with batches of one datum",
        )
        if self.conv is None:
            rows = h.flatten(1, -2) if h.ndim > 2 else h[:, None]
            y = rows[None] @ weight.transpose(-1, -2) + bias[:, :, None]
            return y.reshape(-1, *h.shape[1:-1], y.shape[-1])
        count = len(c) * len(h)
        weight, bias = (part.expand(len(c), len(h), *part.shape[2:]).flatten(0, 1) for part in (weight, bias))
        grouped = h.repeat(len(c), 1, 1, 1).flatten(0, 1)[None]
        y = self._convolved(grouped, weight, bias.flatten(), groups=count)
        return y.unflatten(1, (count, -1)).squeeze(0)

    def _convolved(self, h: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
        assert self.conv is not None
        stride, padding, dilation = self.conv
        return F.conv2d(h, weight.flatten(0, -4), bias, stride, padding, dilation, groups)


class HeadBank(Wrapping):
    """A network with one last layer for every interval of a grid of time: a flow map between the starts of blocks.

    w(x, t, k) = W_k H(x, t), the average velocity over [t_k, t_(k+1)] as seen from the state x at t
    u(x, t, s) = sum of w(x, t, k) over the intervals between t and s, weighted by their lengths
    A jump costs one evaluation of the network: its last layer is the mixture of those of its intervals.  Heads start
    as copies of the last layer, where the jump is an Euler step.
    Assumes a network that declares its ``last_layer``, whose output is only reshaped afterwards, and jumps between
    block starts, which are every ``every``-th time of the grid.
    Source: NVIDIA 2026, parallel decoding distillation (arXiv 2607.26004).

    >>> from beeline.networks.mlp import MLP
    >>> bank = HeadBank(Network(MLP(2)), intervals=8, every=4)
    >>> bank(torch.zeros(3, 2), torch.zeros(3), None, torch.ones(3)).shape
    torch.Size([3, 2])
    """

    is_flow_map = True

    def __init__(self, field: nn.Module, intervals: int = 32, every: int = 1, schedule: Schedule | None = None):
        super().__init__()
        layer = last_layer_of(field)
        require(
            layer is not None and not is_map(field),
            f"HeadBank got a {type(field).__name__} {'that is a flow map' if layer is not None else 'of a backbone'} "
            "that declares no last layer to copy; give a velocity Network of a DiT, a UNet or an MLP",
        )
        require(
            intervals >= 1 and every >= 1 and intervals % every == 0,
            f"HeadBank got intervals={intervals}, every={every}; the grid is divided into blocks of equal numbers of "
            "intervals: give a divisor of the intervals",
        )
        self.field, self.intervals, self.every, self.schedule = field, intervals, every, schedule or Uniform()
        self.place = next(name for name, module in field.named_modules() if module is layer)
        field.set_submodule(self.place, Bank(layer, intervals))
        self._grids: dict[torch.device, Tensor] = {}  # not a buffer, which a cast to half precision would round

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "intervals": self.intervals, "every": self.every, "schedule": self.schedule}

    @property
    def bank(self) -> Bank:
        """The heads, which are a layer of the network inside."""
        bank = self.field.get_submodule(self.place)
        assert isinstance(bank, Bank)
        return bank

    def grid(self, device: torch.device) -> Tensor:
        """The times [intervals + 1] of the grid, in float64."""
        if device not in self._grids:
            self._grids[device] = self.schedule(self.intervals).double().to(device)
        return self._grids[device]

    def forward(
        self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None, *, mixtures: Tensor | None = None
    ) -> Tensor:
        """The average velocity [B,*S] from ``t`` to ``s``, or those [M,B,*S] of ``mixtures`` [M,B,intervals] of heads.

        Raises ValueError for times that are no block starts.
        """
        if mixtures is None:
            return self._mixed(x, t, cond, self._jump(t, t if s is None else s)[None])
        return self._mixed(x, t, cond, mixtures).reshape(len(mixtures), *x.shape)

    def _mixed(self, x: Tensor, t: Tensor, cond: Cond, mixtures: Tensor) -> Tensor:
        if isinstance(self.field, Network) and len(mixtures) > 1:  # all mixtures from one pass of the backbone
            with self.bank.mixing(mixtures):
                output = self.field.output(x, t, cond)
            count = len(mixtures)
            x, t = x.repeat(count, *[1] * (x.ndim - 1)), t.repeat(count)
            return self.field.prediction.velocity(output, x, t, self.field.path)
        parts = []
        for one in mixtures:
            with self.bank.mixing(one[None]):
                parts.append(self.field(x, t, cond))
        return torch.cat(parts)

    def _jump(self, t: Tensor, s: Tensor) -> Tensor:
        """The mixture [B,intervals] or, for equal times, [1,intervals] of the heads of a jump."""
        start, end = known_host_times(t), known_host_times(s)
        if start is None or end is None:
            return head_mixture(self.grid(t.device), t, s)
        self._check(start)
        self._check(end)
        if bool((start == start[0]).all()) and bool((end == end[0]).all()):
            start, end = start[:1], end[:1]
        return head_mixture(self.grid(start.device), start, end).to(t.device)

    def _check(self, t: Tensor) -> None:
        starts = self.grid(torch.device("cpu"))[:: self.every]
        wrong = t[(t.double()[:, None] - starts).abs().amin(1) > 1e-5]
        if len(wrong):
            counts = [n for n in range(1, len(starts)) if (len(starts) - 1) % n == 0]
            raise BeelineError(
                f"a jump of the student starts or ends at t = {float(wrong[0]):.6g}; its heads were trained between "
                f"the times {[round(float(time), 4) for time in starts]} of {self.schedule}: sample with FlowMapStep() "
                f"and this schedule in {', '.join(map(str, counts))} steps"
            )


def head_mixture(grid: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The weights [B,N] of the intervals of ``grid`` [N+1] in the jumps from ``t`` [B] to ``s`` [B].

    c_k = length of the part of [t_k, t_(k+1)] between t and s, divided by s - t;  for s = t the interval at t

    >>> head_mixture(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5]))
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    t, s = t[:, None].to(grid), s[:, None].to(grid)
    overlap = (torch.minimum(s, grid[1:]) - torch.maximum(t, grid[:-1])).clamp(min=0)
    here = torch.searchsorted(grid, t + 1e-6, right=True).sub(1).clamp(0, len(grid) - 2)
    one = F.one_hot(here[:, 0], len(grid) - 1).to(grid)
    return torch.where(s > t, overlap / (s - t).clamp(min=1e-12), one).float()
