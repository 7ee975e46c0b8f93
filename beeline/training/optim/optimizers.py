"""Optimizer settings that can be saved and compared; ``build`` creates the torch optimizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from beeline.core.errors import extra, require
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.training.optim.parameter_groups import split


class OptimizerBase:
    """Defaults of the Optimizer protocol: it needs a learning rate and does not average its weights."""

    lr_free: ClassVar[bool] = False
    averages: ClassVar[bool] = False


@dataclass(frozen=True)
class AdamW(OptimizerBase):
    """Adam with decoupled weight decay; the fused kernel where the device has it.

    m <- b1 m + (1-b1) g,  q <- b2 q + (1-b2) g^2,  w <- w - lr (m' / (sqrt(q') + eps) + weight_decay w)
    Weight decay applies to the weights of linear and convolutional layers, not to gains, biases and embeddings.
    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).

    >>> type(AdamW().build([torch.nn.Parameter(torch.ones(1))], 1e-3)).__name__
    'AdamW'
    """

    betas: tuple[float, float] = (0.9, 0.99)  # 0.999 for very long runs
    weight_decay: float = 0.0  # 0.01 to 0.1 for large networks
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)
        require(
            self.weight_decay >= 0 and self.eps > 0,
            f"AdamW got weight_decay={self.weight_decay}, eps={self.eps}; give a weight decay of 0 or more and an eps "
            "above 0",
        )

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            decayed(parameters, self.weight_decay, matrices),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            **kernel(parameters),
        )


@dataclass(frozen=True)
class Muon(OptimizerBase):
    """Momentum with orthogonalised updates for matrices; Adam for gains, biases and embeddings.

    M <- momentum M + G,  W <- W - 0.2 lr sqrt(max(rows, columns)) U V',  with M = U S V' by Newton-Schulz steps
    Assumes that one learning rate suits both groups of parameters: the factor 0.2 sqrt(max) scales an update to the
    size of Adam's.  Convolution kernels are reshaped to (out, everything else).
    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025 (arXiv 2502.16982) for the factor.

    >>> Muon().build([torch.nn.Parameter(torch.ones(2, 2))], 1e-3).param_groups[0]["momentum"]
    0.95
    """

    momentum: float = 0.95  # 0 to below 1
    weight_decay: float = 0.0  # 0.01 to 0.1 for large networks
    steps: int = 5  # Newton-Schulz steps
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam for the vectors

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)
        require(
            0 <= self.momentum < 1 and self.steps >= 1 and self.weight_decay >= 0,
            f"Muon got momentum={self.momentum}, steps={self.steps}, weight_decay={self.weight_decay}; "
            "give 0 <= momentum < 1, at least 1 step and a weight decay of 0 or more",
        )

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import MuonStepper

        return MuonStepper(parameters, lr, self.momentum, self.weight_decay, self.steps, self.betas, matrices)


@dataclass(frozen=True)
class DoG(OptimizerBase):
    """SGD whose step size is the distance from the initial weights over the gradient norms (distance over gradients).

    w_{n+1} = w_n - eta_n g_n,  eta_n = lr max_m |w_m - w_0| / sqrt(sum_m |g_m|^2)
    Assumes a learning rate of 1 (constant, or with a cooldown) and averaged weights, for which its theory holds.
    Source: Ivgi, Hinder and Carmon 2023 (arXiv 2302.12022).

    >>> DoG().lr_free
    True
    """

    first: float = 1e-6  # length of the first step, relative to 1 + |w_0|
    layers: bool = False  # L-DoG: a separate step size for every parameter tensor
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            self.first > 0, f"DoG got first={self.first}; the length of the first step has to be above 0: give 1e-6"
        )

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import DoGStepper

        return DoGStepper(parameters, lr, self.first, self.layers)


@dataclass(frozen=True)
class DAdaptSGD(OptimizerBase):
    """Dual averaging with an estimated step size (D-Adaptation).

    s <- s + d g,  w = w_0 - s / sqrt(sum |g|^2),  d <- max(d, (gamma |s|^2 - sum_i gamma_i d_i^2 |g_i|^2) / (2 |s|))
    Assumes a learning rate of 1 (constant, or with a cooldown) and averaged weights.  For convex losses d is a lower
    bound of the distance |w_0 - w*|.
    Source: Defazio and Mishchenko 2023 (arXiv 2301.07733), algorithm 1.

    >>> DAdaptSGD().lr_free
    True
    """

    first: float = 1e-6  # initial estimate of the distance, above 0
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.first > 0, f"DAdaptSGD got first={self.first}; the initial distance has to be above 0: give 1e-6")

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import DAdaptStepper

        return DAdaptStepper(parameters, lr, self.first)


@dataclass(frozen=True)
class DAdaptAdam(OptimizerBase):
    """Adam with an estimated step size (D-Adaptation).

    m <- b1 m + (1-b1) d g,  q <- b2 q + (1-b2) g^2,  w <- w - m / (sqrt(q) + eps) - weight_decay d w,
    s <- b3 s + (1-b3) d g,  r <- b3 r + (1-b3) d g . s / (sqrt(q) + eps),  b3 = sqrt(b2),
    d <- max(d, r / ((1-b3) |s|_1)),  where r takes s and q of the step before
    Assumes a learning rate of 1 (with warm-up and cooldown, or constant), which multiplies d.
    Source: Defazio and Mishchenko 2023 (arXiv 2301.07733), its Adam form.

    >>> DAdaptAdam().lr_free
    True
    """

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    eps: Positive = 1e-8
    first: Positive = 1e-6  # initial estimate of the distance
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import DAdaptAdamStepper

        groups = decayed(parameters, self.weight_decay, matrices)
        return DAdaptAdamStepper(groups, lr, self.betas, self.eps, self.first)


@dataclass(frozen=True)
class Prodigy(OptimizerBase):
    """Adam with an estimated step size (Prodigy).

    eta_n = lr d_n, where d_n is a non-decreasing estimate of the distance to the solution
    Assumes a learning rate of 1 (constant, or with a cooldown).
    Source: Mishchenko and Defazio 2023 (arXiv 2306.06101); the library prodigyopt.

    >>> Prodigy().lr_free
    True
    """

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    first: Positive = 1e-6  # initial estimate of the distance
    factor: Positive = 1.0  # multiplies the distance; 0.5 to 2
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = extra("prodigyopt", "optim").Prodigy(
            decayed(parameters, self.weight_decay, matrices), lr=lr, betas=self.betas, d0=self.first, d_coef=self.factor
        )
        return optimizer


@dataclass(frozen=True)
class ScheduleFree(OptimizerBase):
    """AdamW that averages its iterates instead of decaying the learning rate (schedule-free).

    y = (1 - b1) z + b1 x,  z <- z - lr g(y) / sqrt(q),  x <- (1 - 1/n) x + z/n;  evaluation uses x
    Assumes a constant learning rate and no other average: set training.ema to none.
    Source: Defazio et al. 2024 (arXiv 2405.15682); the library schedulefree.

    >>> ScheduleFree().averages
    True
    """

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = extra("schedulefree", "optim").AdamWScheduleFree(
            decayed(parameters, self.weight_decay, matrices), lr=lr, betas=self.betas
        )
        return optimizer


def check_betas(betas: tuple[float, ...]) -> None:
    """Refuse decay rates of the moments outside [0, 1)."""
    require(
        len(betas) == 2 and all(0 <= b < 1 for b in betas),
        f"betas are {betas}; they are two decay rates from 0 to below 1: give two, such as (0.9, 0.99)",
    )


def decayed(
    parameters: Sequence[nn.Parameter], weight_decay: float, matrices: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups: matrices with weight decay, all others without."""
    chosen, others = split(parameters, matrices)
    groups = [{"params": chosen, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if weight_decay == 0:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def in_use(optimizer: Any, use: bool) -> None:
    """Switch a torch optimizer that averages its weights between evaluation (``use``) and training."""
    optimizer.eval() if use else optimizer.train()


def kernel(parameters: Sequence[nn.Parameter]) -> dict[str, bool]:
    """Arguments that select the fast implementation of torch's optimizers: fused, else foreach."""
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if fused else {"foreach": True}
