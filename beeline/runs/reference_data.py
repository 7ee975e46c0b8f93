"""The real data that a bundle is evaluated on: those it was trained on, a file, a data set by name, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from beeline.config import build as config
from beeline.config import catalogue
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import Features
from beeline.core.rng import Rng
from beeline.data.modality import complete
from beeline.evaluation.scores import Report
from beeline.runs.scoring import SAMPLES, Comparison, RealData, score, score_by_features
from beeline.sampling.sampler import Sampler

if TYPE_CHECKING:  # a bundle imports this module to evaluate itself
    from beeline.runs.bundle import Bundle


def data_set(text: str | None, bundle: Bundle) -> Any:
    """The data set to evaluate on: that of the bundle, of a recipe, by its name, or a file of the same format."""
    own = bundle.lineage.get("data")
    if text is None:
        require(own is not None, "this bundle does not record the data it was trained on; name a data set or file")
        return config.build(own)
    if text in catalogue.CATALOGUE["recipes"] or text.replace("-", "_") in catalogue.CATALOGUE["recipes"]:
        return config.lookup("recipes", text)().data
    if Path(text).exists():
        require(
            own is not None and "path" in own,
            f"{text} is a file, but the bundle was not trained on a file; name a data set, such as 'Digits()'",
        )
        return config.build({**own, "path": text})  # type: ignore[dict-item]
    try:
        return config.parse(text, "data")
    except BeelineError as error:
        raise BeelineError(f"{text!r} is neither a file, a recipe nor a data set ({error})") from None


def comparable(source: Any, bundle: Bundle, label: str) -> None:
    """Refuse data of another modality than the bundle."""
    ours, theirs = type(bundle.modality).__name__, type(source.modality()).__name__
    require(
        ours == theirs,
        f"{label} generates {ours} data, but {type(source).__name__} holds {theirs} data, so they cannot be compared; "
        "give data of the same modality",
    )


def real_data(bundle: Bundle, data: Any, labels: Any) -> RealData:
    """The data to evaluate on: the held-out part of a data set, or all of the data in memory.

    Beside data in memory, the training data of the bundle are read too, to which evaluators are fitted; where they are
    gone, evaluators are fitted to the given data.
    """
    require(
        bundle.modality is not None,
        "this bundle has no modality, so it does not know the form of its data; call bl.evaluate(flow, sampler, None, "
        "real, n, rng) with tensors",
    )
    if data is None or isinstance(data, str | Path):
        require(
            labels is None,
            f"y_test was given beside {'no data' if data is None else f'the path {data}'}; labels are part of a data "
            "set: leave them out, or give X_test as an array",
        )
        source = data_set(None if data is None else str(data), bundle)
        comparable(source, bundle, "this flow")
        return RealData.of(source)
    held = bundle.modality.raw(data, labels)
    own = bundle.lineage.get("data")
    try:
        train = None if own is None else complete(config.build(own)).load()[0]
    except (BeelineError, OSError):  # moved, or on another machine
        train = None
    return RealData("the given data", train, held)


def evaluated(
    bundle: Bundle,
    data: Any,
    labels: Any,
    n: int | None,
    seed: int,
    sampler: Sampler | None,
    name: str,
    features: Features | None = None,
) -> Report:
    """Scores of a bundle on ``n`` samples against real data; in a feature space where ``features`` are given."""
    real = real_data(bundle, data, labels)
    given = tuple(real.encoded(bundle.modality)[1].x1.shape[1:])
    require(
        given == tuple(bundle.modality.shape),
        f"the flow generates data of shape {tuple(bundle.modality.shape)}, but the given data have shape {given}; give "
        "data of the same shape",
    )
    if features is None:
        return score(bundle, real, SAMPLES if n is None else n, Rng(seed), sampler=sampler, name=name)
    stored = data is None or isinstance(data, str | Path)
    comparison = Comparison(features, train=stored and not features.learned, name=real.name)
    return score_by_features(bundle, real, comparison, n, Rng(seed), sampler=sampler, name=name)
