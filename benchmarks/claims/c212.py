"""Song et al. 2025: with a time for every frame, any part of the history may be given."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import finding, learn, network

METHOD = "Diffusion forcing: a time for every frame"
FRAMES, GIVEN = 4, 2


def history(rng: bl.Rng, n: int) -> torch.Tensor:
    """Sequences x_{i+1} = 0.9 x_i + noise of unit variance, [n, FRAMES, 1]."""
    x = [rng.fork(0).normal(torch.empty(n, 1))]
    for i in range(1, FRAMES):
        x.append(0.9 * x[-1] + 0.19**0.5 * rng.fork(i).normal(torch.empty(n, 1)))
    return torch.stack(x, 1)


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data = bl.Batch(history(rng.fork("data"), 20_000))
    frames = bl.objectives.FlowMatching(times=bl.times.Frames(bl.times.Uniform(), FRAMES, clean=0.2))
    own = learn(network(rng, None, shape=(FRAMES, 1), frames=FRAMES), frames, data, rng.fork("own"), steps=1500)
    shared = learn(
        network(rng, None, shape=(FRAMES, 1)), bl.objectives.FlowMatching(), data, rng.fork("all"), steps=1500
    )
    test = history(rng.fork("test"), 2000)
    start, grid = rng.fork("x0").normal(test), torch.linspace(0, 1, 41)
    free = torch.arange(FRAMES)[None] >= GIVEN

    def forced(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times = torch.where(free, t[:, None], 1.0)
        return own(x, times) * free[..., None]

    def replaced(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        wide = t[:, None, None]
        return torch.where(free[..., None], x, (1 - wide) * start + wide * test)

    first = torch.where(free[..., None], start, test)
    with torch.no_grad():
        made = bl.integrate(forced, first, grid, bl.solvers.HEUN)
        known = bl.integrate(lambda x, t: shared(replaced(x, t), t), start, grid, bl.solvers.HEUN)
    # the first free frame has mean 0.9 and variance 0.19 given the last known one
    errors = []
    for x in (known, made):
        rest = (x[:, GIVEN] - 0.9 * test[:, GIVEN - 1]) / 0.19**0.5
        errors.append(float(rest.mean().abs() + (rest.var() - 1).abs()))
    return [finding("error of mean and variance of the next frame given two: own times (figure) against replacing the "
                    "known frames of a model with one time", errors[0], errors[1])]  # fmt: skip
