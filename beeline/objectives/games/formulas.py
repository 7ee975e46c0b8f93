"""The formulas of score games as functions of tensors.

``made`` [B,*S] are samples of the student with a graph, noised to x_t;  D_fake and D_T [B,*S] are the expected data of
the student's and of the teacher's distribution at x_t.  On the straight path D = x_t + (1-t) v, and the scores of both
differ by t (D_fake - D_T) / (1-t)^2.  Losses are [B], means over coordinates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from beeline.core.types import expand_time


def data_difference(v_fake: Tensor, v_teacher: Tensor, t: Tensor) -> Tensor:
    """D_fake - D_T [B,*S] from velocities on the straight path.

    >>> data_difference(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.25]))
    tensor([[0.7500, 0.7500]])
    """
    return (1 - expand_time(t, v_fake)) * (v_fake - v_teacher)


def score_difference(d_fake: Tensor, d_teacher: Tensor, t: Tensor) -> Tensor:
    """The difference of the scores [B,*S] on the straight path, t (D_fake - D_T) / (1-t)^2."""
    t = expand_time(t, d_fake)
    return t * (d_fake - d_teacher) / (1 - t).square()


def mean_over(x: Tensor) -> Tensor:
    """[B]: the mean over all coordinates."""
    return x.flatten(1).mean(1)


def towards(made: Tensor, direction: Tensor) -> Tensor:
    """[B]: |made - sg(made - direction)|^2 / 2, whose gradient in ``made`` is ``direction`` / D.

    >>> x = torch.zeros(1, 2, requires_grad=True)
    >>> torch.autograd.grad(towards(x, torch.ones(1, 2)).sum(), x)[0]
    tensor([[0.5000, 0.5000]])
    """
    return mean_over((made - (made - direction).detach()).square()) / 2


def normaliser(made: Tensor, d_teacher: Tensor, least: float) -> Tensor:
    """w = 1 / mean |made - D_T| [B,1,...], at most 1 / ``least``: the mean is zero where the student is perfect."""
    size = mean_over((made - d_teacher).abs()).clamp(min=least).detach()
    return expand_time(1 / size, made)


def noise_difference(d_fake: Tensor, d_teacher: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """The difference of the expected noises E_T - E_fake = a (D_fake - D_T) / b, on any affine path."""
    return signal / noise * (d_fake - d_teacher)


def density_ratio(log_ratio: Tensor, least: float = 0.1, most: float = 20.0) -> Tensor:
    """r = exp(d) [B], with d in [-10, 10] and r in [least, most]."""
    return log_ratio.clamp(-10, 10).exp().clamp(least, most)


# h(r) = r^2 f''(r) of D_f(teacher | student) = E_student f(r)


def reverse_kl(r: Tensor) -> Tensor:
    """h of f = -log r."""
    return torch.ones_like(r)


def forward_kl(r: Tensor) -> Tensor:
    """h of f = r log r."""
    return r


def jensen_shannon(r: Tensor) -> Tensor:
    """h of f = r log r - (r+1) log((r+1)/2)."""
    return r / (1 + r)


def softened_reverse_kl(r: Tensor) -> Tensor:
    """h of f = (r+1) log((r+1)/(2r))."""
    return 1 / (1 + r)


def squared_hellinger(r: Tensor) -> Tensor:
    """h of f = 4 (1 - sqrt r)."""
    return r.sqrt()


def jeffreys(r: Tensor) -> Tensor:
    """h of f = (r-1) log r."""
    return 1 + r


def neyman(r: Tensor) -> Tensor:
    """h of f = 1 / (2 r)."""
    return 1 / r


# losses with a gradient through the predictions, whose weights are frozen


def score_identity(made: Tensor, d_fake: Tensor, d_teacher: Tensor, alpha: float) -> Tensor:
    """[B]: (1 - alpha) |d|^2 + d . (D_fake - made),  d = D_T - D_fake.

    For an exact D_fake and alpha = 1/2, twice its gradient is that of E |d|^2, the Fisher divergence.
    """
    d = d_teacher - d_fake
    return mean_over((1 - alpha) * d.square() + d * (d_fake - made))


def fisher(made: Tensor, d_fake: Tensor, d_teacher: Tensor, correction: float) -> Tensor:
    """[B]: |d|^2 / 2 + correction d . (D_fake - made),  d = D_T - D_fake.

    For an exact D_fake and correction 1 its gradient is that of E |d|^2 / 2; with 0 the change of D_fake is left out.
    """
    d = d_teacher - d_fake
    return mean_over(d.square() / 2 + correction * d * (d_fake - made))


def score_implicit(made: Tensor, d_fake: Tensor, d_teacher: Tensor, scale: float) -> Tensor:
    """[B]: -d'(y) . (D_fake - made),  y = D_fake - D_T,  d(y) = (sqrt(|y|^2 + c^2) - c) / D with c = scale sqrt(D).

    For an exact D_fake its gradient is that of E d(y) over states that are held fixed.
    """
    y = d_fake - d_teacher
    flat = y.flatten(1)
    size = (flat.square().sum(1) + scale**2 * flat.shape[1]).sqrt()
    return -mean_over(y * (d_fake - made) / expand_time(size, y))


def augmentation(strong: Tensor, weak: Tensor, scale: float) -> Tensor:
    """-(scale - 1) (D_T(c) - D_T(null)) [B,*S]: the part of a guided gradient that needs no fake network."""
    return -(scale - 1) * (strong - weak)


# adversarial losses on logits d [B], high for real samples


def softplus_critic(real: Tensor, made: Tensor) -> Tensor:
    """softplus(-d(real)) + softplus(d(made)); its minimum is the log ratio of the densities."""
    return F.softplus(-real) + F.softplus(made)


def softplus_student(made: Tensor) -> Tensor:
    """softplus(-d(made))."""
    return F.softplus(-made)


def hinge_critic(real: Tensor, made: Tensor) -> Tensor:
    """relu(1 - d(real)) + relu(1 + d(made))."""
    return F.relu(1 - real) + F.relu(1 + made)


def hinge_student(made: Tensor) -> Tensor:
    """-d(made)."""
    return -made


def r1(real: Tensor, moved: Tensor, size: float) -> Tensor:
    """[B]: (d(x) - d(x + size n))^2 / size^2, n ~ N(0, I);  |grad d|^2 to the second order in ``size``."""
    return (real - moved).square() / size**2
