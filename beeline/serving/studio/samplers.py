"""The samplers that fit a model, found by trial with a network that costs nothing."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from beeline.config.catalogue import CATALOGUE, Setting, makes, member, name_of, settings
from beeline.config.docs import explain
from beeline.core.declared import Wrapping, is_map
from beeline.core.ranges import Range
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.runs.bundle import Bundle
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.serving.hosting.hosts import probe_conditions
from beeline.serving.requests import holds_text
from beeline.solvers.runge_kutta import EULER

MOST = 32  # evaluations that the page compares
EDITS = ("FlowEdit", "SDEdit", "InvertAndSample", "RFInversion", "Inpaint")  # the page offers those of them that fit


class Still(Wrapping, nn.Module):
    """A network with one output for all inputs, and otherwise what the network inside is."""

    def __init__(self, field: nn.Module, out: Tensor):
        super().__init__()
        self.field, self.out = field, out

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        return self.out.expand(len(x), *self.out.shape[1:])


@dataclass(frozen=True, eq=False)
class Trial:
    """One row of a flow whose network costs nothing."""

    bundle: Bundle
    x: Tensor  # [1,*S]
    cond: Cond
    other: Cond  # another condition where there is one

    @staticmethod
    @torch.no_grad()
    def of(bundle: Bundle) -> Trial:
        """A trial of a bundle, after one evaluation of its network."""
        x, two = bundle.start([0]).to(bundle.device), probe_conditions(bundle, 2)
        cond, other = (map_cond(lambda leaf, k=k: leaf[k : k + 1], two) for k in (0, 1))
        seen: list[Tensor] = []
        field: Any = bundle.flow.field
        handle = field.register_forward_hook(lambda module, given, out: seen.append(out))
        try:
            replace(bundle.sampler, steps=bundle.sampler.steps if _fixed(bundle) else 1)(bundle.flow, x, cond)
        finally:
            handle.remove()
        still = replace(bundle, flow=replace(bundle.flow, field=Still(field, seen[0][:1]).eval()))
        return Trial(still, x, cond, other)

    def fits(self, sampler: Sampler) -> bool:
        """Whether the flow can be sampled so."""
        return _works(lambda: sampler.seeded([0], 0)(self.bundle.flow, self.x, self.cond))

    def edits(self, method: Any, masked: bool) -> bool:
        """Whether data can be edited so."""
        region = GivenRegion(torch.ones(self.x.shape[-2:])) if masked else None
        return _works(
            lambda: edited(
                method, self.bundle.flow, self.x, self.cond, self.other, self.bundle.sampler.seeded([0], 0),
                Rng(0), region=region, preserve=None, span=1.0,
            )
        )  # fmt: skip


def _works(call: Any) -> bool:
    try:
        call()
    except Exception:  # components raise what they meet where they do not fit
        return False
    return True


def _fixed(bundle: Bundle) -> bool:
    return bundle.flow.trained is not None and bundle.flow.trained.fixed


def fields(trial: Trial, most: int) -> list[dict[str, Any]]:
    """The settings of a sampler with their ranges, defaults and the components that fit."""
    own, bundle = trial.bundle.sampler, trial.bundle
    fixed = _fixed(bundle)
    tried = replace(own, steps=own.steps if fixed else min(own.steps, 2))
    steps = {
        "name": "steps",
        "description": "steps from noise to data",
        "whole": True,
        "least": own.steps if fixed else 1,
        "most": own.steps if fixed else most,
        "default": own.steps,
    }
    parts = [
        {
            "name": name,
            "description": words,
            "default": shown(part),
            "options": [
                option(full, made)
                for full, made in every(kind)
                if trial.fits(replace(tried, **{name: made}))  # the steps that are tried are few
            ],
        }
        for name, kind, part, words in (
            ("solver", "solvers", own.solver, "how a step is taken"),
            ("schedule", "schedules", own.schedule, "times of the steps"),
        )
    ]
    guided = bool(bundle.modality.conditions) and trial.fits(replace(tried, guidance=CFG(2.0)))
    scale = {
        "name": "guidance_scale",
        "description": "how strongly samples follow the condition; 1 is no guidance",
        "whole": False,
        "least": 0,
        "most": 10,
        "default": vars(own.guidance).get("scale", 1),
    }
    return [steps, *parts, *([scale] if guided else [])]


def budgets(trial: Trial) -> list[dict[str, Any]]:
    """Samplers for growing numbers of evaluations, with those numbers: EULER for few, and that of the bundle."""
    own, found = trial.bundle.sampler, {}
    for solver in (own.solver, EULER) if is_map(trial.bundle.flow.field) else (EULER, own.solver):
        for steps in (own.steps,) if _fixed(trial.bundle) else range(1, MOST + 1):
            sampler = replace(own, steps=steps, solver=solver)
            count = sampler.evaluations
            if count is None or count > MOST:
                break
            if count not in found and (solver is own.solver or count < 4) and trial.fits(sampler):
                other = {} if solver is own.solver else {"solver": shown(solver)}
                found[count] = {"evaluations": count, "sampler": {"steps": steps} | other}
    return [found[count] for count in sorted(found)]


def edits(trial: Trial) -> list[dict[str, Any]]:
    """The edits of pictures that fit, and whether they need a mask."""
    found = []
    for name in EDITS:
        method = member(f"edits.{name}")()
        free = trial.edits(method, masked=False)
        if free or trial.edits(method, masked=True):
            found.append({"name": name, "what": explain("edits", name).sentence, "mask": not free})
    return found


def every(kind: str) -> Iterator[tuple[str, Any]]:
    """The components of a kind that can be made without a text, each with its full name."""
    for name in CATALOGUE[kind]:
        full = f"{kind}.{name}"
        made = simplest(full)
        if made is not None and not holds_text(made):
            yield full, made


def simplest(full: str) -> Any:
    """A component with its defaults, and for a component that it needs the first of its kind; None without these."""
    part = member(full)
    if not makes(full):
        return part
    given: dict[str, Any] = {}
    for name, setting in settings(part).items():
        if setting.needed:
            first = (simplest(f"{kind}.{one}") for kind in setting.kinds for one in CATALOGUE[kind])
            given[name] = Rng(0) if setting.hint is Rng else next((one for one in first if one is not None), None)
            if given[name] is None:
                return None
    return part(**given)


def option(full: str, made: Any) -> dict[str, Any]:
    """A component as the page offers it: its name, what it does, and its settings."""
    kind, _, name = full.partition(".")
    page = explain(kind, name)
    notes = {row[0]: row[3] for row in page.settings}
    found: list[dict[str, Any]] = []
    for setting in settings(member(full)).values() if makes(full) else ():
        value = vars(made)[setting.name]
        number = numeric(setting)
        if number is not None and isinstance(value, int | float):
            found.append({"name": setting.name, "description": notes.get(setting.name, ""), "default": value, **number})
        elif setting.needed:
            found.append({"name": setting.name, "text": shown(value)})
    return {"name": name, "what": page.sentence.partition(": ")[2] or page.sentence, "settings": found}


def numeric(setting: Setting) -> Mapping[str, Any] | None:
    """The range of a setting that is one number, or None; bounds that do not belong to it are ``above``, ``below``."""
    base, *notes = typing.get_args(setting.hint) if typing.get_origin(setting.hint) is Annotated else (setting.hint,)
    if base not in (int, float):
        return None
    allowed = next((note for note in notes if isinstance(note, Range)), Range())
    every = {"least": allowed.least, "most": allowed.most, "above": allowed.above, "below": allowed.below}
    bounds = {name: value for name, value in every.items() if value is not None}
    return {"whole": base is int, **bounds}


def shown(part: Any) -> str:
    """A component as text, as a request names it, with the settings that are not at their default."""
    full = name_of(part)
    if full is None:  # a plain value, or a component of the user's own
        return repr(part)
    name = full.partition(".")[2]
    if not makes(full):
        return name
    known = settings(member(full)).values()
    given = [f"{one.name}={shown(vars(part)[one.name])}" for one in known if vars(part)[one.name] != one.default]
    return f"{name}({', '.join(given)})"
