"""Scores of a bundle against the held-out part of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from beeline.config import build as config
from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device
from beeline.core.protocols.data import Features
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Independent
from beeline.data.modality import complete
from beeline.evaluation.evaluate import Extras, conditions, encoded, evaluate, usual_features
from beeline.evaluation.features import SmallClassifier
from beeline.evaluation.heldout import HeldOut
from beeline.evaluation.memorisation import Memorisation
from beeline.evaluation.metrics import KID, Energy, Frechet, SlicedWasserstein
from beeline.evaluation.neighbours import Coverage, Density, Precision, Recall
from beeline.evaluation.scores import Report
from beeline.evaluation.statistics import FrechetToStatistics, Statistics
from beeline.evaluation.trajectory import Likelihood
from beeline.objectives.heads import settings_of
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.solvers.process import is_ode

if TYPE_CHECKING:  # a bundle imports this module to evaluate itself
    from beeline.runs.bundle import Bundle


@dataclass(frozen=True)
class RealData:
    """The data set that flows are compared with, read once, with what is computed from it."""

    name: str
    raw: Any  # training part, to which evaluators are fitted; None fits them to the held-out part
    held: Any  # the held-out part
    seen: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # features of the data, by space and hash
    codes: list[tuple[Any, Batch | None, Batch]] = field(
        default_factory=list
    )  # both parts as each modality encodes them

    @staticmethod
    def of(source: Any) -> RealData:
        """Both parts of a data set, or as many of the data as are encoded at once."""
        modality = complete(source).modality()
        raw, held = (modality.subset(part) for part in source.load())
        return RealData(f"held-out part of {source!r}", raw, held)

    def encoded(self, modality: Any) -> tuple[Batch | None, Batch]:
        """(training data or None, held-out data) as a modality encodes them, once for each modality."""
        found = next(((train, held) for known, train, held in self.codes if known is modality), None)
        if found is None:
            rng = Rng(0)
            train = None if self.raw is None else encoded(self.raw, modality, rng)
            found = train, encoded(self.held, modality, rng)
            self.codes.append((modality, *found))
        return found


@dataclass(frozen=True)
class Comparison:
    """In which features samples are compared, and with which data.

    ``reference`` is compared with in place of the data set's own: encoded pictures, or stored statistics, which give
    the Frechet distance alone.
    """

    features: Features
    reference: Batch | Statistics | None = None
    train: bool = True  # compare with the training data, as is usual for published features; else held-out data
    name: str = ""  # of the reference

    def metrics(self, n: int, n_real: int, size: int) -> tuple[Any, ...]:
        """The metrics in a space of ``size`` features; without the Frechet distance where there are too few data."""
        f = self.features
        if isinstance(self.reference, Statistics):
            return (FrechetToStatistics(f, self.reference),)
        others: tuple[Any, ...] = (KID(f), Precision(f), Recall(f), Density(f), Coverage(f))
        return others if n_real <= size else (Frechet(f), *others)


SAMPLES = 500  # generated for an evaluation
PLAIN = (SlicedWasserstein(), Energy())  # metrics in the space of the data
FEW = Extras(trajectories=None, replicates=8, splits=1)
LARGE = 512  # features, from which on a Frechet distance takes seconds, so that it is computed for fewer subsets


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
    memorisation: bool = False,
    metrics: Sequence[Any] = (),
) -> Report:
    """Scores of a bundle on ``n`` samples against the held-out data; by its own sampler unless another one is given.

    ``extras`` selects costly scores; by default trajectories and likelihood are included where they are defined,
    as far as ``within`` allows.  ``memorisation`` compares the samples with the training data.  ``metrics`` replace
    the usual ones.
    """
    train, held = real.encoded(bundle.modality)
    held_out = None
    if extras is None:
        held_out = held_out_loss(bundle, train, held)
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
        tuple(metrics) or metrics_of(bundle),
        reference=train,
        reference_name=real.name,
        cache=cache(),
        extras=extras,
        held_out=held_out,
        memorisation=Memorisation(train.x1, held.x1, rows=n) if memorisation and train is not None else None,
        seen=real.seen,
        weights=weights_of(bundle),
        name=name,
    )


def score_by_features(
    bundle: Bundle,
    real: RealData,
    comparison: Comparison,
    n: int | None,
    rng: Rng,
    *,
    sampler: Sampler | None = None,
    name: str = "",
    device: Device = AUTO,
) -> Report:
    """Scores of a bundle in a feature space: Frechet and kernel distance, precision, recall, density, coverage and
    memorisation, with pictures of the samples nearest to training data.

    ``n`` samples; None takes enough for the Frechet distance and its interval.  ValueError before sampling where the
    features do not take these data, their weights are missing, or ``n`` is too small.
    """
    train, held = real.encoded(bundle.modality)
    known = held if train is None else train
    against: Batch
    rest: Batch | None
    features = comparison.features.fit(known.x1, known.cond, cache=cache())
    size = features(known.x1[:1]).shape[1]  # refuses data of another kind
    n = samples_for(size) if n is None else n
    given = comparison.reference
    against, rest = (known, held) if comparison.train and train is not None else (held, train)
    if isinstance(given, Batch):
        against, rest = given, held
    metrics = replace(comparison, features=features).metrics(n, len(against.x1), size)
    report = evaluate(
        bundle.flow,
        sampler or bundle.sampler,
        bundle.modality,
        against,
        n,
        rng,
        metrics,
        cond=conditions(bundle.flow, known, n, rng.fork("conditions")),
        reference=rest,
        reference_name=comparison.name,
        cache=cache(),
        extras=FEW if size > LARGE else Extras(trajectories=None),
        memorisation=None if train is None else Memorisation(train.x1, held.x1, features),
        seen=real.seen,
        weights=weights_of(bundle),
        name=name,
        device=device,
    )
    if len(against.x1) <= size and not isinstance(given, Statistics):
        report.details["not measured"] = (
            f"the Frechet distance needs more data than features, but there are {len(against.x1):,} real ones and "
            f"{size:,} features: give --reference with more pictures"
        )
    return report


def samples_for(size: int) -> int:
    """How many samples are enough for a Frechet distance in ``size`` features and its interval; 500 at least."""
    return max(SAMPLES, math.ceil(2.2 * size / 100) * 100)


def statistics_of(real: RealData, bundle: Bundle, comparison: Comparison) -> Statistics:
    """The statistics of the data that samples are compared with, for a file."""
    train, held = real.encoded(bundle.modality)
    given, known = comparison.reference, held if train is None else train
    require(
        not isinstance(given, Statistics),
        "the reference are statistics already; leave --save-reference out, or give pictures as --reference",
    )
    x = given if isinstance(given, Batch) else known if comparison.train else held
    return Statistics.of(x.x1, comparison.features.fit(known.x1, known.cond, cache=cache()))


def metrics_of(bundle: Bundle) -> tuple[Any, ...]:
    """The metrics of the modality; without any, metrics for tensors of any kind.

    None for data with labels: ``evaluate`` then selects metrics by the number of data per label.
    """
    own = tuple(bundle.modality.metrics())
    if own or "label" in bundle.modality.conditions:
        return own
    return PLAIN


def classifier_seconds(bundle: Bundle, real: RealData, clock: Callable[[], float]) -> float:
    """The expected time of training the classifier of the usual metrics; 0 where they need none, or it is stored."""
    train, held = real.encoded(bundle.modality)
    known = held if train is None else train
    if metrics_of(bundle) or not isinstance(usual_features(known), SmallClassifier):
        return 0.0
    return SmallClassifier().seconds(known.x1, known.cond, cache=cache(), clock=clock)


def one_step(bundle: Bundle) -> bool:
    """Whether the sampler of a bundle takes one evaluation: its network was not trained for other times."""
    return bundle.sampler.evaluations == 1


def fixed(bundle: Bundle) -> bool:
    """Whether a bundle holds a student that can only be evaluated at the times of its sampler."""
    return bundle.flow.trained is not None and bundle.flow.trained.fixed


def has_trajectories(bundle: Bundle) -> bool:
    """Whether trajectories of a flow are curves in the space of the data, not of codes of states."""
    return is_ode(bundle.flow) and not one_step(bundle) and not fixed(bundle) and bundle.modality.continuous


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


def held_out_loss(bundle: Bundle, train: Batch | None, held: Batch) -> HeldOut | None:
    """Flow matching loss on held-out data.

    None where that loss was not minimised: for dependent couplings, flow maps, discrete states, and networks with
    conditions that the data do not have.
    """
    flow = bundle.flow
    if (
        not bundle.modality.continuous
        or not data_have_conditions(bundle)
        or not flow.independent
        or not is_ode(flow)
        or is_map(flow.field)
    ):
        return None
    objective = FlowMatching(flow.path, Independent(flow.source))
    return HeldOut(objective, held, train=train, rng=Rng(0).fork("held-out"))


def cache() -> Path:
    """The directory in which trained evaluators are cached."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "beeline" / "evaluators"


def data_of(bundle: Bundle) -> Any:
    """The data set that a bundle was trained on."""
    return config.build(bundle.lineage["data"])
