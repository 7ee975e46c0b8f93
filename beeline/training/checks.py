"""Checks that stop a run before non-finite values reach weights or checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError
from beeline.core.protocols.training import Feed, Parallel
from beeline.core.types import leaves
from beeline.training.distributed.parallel import all_reduce_min_max, local
from beeline.training.optim.ema import Average


class Diverged(BeelineError):  # noqa: N818
    """Loss, gradients, weights or averages became non-finite in step ``step``."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Interrupted(KeyboardInterrupt):
    """A run stopped on request, after step ``step`` and after saving its state."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def first_bad(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Name and count of the first tensor with NaN or infinite values, as text; None if all are finite."""
    for name, tensor in named:
        if tensor is None or not tensor.is_floating_point():
            continue
        tensor = local(tensor.detach())
        bad = ~tensor.isfinite()
        if bool(bad.any()):
            return f"{name} ({int(bad.sum())} of {tensor.numel()} values)"
    return None


def check_step(
    loss: float,
    norm: float,
    step: int,
    networks: Mapping[str, nn.Module],
    describe_data: Callable[[], str] = lambda: "",
) -> None:
    """Raise Diverged if loss or gradient norm are non-finite; called before the update of the weights.

    ``describe_data`` gives the text about non-finite data, such as ``describe_bad_data``.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    weights = first_bad((f"{n}.{k}", p) for n, net in networks.items() for k, p in net.named_parameters())
    gradients = first_bad((f"{n}.{k}", p.grad) for n, net in networks.items() for k, p in net.named_parameters())
    where = "all weights and gradients are finite"
    if weights or gradients:
        where = (
            f"the first non-finite tensor is {f'the weight {weights}' if weights else f'the gradient of {gradients}'}"
        )
    raise Diverged(
        f"step {step} has loss {loss:g} and gradient norm {norm:g}; {where}{describe_data()}; the weights were not "
        "updated: fork the run from its last checkpoint with a lower learning rate "
        "(beeline train RUN --fork --set training.lr.peak=...), set training.max_recoveries=3 for automatic recovery, "
        "or check the data",
        step,
    )


def describe_bad_data(feed: Feed, n: int, training: Any, microbatches: Iterable[int]) -> str:
    """The first non-finite datum of step ``n``, as text; empty if all data are finite."""
    feed = feed.origin  # not through workers, which are ahead of this step
    for k in microbatches:
        number = n * training.microbatches + k
        batch = feed.microbatch(number, training.microbatch_size)
        parts = [("x1", batch.x1), ("x0", batch.x0), ("weight", batch.weight), *leaves(batch.cond, "cond")]
        for name, part in parts:
            if part is None or not part.is_floating_point():
                continue
            rows = (~part.isfinite()).flatten(1 if part.ndim > 1 else 0)
            bad = (rows.any(1) if part.ndim > 1 else rows).nonzero().flatten().cpu()
            if len(bad):
                rows_of = feed.rows(number, training.microbatch_size)
                datum = f"row {int(bad[0])} of microbatch {k}" if rows_of is None else f"datum {int(rows_of[bad[0]])}"
                return f"; {name} of {datum} is not finite: correct or remove it"
    return ""


def check_synchronized(engine: Parallel, norm: Tensor, step: int) -> None:
    """Raise Diverged if the gradient norm differs between processes, which happens if a reduction was skipped."""
    if engine.world == 1:
        return
    low, high = all_reduce_min_max(norm.detach())
    if low != high and math.isfinite(low) and math.isfinite(high):
        raise Diverged(
            f"in step {step} the gradient norm is {low!r} on one process and {high!r} on another; the gradients were "
            "not synchronised, so the replicas diverge: use SingleDevice() with more microbatches, and report the "
            "objective",
            step,
        )


def check_state(
    step: int, networks: Mapping[str, nn.Module], averages: Mapping[str, Iterable[Average]], engine: Parallel
) -> None:
    """Raise Diverged, on all processes, if weights or averages are non-finite; called before they are saved."""
    tensors: list[tuple[str, Tensor]] = []
    for n, net in networks.items():
        tensors += [(f"{n}.{k}", p) for k, p in net.named_parameters()]
    for n, several in averages.items():
        tensors += [(f"the average of {n}.{k}", t) for average in several for k, t in average.state().items()]
    with torch.no_grad():
        sums = [local(t).sum().float() for _, t in tensors] or [torch.zeros(())]
        total = torch.stack([s.to(sums[0].device) for s in sums]).sum()
        # the sum may overflow although all tensors are finite, so they are checked one by one
        bad = None if math.isfinite(float(total)) else first_bad(tensors)
    if float(engine.total(total.new_tensor(float(bad is not None)))) == 0:
        return
    raise Diverged(
        f"after step {step} the first non-finite tensor is {bad or 'on another process'}; this state is not saved: "
        "fork the run from its last checkpoint with a lower learning rate (beeline train RUN --fork --set "
        "training.lr.peak=...)",
        step,
    )
