"""``beeline fit-solver`` and ``--set sampler=auto``: samplers for a number of evaluations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from beeline.cli.console import progress
from beeline.config import build as config
from beeline.core import modes
from beeline.core.errors import require
from beeline.core.modes import Device
from beeline.core.protocols.training import Fit
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.distillation.fit_solver import fit_solver
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Linear
from beeline.runs.bundle import Bundle, find, load, relabel
from beeline.sampling.auto import auto_sampler
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, RK4

AUTO = "auto"  # the value of ``--set sampler=auto``


def automatic(current: Sampler, changes: Mapping[str, str], flow: Flow) -> tuple[Sampler, dict[str, str]]:
    """The sampler of ``sampler=auto`` for a flow, with guidance and controllers of ``current``; the remaining changes.

    ``sampler.steps`` is the number of evaluations of the (guided) field, 8 by default.
    """
    rest = {name: value for name, value in changes.items() if name not in ("sampler", "sampler.steps")}
    steps = changes.get("sampler.steps", "8")
    require(
        steps.isdigit() and int(steps) >= 1,
        f"sampler=auto got sampler.steps={steps}, which is its number of evaluations; give a whole number from 1",
    )
    return replace(suited(flow, int(steps)), guidance=current.guidance, controllers=current.controllers), rest


def suited(flow: Flow, evaluations: int) -> Sampler:
    """``auto_sampler`` for the path and the coupling of a flow."""
    path = flow.path if isinstance(flow.path, AffinePath) else Linear()
    return auto_sampler(evaluations, path=path, independent=flow.independent)


def fit(
    name: str,
    evaluations: int,
    cond: Any,
    noises: int,
    seed: int,
    out: Path | None,
    sampler: Sampler | None = None,
    device: Device = modes.AUTO,
    quiet: bool = True,
    method: str = "Bespoke()",
) -> dict[str, Any]:
    """Fit a sampler to a bundle under its own guidance, and store it in the bundle or in a new one.

    ``method`` is the text of a component of ``fits``.  The result has the errors of the end points on new noise, for
    the fitted sampler, ``auto`` and Euler with as many evaluations.
    """
    require(noises >= 8, f"--noises {noises} is too few to fit a solver; give a few hundred")
    how: Fit = config.parse(method, "fits")
    bundle = load(name, device=device)
    rng, current = Rng(seed).fork("tune"), sampler or bundle.sampler
    like = bundle.start(range(1))[:1].expand(noises, *([-1] * (bundle.start(range(1)).ndim - 1)))
    known = map_cond(lambda leaf: leaf.to(bundle.device), conditions(bundle, cond, noises, rng.fork("conditions")))
    for parameter in bundle.flow.field.parameters():
        parameter.requires_grad_(False)
    begin = time.perf_counter()
    with progress(f"fit of {evaluations} evaluations", how.logged, quiet=quiet or how.logged == 0) as log:
        fitted = fit_solver(
            bundle.flow,
            evaluations,
            like=like,
            rng=rng,
            cond=known,
            guidance=current.guidance,
            method=how,
            log=log,
        )
    seconds = round(time.perf_counter() - begin, 1)
    errors = end_errors(bundle, current, known, bundle.flow.source.sample(like, rng.fork("test")), {
        "fitted": fitted,
        "auto": suited(bundle.flow, evaluations),
        "Euler": Sampler(evaluations, solver=EULER),
    })  # fmt: skip
    chosen = replace(fitted, controllers=current.controllers)
    figures = {"evaluations": evaluations, "noises": noises, "seed": seed, "end point rmse": errors}
    where = out or find(name)
    relabel(replace(bundle, sampler=chosen), tuned=figures).save(where)
    solver = type(chosen.solver).__name__
    return {"bundle": str(where), "evaluations": chosen.evaluations, "solver": solver, "seconds": seconds, **errors}


def end_errors(
    bundle: Bundle, current: Sampler, cond: Cond, x0: Tensor, samplers: Mapping[str, Sampler]
) -> dict[str, float]:
    """The root mean square errors of end points against a fine solver, under the guidance of ``current``."""
    guided = {name: replace(sampler, guidance=current.guidance) for name, sampler in samplers.items()}
    exact = Sampler(32, solver=RK4, guidance=current.guidance)(bundle.flow, x0, cond)
    off = {name: sampler(bundle.flow, x0, cond) - exact for name, sampler in guided.items()}
    return {name: round(float(error.square().mean().sqrt()), 6) for name, error in off.items()}


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
