"""Optimizers as values: settings that can be saved and compared, and a ``build`` that makes the torch optimizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from beeline.core.errors import extra, require
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.training.optim.parameter_groups import split


class OptimizerBase:
    """Defaults of the Optimizer protocol: it needs a learning rate and does not average."""

    lr_free: ClassVar[bool] = False
    averages: ClassVar[bool] = False


@dataclass(frozen=True)
class AdamW(OptimizerBase):
    """Adam with decoupled weight decay; fused where the device has it.

    m <- b1 m + (1-b1) g,  q <- b2 q + (1-b2) g^2,  w <- w - lr (m' / (sqrt(q') + eps) + decay w)
    Assumes nothing.  Decay acts on weights of linear and convolutional layers; gains, biases and embeddings are left
    out.
    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).

    >>> type(AdamW().build([torch.nn.Parameter(torch.ones(1))], 1e-3)).__name__
    'AdamW'
    """

    betas: tuple[float, float] = (0.9, 0.99)  # 0.999 for very long runs
    decay: float = 0.0  # 0.01 to 0.1 for large networks
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)
        require(
            self.decay >= 0 and self.eps > 0,
            f"AdamW got decay={self.decay}, eps={self.eps}; decay is 0 or more, eps above 0",
        )

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            decayed(parameters, self.decay, matrices), lr=lr, betas=self.betas, eps=self.eps, **kernel(parameters)
        )


@dataclass(frozen=True)
class Muon(OptimizerBase):
    """Momentum whose matrices are made orthogonal before they are used; Adam for gains, biases and embeddings.

    M <- momentum M + G,  W <- W - 0.2 lr sqrt(max(rows, columns)) U V',  with M = U S V' by Newton-Schulz steps
    Assumes that one lr suits both kinds of parameters, which the factor 0.2 sqrt(max) arranges: it gives an update
    the size that Adam's has.  Kernels of convolutions are matrices of (out, everything else).
    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025 (arXiv 2502.16982) for the factor.

    >>> Muon().build([torch.nn.Parameter(torch.ones(2, 2))], 1e-3).param_groups[0]["momentum"]
    0.95
    """

    momentum: float = 0.95  # 0 to below 1
    decay: float = 0.0  # 0.01 to 0.1 for large networks
    steps: int = 5  # Newton-Schulz steps
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam for the vectors

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)
        require(
            0 <= self.momentum < 1 and self.steps >= 1 and self.decay >= 0,
            f"Muon got momentum={self.momentum}, steps={self.steps}, decay={self.decay}; "
            "momentum is from 0 to below 1, steps from 1, decay from 0",
        )

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import MuonStepper

        return MuonStepper(parameters, lr, self.momentum, self.decay, self.steps, self.betas, matrices)


@dataclass(frozen=True)
class DoG(OptimizerBase):
    """Gradient descent that finds its own lr from how far it has gone.

    rate_n = lr max_m |w_m - w_0| / sqrt(sum_m |g_m|^2)
    Assumes ``lr`` 1 (a constant; a cooldown does no harm) and an average of the weights, which is what its theory
    is about.
    Source: Ivgi, Hinder and Carmon 2023 (arXiv 2302.12022).

    >>> DoG().lr_free
    True
    """

    first: float = 1e-6  # length of the first step, relative to 1 + |w_0|
    layers: bool = False  # L-DoG: a lr of its own for every parameter tensor
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.first > 0, f"DoG got first={self.first}; the first step has a length above 0: 1e-6 is usual")

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import DoGStepper

        return DoGStepper(parameters, lr, self.first, self.layers)


@dataclass(frozen=True)
class DAdaptSGD(OptimizerBase):
    """Dual averaging that finds its own lr: D-Adaptation.

    s <- s + d g,  w = w_0 - s / sqrt(sum |g|^2),  d <- max(d, (gamma |s|^2 - sum_i gamma_i d_i^2 |g_i|^2) / (2 |s|))
    Assumes ``lr`` 1 (a constant; a cooldown does no harm) and an average of the weights.  d is a lower bound of the
    distance |w_0 - w*| for convex losses, so it never exceeds it.
    Source: Defazio and Mishchenko 2023 (arXiv 2301.07733), algorithm 1.

    >>> DAdaptSGD().lr_free
    True
    """

    first: float = 1e-6  # first guess of the distance, above 0
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.first > 0, f"DAdaptSGD got first={self.first}; a distance is above 0: 1e-6 is usual")

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import DAdaptStepper

        return DAdaptStepper(parameters, lr, self.first)


@dataclass(frozen=True)
class Prodigy(OptimizerBase):
    """Adam that finds its own lr from how far it has gone.

    rate_n = lr d_n, where d_n estimates the distance to the solution and only grows
    Assumes ``lr`` 1 (a constant or a cooldown).
    Source: Mishchenko and Defazio 2023 (arXiv 2306.06101); the library prodigyopt.

    >>> Prodigy().lr_free
    True
    """

    betas: tuple[float, float] = (0.9, 0.99)
    decay: NonNegative = 0.0
    first: Positive = 1e-6  # first guess of the distance
    factor: Positive = 1.0  # 0.5 to 2, times the distance
    lr_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = extra("prodigyopt", "optim").Prodigy(
            decayed(parameters, self.decay, matrices), lr=lr, betas=self.betas, d0=self.first, d_coef=self.factor
        )
        return made


@dataclass(frozen=True)
class ScheduleFree(OptimizerBase):
    """AdamW that averages its own iterates instead of lowering the lr.

    y = (1 - b1) z + b1 x,  z <- z - lr g(y) / sqrt(q),  x <- (1 - 1/n) x + z/n;  x is what is used afterwards
    Assumes a constant lr and no other average: set training.ema to none.
    Source: Defazio et al. 2024 (arXiv 2405.15682); the library schedulefree.

    >>> ScheduleFree().averages
    True
    """

    betas: tuple[float, float] = (0.9, 0.99)
    decay: NonNegative = 0.0
    averages: ClassVar[bool] = True  # its weights in use are an average

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        check_betas(self.betas)

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = extra("schedulefree", "optim").AdamWScheduleFree(
            decayed(parameters, self.decay, matrices), lr=lr, betas=self.betas
        )
        return made


def check_betas(betas: tuple[float, ...]) -> None:
    """Refuse decay rates of moments outside [0, 1)."""
    require(
        len(betas) == 2 and all(0 <= b < 1 for b in betas),
        f"betas are {betas}; they are two numbers from 0 to below 1: (0.9, 0.99) is usual",
    )


def decayed(
    parameters: Sequence[nn.Parameter], decay: float, matrices: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups: matrices with weight decay, all others without."""
    wide, thin = split(parameters, matrices)
    groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
    if decay == 0:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def in_use(optimizer: Any, use: bool) -> None:
    """Tell a torch optimizer that averages by itself whether the weights are used or trained."""
    optimizer.eval() if use else optimizer.train()


def kernel(parameters: Sequence[nn.Parameter]) -> dict[str, bool]:
    """The fast form of torch's own optimizers: fused, or one kernel for many tensors."""
    fit = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if fit else {"foreach": True}
