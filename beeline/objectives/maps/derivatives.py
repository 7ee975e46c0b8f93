"""Derivatives of a network along a direction, and the check of one against finite differences."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.modes import check_later, full_precision, has_narrow_weights, wide
from beeline.core.protocols.objectives import Derivative, Function
from beeline.core.ranges import Positive, dataclass


@dataclass(frozen=True)
class ForwardMode:
    """The exact derivative along a direction, by forward-mode differentiation (a Jacobian-vector product).

    (f(x), J_f(x) v),  x the inputs, v their tangents;  about twice the cost of f
    Assumes operations with a forward derivative; ``networks.attention`` chooses a kernel that has one.  Inputs are in
    float32 or better, without autocast (FSDP with compute.bf16 keeps it, because weights are gathered in bfloat16).
    Gradients flow as outside of it: call it inside ``torch.no_grad()`` for a target, as sharded networks require.
    Source: Baydin et al. 2018, "Automatic differentiation in machine learning: a survey" (arXiv 1502.05767).

    >>> ForwardMode()(lambda x: x**2, (torch.full((1, 1), 3.0),), (torch.ones(1, 1),))
    (tensor([[9.]]), tensor([[6.]]))
    """

    def __call__(self, f: Function, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        points, directions = _floats(inputs, tangents)
        with _precision(points[0].device):
            try:
                value, slope = torch.func.jvp(f, points, directions)[:2]
            except (NotImplementedError, RuntimeError) as error:
                if not _without_forward(error):
                    raise
                raise BeelineError(
                    f"the network has an operation without a forward derivative ({_first_line(error)}; {_kernels()}); "
                    f"{REMEDY}"
                ) from error
        return value, slope


@dataclass(frozen=True)
class FiniteDifference:
    """The derivative along a direction by a central difference, for networks without a forward derivative.

    (f(x), (f(x + h v) - f(x - h v)) / 2 h),  x the inputs, v their tangents;  three evaluations of f
    Assumes a network that is smooth on the scale h; its error is of order h^2 + eps / h, with eps the rounding of f.
    One-dimensional inputs are times: where a step would leave [0, 1] it is shortened, per sample.  The evaluations
    share their random numbers (dropout).  Inputs are in float32 or better, without autocast.
    Source: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models"
    (arXiv 2410.11081).

    >>> FiniteDifference(0.01)(lambda x: x**2, (torch.full((1, 1), 3.0),), (torch.ones(1, 1),))[1].round(decimals=3)
    tensor([[6.]])
    """

    h: Positive = 1e-4  # step along the tangents; time embeddings have frequencies up to 1000 radians

    def __call__(self, f: Function, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        require(
            not has_narrow_weights(),
            "FiniteDifference got a network whose weights are gathered in bfloat16, whose rounding is larger than the "
            "difference: use derivative=ForwardMode(), or set compute.bf16=false",
        )
        points, directions = _floats(inputs, tangents)
        device = points[0].device
        after, before = _steps(self.h, points, directions)
        devices = [device] if device.type == "cuda" else []

        def at(step: Tensor) -> Tensor:
            return f(*(x + _rows(step, x) * v for x, v in zip(points, directions, strict=True)))

        def again(step: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=devices):  # restores the state, so that all see the same numbers
                return at(step)

        with full_precision(device):
            ends = again(after), again(-before)
            value = f(*points)
        return value, (ends[0] - ends[1]) / _rows(after + before, value)


REMEDY = (
    "use derivative=FiniteDifference(), which needs evaluations alone, or an attention with a forward derivative: "
    "beeline.networks.attention.attend, or torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the network"
)


@torch.no_grad()
def check_derivative(
    f: Function,
    inputs: Sequence[Tensor],
    tangents: Sequence[Tensor],
    derivative: Derivative | None = None,
    *,
    tolerance: float = 0.05,
    h: float = 1e-4,
) -> None:
    """Refuse a derivative (``ForwardMode()`` by default) that differs from a central difference of ``f``.

    error of a sample = |derivative - difference| - |difference(h) - difference(2 h)|, over |difference| + |f| / 100;
    the second term is the uncertainty of the difference itself, so that rounding raises no error.
    ``inputs`` and ``tangents`` are those of the derivative, rows [B,...] of one batch.  Random numbers of ``f``
    (dropout) are the same for both, and are left as they were.
    Raises BeelineError with the worst relative error of a sample where it is above ``tolerance``.  On an accelerator
    the comparison is read later, as other checks of a training step.  Nothing is compared where an engine gathers
    weights in bfloat16, because differences would be rounding.  An objective calls it at the start of a training, where
    ``core.progress.progress()`` is 0.
    """
    if has_narrow_weights():  # a difference would be rounding
        return
    derivative = ForwardMode() if derivative is None else derivative
    devices = [inputs[0].device] if inputs[0].device.type == "cuda" else []

    def same(how: Derivative) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=devices):  # restores the state, so that all have the same dropout
            return how(f, inputs, tangents)

    value, slope = same(derivative)
    fine, coarse = (same(FiniteDifference(step))[1] for step in (h, 2 * h))
    norms = [_norm(part) for part in (slope - fine, fine - coarse, fine, value)]
    error = (norms[0] - norms[1]) / (norms[2] + norms[3] / 100 + 1e-12)
    worst = torch.where(error.isnan(), torch.inf, error).amax()  # of the samples
    finite = torch.isfinite(fine).all()  # values that are not finite are reported as such, by the training itself

    def refused() -> Exception:
        return BeelineError(
            f"{type(derivative).__name__} differs from a finite difference of the network: the relative error is "
            f"{float(worst):.2g} in the worst sample, where at most {tolerance:g} is expected ({_kernels()}); some "
            f"operation of the network has a wrong or no forward derivative: {REMEDY}"
        )

    check_later((worst <= tolerance) | ~finite, refused)


def _precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast, except for weights that an engine gathers in half precision."""
    return contextlib.nullcontext() if has_narrow_weights() else full_precision(device)


def _floats(inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and tangents in float32 or better."""
    points = tuple(map(wide, inputs))
    return points, tuple(v.to(x.dtype) for x, v in zip(points, tangents, strict=True))


def _steps(h: float, points: Sequence[Tensor], directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The steps [B] along the tangents and against them, at most ``h``, that keep times in [0, 1]."""
    first = points[0]
    after = torch.full((first.shape[0],), h, dtype=first.dtype, device=first.device)
    before = after.clone()
    for t, v in zip(points, directions, strict=True):
        if t.ndim == 1:
            speed = torch.where(v == 0, 1.0, v.abs())
            to_one, to_zero = (1 - t).clamp(min=0) / speed, t.clamp(min=0) / speed
            after = torch.minimum(after, torch.where(v == 0, h, torch.where(v > 0, to_one, to_zero)))
            before = torch.minimum(before, torch.where(v == 0, h, torch.where(v > 0, to_zero, to_one)))
    return after, before


def _rows(step: Tensor, like: Tensor) -> Tensor:
    return step.reshape(-1, *(1,) * (like.ndim - 1)).to(like.dtype)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wide(x).flatten(1), dim=1)


def _without_forward(error: Exception) -> bool:
    """Whether torch says that an operation has no forward derivative."""
    return any(text in str(error) for text in ("forward AD", "jvp", "forward mode", "forward-mode"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:160]


def _kernels() -> str:
    """The attention kernels that torch may choose, for messages."""
    cuda = torch.backends.cuda
    allowed = {
        "flash": cuda.flash_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
        "cuDNN": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return "attention kernels in use: " + ", ".join(name for name, on in allowed.items() if on)
