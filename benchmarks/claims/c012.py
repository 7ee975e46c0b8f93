"""Edits of a labelled mixture in 28 Euler steps each way, and their distance to the exact counterfactuals.  The first
rows measure the claim; the last two what the control of the inversion does to its noise, and what it costs."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.controlled.edits import Controlled, RFInversion
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from benchmarks.claims.counterfactuals import EXACT, NEW, STILL, case, gap, made, moved, new_data, unlikely
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "RF-Inversion: controlled inversion and sampling"
CLAIM = "Zero-shot edits that are more faithful than plain inversion and fresh noise."
SAMPLER = bl.Sampler(28, solver=bl.solvers.EULER)


def off(x: bl.core.types.Tensor) -> float:
    """Distance of the variance of noise from 1."""
    return abs(float(x.var()) - 1)


def measure(rng: bl.Rng) -> list[Finding]:
    one, key = case(rng), rng.fork("edit")
    plain, noised = (made(edit, one, SAMPLER, key) for edit in (InvertAndSample(), SDEdit(0.3)))
    rf, free = (made(RFInversion(Controlled(g)), one, SAMPLER, key) for g in (0.5, 0.0))
    noise = {
        name: inversion(EXACT.flow, one.x, one.old, SAMPLER, key, 0.0).x
        for name, inversion in (("plain", Backwards()), ("led", Controlled(0.5)))
    }
    return [
        finding("distance to the data: RF-Inversion (figure) against plain inversion", moved(plain, one),
                moved(rf, one), moved(new_data(one, key), one), NEW),
        finding("distance to the counterfactual: RF-Inversion (figure) against SDEdit", gap(noised, one), gap(rf, one),
                gap(one.x, one), STILL),
        finding("distance to the counterfactual: gamma 0 (figure) against gamma 0.5", gap(rf, one), gap(free, one),
                gap(one.x, one), STILL),
        finding("distance to the counterfactual: RF-Inversion (figure) against plain inversion", gap(plain, one),
                gap(rf, one), gap(one.x, one), STILL),
        finding("share without the new label: RF-Inversion (figure) against SDEdit", unlikely(noised, one),
                unlikely(rf, one), unlikely(one.x, one), STILL),
        finding("variance of the noise apart from 1: controlled (figure) against plain inversion", off(noise["plain"]),
                off(noise["led"]), off(one.x), "the data"),
    ]  # fmt: skip
