"""Edits of a labelled mixture by PostEdit in 5 steps with half of the numbers measured, against SDEdit in as many.  The
background is what is measured.  Langevin steps, which the authors take, are compared with the exact product in
tests/sampling/editing/test_posterior.py."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.posterior import PostEdit
from beeline.sampling.editing.resampled import SDEdit
from benchmarks.claims.counterfactuals import NEW, STILL, case, gap, made, moved, new_data, unlikely
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "PostEdit: posterior sampling for edits"
CLAIM = "Keeps the background better than others, in few evaluations, without inversion or training."
SAMPLER = bl.Sampler(5, solver=bl.solvers.EULER)


def measure(rng: bl.Rng) -> list[Finding]:
    one, key = case(rng), rng.fork("edit")
    held, weak = (made(PostEdit(0.3, noise=noise), one, SAMPLER, key) for noise in (0.3, 1.0))
    free = made(PostEdit(0.3, keep=0.0), one, SAMPLER, key)
    noised, later = (made(SDEdit(start), one, SAMPLER, key) for start in (0.3, 0.6))
    return [
        finding("distance to the data: PostEdit (figure) against SDEdit", moved(noised, one), moved(held, one),
                moved(new_data(one, key), one), NEW),
        finding("share without the new label: PostEdit (figure) against SDEdit from 0.6", unlikely(later, one),
                unlikely(held, one), unlikely(one.x, one), STILL),
        finding("distance to the counterfactual: PostEdit (figure) against SDEdit", gap(noised, one), gap(held, one),
                gap(one.x, one), STILL),
        finding("distance to the counterfactual: a weaker measurement (figure) against none", gap(free, one),
                gap(weak, one), gap(one.x, one), STILL),
    ]  # fmt: skip
