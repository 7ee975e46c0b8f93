"""Scores of a bundle against the held-out part of a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beeline.config import build as config
from beeline.core.declared import is_map
from beeline.core.rng import Rng
from beeline.couplings.basic import Independent
from beeline.data.modality import complete
from beeline.evaluation.evaluate import Extras, evaluate
from beeline.evaluation.heldout import HeldOut
from beeline.evaluation.metrics import Energy, SlicedWasserstein
from beeline.evaluation.scores import Report
from beeline.evaluation.trajectory import Likelihood
from beeline.objectives.heads import settings_of
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode

if TYPE_CHECKING:  # a bundle imports this module to evaluate itself
    from beeline.runs.bundle import Bundle


@dataclass(frozen=True)
class RealData:
    """The data set that flows are compared with, read once."""

    name: str
    raw: Any  # training part, to which evaluators are fitted; None fits them to the held-out part
    held: Any  # the held-out part

    @staticmethod
    def of(source: Any) -> RealData:
        """Both parts of a data set, or as many of the data as are encoded at once."""
        modality = complete(source).modality()
        raw, held = (modality.subset(part) for part in source.load())
        return RealData(f"held-out part of {source!r}", raw, held)


def score(
    bundle: Bundle,
    real: RealData,
    n: int,
    rng: Rng,
    *,
    sampler: Sampler | None = None,
    name: str = "",
    extras: Extras | None = None,
    within: Callable[[Extras], Extras] = lambda usual: usual,
) -> Report:
    """Scores of a bundle on ``n`` samples against the held-out data; by its own sampler unless another one is given.

    ``extras`` selects costly scores; by default trajectories and likelihood are included where they are defined,
    as far as ``within`` allows.
    """
    raw, held = real.raw, real.held
    held_out = None
    if extras is None:
        held_out = held_out_loss(bundle, raw, held)
        likely = has_trajectories(bundle) and bundle.flow.source.gaussian and data_have_conditions(bundle)
        likelihood = Likelihood() if likely else None
        extras = Extras(likelihood=likelihood) if has_trajectories(bundle) else Extras(trajectories=None)
        extras = within(extras)
    return evaluate(
        bundle.flow,
        sampler or bundle.sampler,
        bundle.modality,
        held,
        n,
        rng,
        metrics_of(bundle),
        reference=raw,
        reference_name=real.name,
        cache=cache(),
        extras=extras,
        held_out=held_out,
        weights=weights_of(bundle),
        name=name,
    )


def metrics_of(bundle: Bundle) -> tuple[Any, ...]:
    """The metrics of the modality; without any, metrics for tensors of any kind.

    None for data with labels: ``evaluate`` then selects metrics by the number of data per label.
    """
    own = tuple(bundle.modality.metrics())
    if own or "label" in bundle.modality.conditions:
        return own
    return SlicedWasserstein(), Energy()


def one_step(bundle: Bundle) -> bool:
    """Whether the sampler of a bundle takes one evaluation: its network was not trained for other times."""
    return bundle.sampler.evaluations == 1


def has_trajectories(bundle: Bundle) -> bool:
    """Whether trajectories of a flow are curves in the space of the data, not of codes of states."""
    return is_ode(bundle.flow) and not one_step(bundle) and bundle.modality.continuous


def weights_of(bundle: Bundle) -> str:
    """Which weights a bundle holds, in words: an average with its settings, or those of the last step."""
    if "average" not in bundle.lineage:
        return "as stored"
    average = bundle.lineage["average"]
    if average is None:
        return "of the last step, not averaged"
    settings = (f"{key} {value}" for key, value in average.items() if key != "is")
    return f"averaged ({', '.join((average['is'], *settings))})"


def labels_of(names: Sequence[str]) -> list[str]:
    """A distinct label for each directory of a run or bundle: the shortest end of the path that identifies it."""
    parts = [[p for p in Path(name).parts if p != "bundle"] or [name] for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        made = ["/".join(p[-depth:]) for p in parts]
        if len(set(made)) == len(made):
            return made
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def data_have_conditions(bundle: Bundle) -> bool:
    """Whether the data have every condition that the network takes; guidance may add conditions of its own."""
    return set(settings_of(bundle.flow.field).get("conditions") or {}) <= set(bundle.modality.conditions)


def held_out_loss(bundle: Bundle, raw: Any, held: Any) -> HeldOut | None:
    """Flow matching loss on held-out data.

    None where that loss was not minimised: for dependent couplings, flow maps, discrete states, and networks with
    conditions that the data do not have.
    """
    flow, modality = bundle.flow, bundle.modality
    if (
        not modality.continuous
        or not data_have_conditions(bundle)
        or not flow.independent
        or not is_ode(flow)
        or is_map(flow.field)
    ):
        return None
    objective = FlowMatching(flow.path, Independent(flow.source))
    train = None if raw is None else modality.encode(raw)
    return HeldOut(objective, modality.encode(held), train=train, rng=Rng(0).fork("held-out"))


def cache() -> Path:
    """The directory in which trained evaluators are cached."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "evaluators"


def data_of(bundle: Bundle) -> Any:
    """The data set that a bundle was trained on."""
    return config.build(bundle.lineage["data"])
