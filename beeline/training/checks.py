"""Seat belts: what stops a run before it spoils what was learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError
from beeline.core.protocols.training import Feed, Parallel
from beeline.core.types import leaves
from beeline.training.distributed.parallel import extent, local
from beeline.training.optim.ema import Average


class Diverged(BeelineError):  # noqa: N818 - what happened, as it is said
    """Numbers became non-finite; ``step`` is the step in which they did."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop and has saved where it was."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def first_bad(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The first tensor with NaN or infinite values, in words; None when all are finite."""
    for name, tensor in named:
        if tensor is None or not tensor.is_floating_point():
            continue
        tensor = local(tensor.detach())
        bad = ~tensor.isfinite()
        if bool(bad.any()):
            return f"{name} ({int(bad.sum())} of {tensor.numel()} values)"
    return None


def check_step(
    loss: float, norm: float, step: int, networks: Mapping[str, nn.Module], blame: Callable[[], str] = lambda: ""
) -> None:
    """Stop before an update that would carry non-finite numbers into the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    weights = first_bad((f"{n}.{k}", p) for n, net in networks.items() for k, p in net.named_parameters())
    slopes = first_bad((f"{n}.{k}", p.grad) for n, net in networks.items() for k, p in net.named_parameters())
    where = f"the weight {weights}" if weights else f"the gradient of {slopes}" if slopes else "in no single gradient"
    raise Diverged(
        f"step {step} has loss {loss:g} and gradient norm {norm:g}; the first bad tensor is {where}{blame()}; the "
        "weights were not changed by this step: fork the run from its last checkpoint with a lower learning rate "
        "(beeline train RUN --fork --set training.lr.peak=...), let it recover by itself (training.max_recoveries=3), "
        "or look at the data",
        step,
    )


def blame(feed: Feed, n: int, training: Any, microbatches: Iterable[int]) -> str:
    """The data of step n that are not finite, in words; empty when all are."""
    feed = feed.origin  # not through workers, which have gone ahead
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
                return f"; {name} of {datum} is not finite, so the data are to blame: repair or remove it"
    return ""


def check_alike(engine: Parallel, norm: Tensor, step: int) -> None:
    """Make sure that all processes have the same gradient, bit for bit: a reduction that was skipped shows here."""
    if engine.world == 1:
        return
    low, high = extent(norm.detach())
    if low != high and math.isfinite(low) and math.isfinite(high):
        raise Diverged(
            f"in step {step} the gradient norm is {low!r} on one process and {high!r} on another; the gradients were "
            "not brought together, so the copies drift apart: report the objective, and use SingleDevice() with more "
            "microbatches",
            step,
        )


def check_state(
    step: int, networks: Mapping[str, nn.Module], averages: Mapping[str, Iterable[Average]], engine: Parallel
) -> None:
    """Refuse to keep a state with non-finite weights or averages; all processes refuse when one does."""
    every: list[tuple[str, Tensor]] = []
    for n, net in networks.items():
        every += [(f"{n}.{k}", p) for k, p in net.named_parameters()]
    for n, many in averages.items():
        every += [(f"the average of {n}.{k}", t) for average in many for k, t in average.state().items()]
    with torch.no_grad():
        sums = [local(t).sum().float() for _, t in every] or [torch.zeros(())]
        total = torch.stack([s.to(sums[0].device) for s in sums]).sum()
        # an overflow of the sum alone is not an error, so the tensors decide
        bad = None if math.isfinite(float(total)) else first_bad(every)
    if float(engine.total(total.new_tensor(float(bad is not None)))) == 0:
        return
    raise Diverged(
        f"after step {step} the first bad tensor is {bad or 'held by another process'}; this state is not kept: fork "
        "the run from its last checkpoint with a lower learning rate "
        "(beeline train RUN --fork --set training.lr.peak=...)",
        step,
    )
