"""Edits of a labelled mixture in 32 evaluations: FlowEdit in 16 Euler steps, inversion and sampling in 16 each, SDEdit
in 32."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from benchmarks.claims.counterfactuals import NEW, STILL, case, gap, made, moved, new_data, unlikely
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FlowEdit: edits by the difference of velocities"
CLAIM = "Lower transport cost than edits by inversion, and better edits, without inversion or optimisation."


def measure(rng: bl.Rng) -> list[Finding]:
    one, key = case(rng), rng.fork("edit")
    short, long = (bl.Sampler(n, solver=bl.solvers.EULER) for n in (16, 32))
    whole, late = (made(FlowEdit(start), one, short, key) for start in (0.0, 0.33))
    inverted, noised = made(InvertAndSample(), one, short, key), made(SDEdit(0.3), one, long, key)
    fresh = (moved(new_data(one, key), one), NEW)
    return [
        finding("distance to the data: FlowEdit from 0 (figure) against inversion", moved(inverted, one),
                moved(whole, one), *fresh),
        finding("distance to the data: FlowEdit from 0.33 (figure) against inversion", moved(inverted, one),
                moved(late, one), *fresh),
        finding("distance to the counterfactual: FlowEdit from 0 (figure) against SDEdit", gap(noised, one),
                gap(whole, one), gap(one.x, one), STILL),
        finding("distance to the counterfactual: FlowEdit from 0 (figure) against inversion", gap(inverted, one),
                gap(whole, one), gap(one.x, one), STILL),
        finding("share without the new label: FlowEdit from 0 (figure) against inversion", unlikely(inverted, one),
                unlikely(whole, one), unlikely(one.x, one), STILL),
    ]  # fmt: skip
