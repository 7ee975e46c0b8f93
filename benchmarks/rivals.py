"""Samplers of other libraries on fields of Beeline, with a given number of evaluations."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
"""(x [B,*S], t [B]) -> velocity, in our convention."""

Sample = Callable[[Field, Tensor, int], Tensor]
"""(field, x0, evaluations) -> x1."""


def diffusers_flow(name: str, per_step: int) -> Sample:
    """A flow-matching scheduler of diffusers with uniform noise levels; sigma = 1 - t, with opposite velocity."""

    def sample(f: Field, x: Tensor, evaluations: int) -> Tensor:
        import numpy as np

        steps = evaluations // per_step
        scheduler = getattr(importlib.import_module("diffusers"), name)()
        if per_step == 1:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist())
        else:
            scheduler.set_timesteps(steps)
        return _scheduled(f, x, scheduler)

    return sample


def diffusers_multistep(name: str, **settings: Any) -> Sample:
    """A multistep scheduler of diffusers with unshifted flow noise levels."""

    def sample(f: Field, x: Tensor, evaluations: int) -> Tensor:
        maker = getattr(importlib.import_module("diffusers"), name)
        scheduler = maker(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, **settings)
        scheduler.set_timesteps(evaluations)
        return _scheduled(f, x, scheduler)

    return sample


def _scheduled(f: Field, x: Tensor, scheduler: Any) -> Tensor:
    for i, step in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        v = f(x, torch.full((len(x),), 1 - sigma, dtype=x.dtype))
        x = scheduler.step(-v, step, x).prev_sample.to(x.dtype)
    return x


def odeint(method: str, per_step: int) -> Sample:
    """A fixed-step method of torchdiffeq."""

    def sample(f: Field, x: Tensor, evaluations: int) -> Tensor:
        from torchdiffeq import odeint as solve

        steps = evaluations // per_step
        times = torch.tensor([0.0, 1.0], dtype=x.dtype)
        return solve(_spread(f, x), x, times, method=method, options={"step_size": 1 / steps})[-1]

    return sample


def flow_matching(method: str, per_step: int) -> Sample:
    """ODESolver of flow_matching."""

    def sample(f: Field, x: Tensor, evaluations: int) -> Tensor:
        from flow_matching.solver import ODESolver

        solver = ODESolver(velocity_model=lambda x, t: _spread(f, x)(t, x))
        return solver.sample(x_init=x, step_size=per_step / evaluations, method=method)

    return sample


def torchcfm(method: str, per_step: int) -> Sample:
    """torchcfm, whose examples integrate with torchdiffeq."""

    def sample(f: Field, x: Tensor, evaluations: int) -> Tensor:
        importlib.import_module("torchcfm")
        return odeint(method, per_step)(f, x, evaluations)

    return sample


def _spread(f: Field, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, x: f(x, torch.as_tensor(t, dtype=x.dtype).expand(len(x)).contiguous())


def rivals() -> dict[str, tuple[int, Sample]]:
    """Name -> (evaluations per step, sampler)."""
    return {
        "diffusers Euler": (1, diffusers_flow("FlowMatchEulerDiscreteScheduler", 1)),
        "diffusers Heun": (2, diffusers_flow("FlowMatchHeunDiscreteScheduler", 2)),
        "diffusers DPM-Solver++ 2M": (1, diffusers_multistep("DPMSolverMultistepScheduler")),
        "diffusers UniPC": (1, diffusers_multistep("UniPCMultistepScheduler")),
        "diffusers DEIS": (1, diffusers_multistep("DEISMultistepScheduler")),
        "flow_matching midpoint": (2, flow_matching("midpoint", 2)),
        "flow_matching rk4": (4, flow_matching("rk4", 4)),
        "torchdiffeq midpoint": (2, odeint("midpoint", 2)),
        "torchdiffeq heun2": (2, odeint("heun2", 2)),
        "torchcfm through torchdiffeq (euler)": (1, torchcfm("euler", 1)),
    }
