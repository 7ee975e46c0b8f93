"""Edits of a labelled mixture in 50 Euler steps by delta velocities with different shifts.  Shift 1 that is not
progressive is FlowEdit, shift 0 delta denoising scores, both exactly (tests/sampling/editing/test_delta.py)."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.flow_edit import DeltaVelocity, FlowEdit
from benchmarks.claims.counterfactuals import NEW, STILL, case, gap, made, moved, new_data, unlikely
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DVRF: delta velocities with a progressive shift"
CLAIM = "Better quality and fidelity than FlowEdit and delta denoising scores, which are special cases."
SAMPLER = bl.Sampler(50, solver=bl.solvers.EULER)


def measure(rng: bl.Rng) -> list[Finding]:
    one, key = case(rng), rng.fork("edit")
    full = made(FlowEdit(0.0), one, SAMPLER, key)
    rising = made(DeltaVelocity(), one, SAMPLER, key)
    scores = made(DeltaVelocity(0.0, progressive=False), one, SAMPLER, key)
    return [
        finding("share without the new label: progressive shift (figure) against shift 0", unlikely(scores, one),
                unlikely(rising, one), unlikely(one.x, one), STILL),
        finding("share without the new label: progressive shift (figure) against FlowEdit", unlikely(full, one),
                unlikely(rising, one), unlikely(one.x, one), STILL),
        finding("distance to the data: progressive shift (figure) against FlowEdit", moved(full, one),
                moved(rising, one), moved(new_data(one, key), one), NEW),
        finding("distance to the counterfactual: progressive shift (figure) against shift 0", gap(scores, one),
                gap(rising, one), gap(one.x, one), STILL),
        finding("distance to the counterfactual: progressive shift (figure) against FlowEdit", gap(full, one),
                gap(rising, one), gap(one.x, one), STILL),
    ]  # fmt: skip
