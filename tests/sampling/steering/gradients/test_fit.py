"""The search for the sizes of guidance."""

from __future__ import annotations

import math

import pytest

from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.fit import fit_guidance
from beeline.sampling.steering.gradients.training_free import TFG

START = TFG(Near((1.0,)), rho=0.25, mu=0.25, gamma=0.125)


def distance(tfg):
    """Lowest at rho=2, mu=0.5, gamma=0.125."""
    return abs(math.log2(tfg.rho / 2)) + abs(math.log2(tfg.mu / 0.5)) + abs(math.log2(tfg.gamma / 0.125))


def test_the_search_finds_the_best_sizes_and_scores_none_twice():
    scored = []

    def score(tfg):
        scored.append((tfg.rho, tfg.mu, tfg.gamma))
        return distance(tfg)

    found = fit_guidance(score, START)
    assert (found.best.rho, found.best.mu, found.best.gamma) == (2.0, 0.5, 0.125) and found.score == 0
    assert len(scored) == len(set(scored)) == len(found.tried) <= 1 + 6 * 2 * 3


def test_rounds_bound_the_search():
    assert fit_guidance(distance, START, rounds=1).best.rho == 0.5


def test_counts_stay_whole_numbers():
    assert fit_guidance(lambda tfg: abs(tfg.iterations - 16), START, ("iterations",)).best.iterations == 16


def test_a_score_that_is_no_number_counts_as_bad():
    found = fit_guidance(lambda tfg: math.nan if tfg.rho > 0.3 else distance(tfg), START)
    assert found.best.rho == 0.25 and found.best.mu == 0.5


@pytest.mark.parametrize("more", [{"rounds": 0}, {"beam": 0}, {"names": ()}])
def test_counts_below_one_are_refused(more):
    with pytest.raises(ValueError, match="at least one of each"):
        fit_guidance(distance, START, **more)


def test_names_that_the_controller_lacks_are_refused():
    with pytest.raises(ValueError, match=r"\['scale'\], which are no numbers of TFG"):
        fit_guidance(distance, START, ("scale",))


def test_scores_that_are_never_finite_are_refused():
    with pytest.raises(ValueError, match="no sizes with a finite score"):
        fit_guidance(lambda tfg: math.inf, START)
