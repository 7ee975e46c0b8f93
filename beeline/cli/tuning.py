"""``beeline fit-solver`` and ``--set sampler=auto``: samplers for a number of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core import modes
from beeline.core.errors import require
from beeline.core.modes import Device
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.distillation.fit_solver import fit_solver
from beeline.runs.bundle import Bundle, find, load, relabel
from beeline.sampling.auto import auto_sampler
from beeline.sampling.guidance.guide import guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import RK4

AUTO = "auto"  # the value of ``--set sampler=auto``


def automatic(current: Sampler, changes: Mapping[str, str]) -> tuple[Sampler, dict[str, str]]:
    """The sampler of ``sampler=auto`` with the guidance and controllers of ``current``, and the remaining changes.

    ``sampler.steps`` is the number of evaluations of the (guided) field, 8 by default.
    """
    rest = {name: value for name, value in changes.items() if name not in ("sampler", "sampler.steps")}
    steps = changes.get("sampler.steps", "8")
    require(
        steps.isdigit() and int(steps) >= 1,
        f"sampler=auto got sampler.steps={steps}, which is its number of evaluations; give a whole number from 1",
    )
    return replace(auto_sampler(int(steps)), guidance=current.guidance, controllers=current.controllers), rest


def fit(
    name: str,
    evaluations: int,
    cond: Any,
    noises: int,
    seed: int,
    out: Path | None,
    sampler: Sampler | None = None,
    device: Device = modes.AUTO,
) -> dict[str, Any]:
    """Fit a sampler to a bundle under its own guidance, and store it in the bundle or in a new one."""
    bundle = load(name, device=device)
    require(noises >= 8, f"--noises {noises} is too few to fit a solver; give a few hundred")
    rng, current = Rng(seed).fork("tune"), sampler or bundle.sampler
    like = bundle.start(range(1))[:1].expand(noises, *([-1] * (bundle.start(range(1)).ndim - 1)))
    known = map_cond(lambda leaf: leaf.to(bundle.device), conditions(bundle, cond, noises, rng.fork("conditions")))
    for parameter in bundle.flow.field.parameters():
        parameter.requires_grad_(False)
    fitted = fit_solver(bundle.flow, evaluations, like=like, rng=rng, cond=known, guidance=current.guidance)
    test = bundle.flow.source.sample(like, rng.fork("test"))
    errors = {}
    with torch.no_grad():
        exact = integrate(
            guidance_for_flow(current.guidance, bundle.flow)(bundle.flow.field, known),
            test,
            torch.linspace(0, 1, 33),
            RK4,
        )
        for title, how in (("fitted", fitted), ("auto", replace(auto_sampler(evaluations), guidance=current.guidance))):
            errors[title] = round(float((how(bundle.flow, test, known) - exact).square().mean().sqrt()), 6)
    chosen = replace(fitted, controllers=current.controllers)
    figures = {"evaluations": evaluations, "noises": noises, "seed": seed, "end point rmse": errors}
    where = out or find(name)
    relabel(replace(bundle, sampler=chosen), tuned=figures).save(where)
    return {"bundle": str(where), "evaluations": chosen.evaluations, "solver": type(chosen.solver).__name__, **errors}


def conditions(bundle: Bundle, cond: Any, n: int, rng: Rng) -> Cond:
    """The given condition for ``n`` samples, or random labels if all conditions are labels."""
    wanted = {} if bundle.modality is None else bundle.modality.conditions
    if cond is not None or not wanted:
        return bundle.condition(cond, n)
    require(
        all("classes" in kind for kind in wanted.values()),
        f"this model takes the conditions {sorted(wanted)}, which are not all labels, and the solver is fitted for one "
        "condition: give it with --condition",
    )
    labels: dict[str, Tensor] = {key: rng.fork(key).integers(kind["classes"], n) for key, kind in wanted.items()}
    return labels
