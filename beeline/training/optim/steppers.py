"""Torch optimizers that torch does not have everywhere: Muon for matrices of any kind, and DoG."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.training.distributed.parallel import local, whole
from beeline.training.optim.parameter_groups import split

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steepest at 0; singular values end between 0.7 and 1.2


class MuonStepper(torch.optim.Optimizer):
    """Orthogonal momentum for matrices, Adam for the other parameters."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        momentum: float,
        decay: float,
        steps: int,
        betas: tuple[float, float],
        matrices: Collection[int] | None = None,
    ):
        wide, thin = split(parameters, matrices)
        groups: list[dict[str, Any]] = [{"params": wide, "wide": True}, {"params": thin, "wide": False}]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, dict(lr=lr, momentum=momentum, decay=decay, steps=steps, betas=betas, count=0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                memory = self.state[p]
                if group["wide"]:
                    self._matrix(p, p.grad, memory, group)
                else:
                    self._vector(local(p), local(p.grad), memory, group, p)

    def _matrix(self, p: Tensor, grad: Tensor, memory: dict[str, Any], group: dict[str, Any]) -> None:
        if "momentum" not in memory:
            memory["momentum"] = torch.zeros_like(p)
        m = memory["momentum"]
        local(m).mul_(group["momentum"]).add_(local(grad))
        ahead = grad + group["momentum"] * m  # Nesterov's look ahead
        flat = whole(ahead).flatten(1)
        update = orthogonal(flat, group["steps"]).reshape(p.shape).to(p.dtype)
        local(p).mul_(1 - group["lr"] * group["decay"])
        scale = 0.2 * math.sqrt(max(flat.shape))
        local(p).sub_(_part_like(update, p), alpha=group["lr"] * scale)

    def _vector(self, p: Tensor, grad: Tensor, memory: dict[str, Any], group: dict[str, Any], key: Tensor) -> None:
        if "mean" not in memory:
            memory["mean"], memory["square"] = torch.zeros_like(key), torch.zeros_like(key)
        b1, b2 = group["betas"]
        mean, square = local(memory["mean"]), local(memory["square"])
        mean.lerp_(grad, 1 - b1)
        square.lerp_(grad.square(), 1 - b2)
        n = group["count"]
        p.sub_(group["lr"] * (mean / (1 - b1**n)) / ((square / (1 - b2**n)).sqrt() + 1e-8))


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """The nearest orthogonal matrix, nearly: all singular values come close to 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _part_like(update: Tensor, p: Any) -> Tensor:
    """The part of a whole update that belongs to this process, as the parameter is divided."""
    if not hasattr(p, "to_local"):
        return update
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = DTensor.from_local(update, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=p.placements).to_local()


class DoGStepper(torch.optim.Optimizer):
    """Distance over gradients: one lr for all parameters, or one for each of them, found on the way."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, first: float, layers: bool = False):
        groups = [{"params": [p]} for p in parameters] if layers else [{"params": list(parameters)}]
        super().__init__(groups, dict(lr=lr, first=first, far=0.0, power=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._move(group)

    def _move(self, group: dict[str, Any]) -> None:
        used = [p for p in group["params"] if p.grad is not None]
        for p in used:
            if "start" not in self.state[p]:
                self.state[p]["start"] = p.detach().clone()
        if group["far"] == 0:
            group["far"] = group["first"] * (1 + _length(used))
        group["far"] = max(group["far"], _length([p - self.state[p]["start"] for p in used]))
        group["power"] += _length([p.grad for p in used]) ** 2
        lr = group["lr"] * group["far"] / math.sqrt(group["power"] + 1e-8)
        for p in used:
            local(p).sub_(local(p.grad), alpha=lr)


class DAdaptStepper(torch.optim.Optimizer):
    """Dual averaging whose step is a lower bound of the distance to the solution, which only grows."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, first: float):
        super().__init__([{"params": list(parameters)}], dict(lr=lr, d=first, power=0.0, spent=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        used = [p for p in group["params"] if p.grad is not None]
        for p in used:
            if "start" not in self.state[p]:
                self.state[p]["start"], self.state[p]["sum"] = p.detach().clone(), torch.zeros_like(p)
        square = _length([p.grad for p in used]) ** 2
        if square == 0 and group["power"] == 0:
            return  # no gradient yet, so no scale
        weight = group["d"] * group["lr"]
        before = 1 / math.sqrt(group["power"] or square)  # the scale of the first step is that of its gradient
        group["power"] += square
        group["spent"] += before * weight**2 * square
        scale = 1 / math.sqrt(group["power"])
        for p in used:
            local(self.state[p]["sum"]).add_(local(p.grad), alpha=weight)
            local(p).copy_(local(self.state[p]["start"]) - scale * local(self.state[p]["sum"]))
        length = _length([self.state[p]["sum"] for p in used])
        if length > 0:
            group["d"] = max(group["d"], (scale * length**2 - group["spent"]) / (2 * length))


def _length(tensors: Sequence[Tensor]) -> float:
    squares = [whole((t.detach() * t.detach()).sum()).double() for t in tensors]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
