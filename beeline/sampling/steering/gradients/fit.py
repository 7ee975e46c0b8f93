"""Search for the sizes of guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from beeline.core.declared import fields_of
from beeline.core.errors import require

C = TypeVar("C")


@dataclass(frozen=True)
class FittedGuidance:
    """What a search for the sizes of guidance found."""

    best: Any  # the controller with the lowest score
    score: float
    tried: tuple[tuple[tuple[float, ...], float], ...]  # sizes in the order of their names, and their score


def fit_guidance(
    score: Callable[[C], float],
    controller: C,
    names: Sequence[str] = ("rho", "mu", "gamma"),
    *,
    rounds: int = 6,
    beam: int = 2,
    start: Mapping[str, float] | None = None,
) -> FittedGuidance:
    """A beam search over sizes of a controller, which doubles one of them at a time.

    Every round doubles each size of the best ``beam`` settings; the search ends early where this changes none of them.
    ``score(controller)`` returns a number that is low for a good controller, such as a distance of a few samples;
    NaN and infinity count as bad.  ``start`` has the first sizes by name, by default those of the controller; zero
    stays zero.  Takes at most 1 + rounds beam len(names) scores; settings are scored once.

    Source: Ye et al. 2024, "TFG: Unified Training-Free Guidance for Diffusion Models" (arXiv 2409.15761).

    Raises ValueError for names that the controller lacks, for counts below one, and where no score is finite.

    >>> from beeline.sampling.steering.energies.squared import Near
    >>> from beeline.sampling.steering.gradients.training_free import TFG
    >>> fit_guidance(lambda tfg: abs(tfg.rho - 1) + abs(tfg.mu - 0.5), TFG(Near((1.0,))), ("rho", "mu")).best.rho
    1.0
    """
    require(
        rounds >= 1 and beam >= 1 and len(names) > 0,
        f"fit_guidance got rounds={rounds}, beam={beam} and {len(names)} names; it searches in rounds, with the best "
        "settings of each: give at least one of each",
    )
    have: Mapping[str, Any] = fields_of(controller)
    lacking = [name for name in names if not isinstance(have.get(name), float | int)]
    require(
        not lacking,
        f"fit_guidance got the names {lacking}, which are no numbers of {type(controller).__name__}; give some of "
        f"{[name for name, value in have.items() if isinstance(value, float | int)]}",
    )
    first = tuple((start or {}).get(name, have[name]) for name in names)  # counts stay whole numbers
    scores: dict[tuple[float, ...], float] = {}

    def made(sizes: tuple[float, ...]) -> C:
        return replace(controller, **dict(zip(names, sizes, strict=True)))  # type: ignore[type-var]

    def scored(sizes: tuple[float, ...]) -> float:
        if sizes not in scores:
            value = float(score(made(sizes)))
            scores[sizes] = value if abs(value) < float("inf") else float("inf")
        return scores[sizes]

    kept = [first]
    scored(first)
    for _ in range(rounds):
        doubled = [(*s[:k], 2 * s[k], *s[k + 1 :]) for s in kept for k in range(len(names))]
        best = sorted(dict.fromkeys([*kept, *doubled]), key=scored)[:beam]
        if best == kept:
            break
        kept = best
    require(
        scores[kept[0]] < float("inf"),
        f"fit_guidance found no sizes with a finite score among {len(scores)}; the score may be wrong, or the first "
        "sizes too large: check score(controller) by itself",
    )
    return FittedGuidance(made(kept[0]), scores[kept[0]], tuple(scores.items()))
