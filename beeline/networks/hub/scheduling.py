"""Grids of pretrained pipelines: how each sets the scheduler of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def linear_mu(scheduler: Any, tokens: int) -> float:
    """The logarithm of the shift, linear in the number of tokens, with the constants of the configuration."""
    c = scheduler.config
    low, high = c.get("base_image_seq_len", 256), c.get("max_image_seq_len", 4096)
    base, top = c.get("base_shift", 0.5), c.get("max_shift", 1.15)
    return float(base + (top - base) * (tokens - low) / (high - low))


def own_grid(scheduler: Any, steps: int, tokens: int) -> None:
    """The scheduler's own grid; a multistep scheduler has no other."""
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    scheduler.set_timesteps(steps, **({"mu": linear_mu(scheduler, tokens)} if dynamic else {}))


def grid_to_last_step(scheduler: Any, steps: int, tokens: int) -> None:
    """Equal steps from sigma = 1 to 1 / steps, before the shift."""
    with_mu(linear_mu)(scheduler, steps, tokens)


def with_mu(mu: Callable[[Any, int], float]) -> Callable[[Any, int, int], None]:
    """As ``grid_to_last_step``, with another logarithm of the shift."""

    def set_times(scheduler: Any, steps: int, tokens: int) -> None:
        dynamic = {"mu": mu(scheduler, tokens)} if scheduler.config.get("use_dynamic_shifting", False) else {}
        if scheduler.config.get("use_flow_sigmas", False):
            scheduler.set_timesteps(steps, **dynamic)  # multistep schedulers take no sigmas
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **dynamic)

    return set_times


def trained_grid(scheduler: Any, steps: int, tokens: int) -> None:
    """Steps of the training grid from sigma = 1 to its lowest noise level, or the shifted ones if set (Bria)."""
    if scheduler.config.get("use_dynamic_shifting", False):
        grid_to_last_step(scheduler, steps, tokens)
        return
    n = scheduler.config.num_train_timesteps
    levels = np.linspace(1, n, n, dtype=np.float32)[::-1] / n
    scheduler.set_timesteps(sigmas=levels[np.linspace(0, n - 1, steps).astype(int)])


def shifted_by_e(scheduler: Any, steps: int, tokens: int) -> None:
    """The scheduler's own grid, with a shift of e where it depends on the size (EasyAnimate)."""
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    scheduler.set_timesteps(steps, **({"mu": 1} if dynamic else {}))


def flux2_grid(scheduler: Any, steps: int, tokens: int) -> None:
    """Equal steps, with a shift that depends on tokens and steps (FLUX.2)."""
    slow = 0.00016927 * tokens + 0.45666666
    fast = 8.73809524e-05 * tokens + 1.89833333
    mu = slow if tokens > 4300 else slow + (slow - fast) / 190 * (steps - 200)
    with_mu(lambda scheduler, tokens: mu)(scheduler, steps, tokens)


def cogview4_mu(scheduler: Any, tokens: int) -> float:
    """The shift of CogView4, linear in the square root of the number of tokens."""
    c = scheduler.config
    share = math.sqrt(tokens / c.get("base_image_seq_len", 256))
    return float(share * c.get("max_shift", 0.75) + c.get("base_shift", 0.25))


def cogview4_grid(scheduler: Any, steps: int, tokens: int) -> None:
    """Whole-number times for the network, and shifted noise levels for the solver (CogView4)."""
    times = np.linspace(scheduler.config.num_train_timesteps, 1.0, steps).astype(np.int64).astype(np.float32)
    levels = times / scheduler.config.num_train_timesteps
    scheduler.set_timesteps(sigmas=levels, timesteps=times, mu=cogview4_mu(scheduler, tokens))


def linear_quadratic(scheduler: Any, steps: int, tokens: int, noise: float = 0.025) -> None:
    """Half of the steps linear down to 1 - ``noise``, the rest quadratic (Mochi)."""
    half = steps // 2
    first = [i * noise / half for i in range(half)]
    difference, rest = half - noise * steps, steps - half
    a = difference / (half * rest**2)
    b = noise / half - 2 * difference / rest**2
    second = [a * i * i + b * i + a * half * half for i in range(half, steps)]
    scheduler.set_timesteps(sigmas=np.array([1.0 - v for v in first + second]))
