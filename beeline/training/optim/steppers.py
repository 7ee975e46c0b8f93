"""Torch optimizers that not every torch version has: Muon, DoG and D-Adaptation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.training.distributed.parallel import full_tensor, is_sharded, local
from beeline.training.optim.parameter_groups import split

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # maximal slope at 0; singular values converge to 0.7 to 1.2


class MuonStepper(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices, Adam for the other parameters."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        steps: int,
        betas: tuple[float, float],
        matrices: Collection[int] | None = None,
    ):
        chosen, others = split(parameters, matrices)
        groups: list[dict[str, Any]] = [{"params": chosen, "matrices": True}, {"params": others, "matrices": False}]
        groups = [group for group in groups if group["params"]]
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, steps=steps, betas=betas, count=0)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                memory = self.state[p]
                if group["matrices"]:
                    self._update_matrix(p, p.grad, memory, group)
                else:
                    self._update_vector(local(p), local(p.grad), memory, group, p)

    def _update_matrix(self, p: Tensor, grad: Tensor, memory: dict[str, Any], group: dict[str, Any]) -> None:
        if "momentum" not in memory:
            memory["momentum"] = torch.zeros_like(p)
        m = memory["momentum"]
        local(m).mul_(group["momentum"]).add_(local(grad))
        ahead = grad + group["momentum"] * m  # Nesterov momentum
        flat = full_tensor(ahead).flatten(1)
        update = orthogonal(flat, group["steps"]).reshape(p.shape).to(p.dtype)
        local(p).mul_(1 - group["lr"] * group["weight_decay"])
        scale = 0.2 * math.sqrt(max(flat.shape))
        local(p).sub_(_shard_like(update, p), alpha=group["lr"] * scale)

    def _update_vector(
        self, p: Tensor, grad: Tensor, memory: dict[str, Any], group: dict[str, Any], key: Tensor
    ) -> None:
        if "mean" not in memory:
            memory["mean"], memory["square"] = torch.zeros_like(key), torch.zeros_like(key)
        b1, b2 = group["betas"]
        mean, square = local(memory["mean"]), local(memory["square"])
        mean.lerp_(grad, 1 - b1)
        square.lerp_(grad.square(), 1 - b2)
        n = group["count"]
        p.sub_(group["lr"] * (mean / (1 - b1**n)) / ((square / (1 - b2**n)).sqrt() + 1e-8))


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Approximate orthogonal polar factor of a matrix by ``steps`` Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _shard_like(update: Tensor, p: Any) -> Tensor:
    """The shard of a full update that belongs to this process, with the placement of parameter ``p``."""
    if not is_sharded(p):
        return update
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = DTensor.from_local(update, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=p.placements).to_local()


class DoGStepper(torch.optim.Optimizer):
    """Distance over gradients: one step size for all parameters, or one for each tensor (``layers``)."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, first: float, layers: bool = False):
        groups = [{"params": [p]} for p in parameters] if layers else [{"params": list(parameters)}]
        super().__init__(groups, dict(lr=lr, first=first, distance=0.0, squares=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._update(group)

    def _update(self, group: dict[str, Any]) -> None:
        used = [p for p in group["params"] if p.grad is not None]
        for p in used:
            if "start" not in self.state[p]:
                self.state[p]["start"] = p.detach().clone()
        if group["distance"] == 0:
            group["distance"] = group["first"] * (1 + _norm(used))
        group["distance"] = max(group["distance"], _norm([p - self.state[p]["start"] for p in used]))
        group["squares"] += _norm([p.grad for p in used]) ** 2
        lr = group["lr"] * group["distance"] / math.sqrt(group["squares"] + 1e-8)
        for p in used:
            local(p).sub_(local(p.grad), alpha=lr)


class DAdaptStepper(torch.optim.Optimizer):
    """Dual averaging whose step size is a non-decreasing lower bound ``d`` of the distance to the solution."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, first: float):
        super().__init__([{"params": list(parameters)}], dict(lr=lr, d=first, squares=0.0, weighted_squares=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        used = [p for p in group["params"] if p.grad is not None]
        for p in used:
            if "start" not in self.state[p]:
                self.state[p]["start"], self.state[p]["sum"] = p.detach().clone(), torch.zeros_like(p)
        square = _norm([p.grad for p in used]) ** 2
        if square == 0 and group["squares"] == 0:
            return  # no gradient yet, so no scale
        weight = group["d"] * group["lr"]
        previous = 1 / math.sqrt(group["squares"] or square)  # in the first step: the scale of its own gradient
        group["squares"] += square
        group["weighted_squares"] += previous * weight**2 * square
        scale = 1 / math.sqrt(group["squares"])
        for p in used:
            local(self.state[p]["sum"]).add_(local(p.grad), alpha=weight)
            local(p).copy_(local(self.state[p]["start"]) - scale * local(self.state[p]["sum"]))
        norm = _norm([self.state[p]["sum"] for p in used])
        if norm > 0:
            group["d"] = max(group["d"], (scale * norm**2 - group["weighted_squares"]) / (2 * norm))


class DAdaptAdamStepper(torch.optim.Optimizer):
    """Adam whose learning rate is multiplied by a non-decreasing estimate ``d`` of the distance to the solution."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, first: float):
        super().__init__(groups, dict(lr=lr, betas=betas, eps=eps, d=first, products=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]  # the numbers that all groups share are stored in the first one
        (b1, b2), eps, weight = group["betas"], group["eps"], group["d"] * group["lr"]
        b3 = math.sqrt(b2)
        used = [(p, g["weight_decay"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        for p, _ in used:
            if not self.state[p]:
                self.state[p].update({name: torch.zeros_like(p) for name in ("mean", "square", "sum")})
        states = [(p.grad, self.state[p]) for p, _ in used]
        products = _total([g * m["sum"] / (m["square"].sqrt() + eps) for g, m in states])
        for grad, m in states:
            g = local(grad)
            local(m["mean"]).mul_(b1).add_(g, alpha=weight * (1 - b1))
            local(m["square"]).lerp_(g.square(), 1 - b2)
            local(m["sum"]).mul_(b3).add_(g, alpha=weight * (1 - b3))
        length = _total([m["sum"].abs() for _, m in states])
        group["products"] = b3 * group["products"] + (1 - b3) * weight * products
        if length > 0:
            group["d"] = max(group["d"], group["products"] / ((1 - b3) * length))
        for p, decay in used:
            m = self.state[p]
            local(p).mul_(1 - weight * decay).sub_(local(m["mean"]) / (local(m["square"]).sqrt() + eps))


def _norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all tensors together, over all processes."""
    return math.sqrt(_total([t.detach() * t.detach() for t in tensors]))


def _total(tensors: Sequence[Tensor]) -> float:
    """Sum of the elements of all tensors together, over all processes."""
    sums = [full_tensor(t.detach().sum()).double() for t in tensors]
    return float(torch.stack(sums).sum()) if sums else 0.0


class LowRankStepper(torch.optim.Optimizer):
    """Adam in the leading singular directions of the gradients of matrices, and on the other parameters."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        rank: int,
        every: int,
        scale: float,
        betas: tuple[float, float],
    ):
        super().__init__(list(parameters), dict(lr=lr, rank=rank, every=every, scale=scale, betas=betas, count=0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (b1, b2), n = group["betas"], group["count"]
            group["count"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                memory, flat = self.state[p], p.grad.flatten(1) if p.ndim > 1 else p.grad
                small = p.ndim > 1 and min(flat.shape) > group["rank"]
                if small and (n % group["every"] == 0 or "basis" not in memory):
                    u, _, v = torch.linalg.svd(flat.float(), full_matrices=False)
                    memory["basis"] = u[:, : group["rank"]] if len(u) <= v.shape[1] else v[: group["rank"]].mT
                left, g = small and len(flat) <= flat.shape[1], flat
                if small:
                    basis = memory["basis"].to(flat)
                    g = basis.mT @ flat if left else flat @ basis
                if "mean" not in memory:
                    memory["mean"], memory["square"] = torch.zeros_like(g), torch.zeros_like(g)
                memory["mean"].lerp_(g, 1 - b1)
                memory["square"].lerp_(g.square(), 1 - b2)
                mean, square = memory["mean"] / (1 - b1 ** (n + 1)), memory["square"] / (1 - b2 ** (n + 1))
                change = mean / (square.sqrt() + 1e-8)
                if small:
                    change = group["scale"] * (basis @ change if left else change @ basis.mT)
                p.sub_(change.view_as(p), alpha=group["lr"])
