"""The ring with overlapping classes and a trained model, 16 Euler steps. All scales have the mean 3 over time. W2 is
the distance to data with the wanted labels; fidelity is the mean posterior probability of the condition."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.guidance.guide import Guide, Unconditional
from beeline.sampling.guidance.rules.scales import Falling, OverTime, RaisedCosine, Rising
from benchmarks.claims.c142 import LABEL, guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import CLASSES, even, finding, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Guidance scales over time"
CLAIM = "Scales that grow over time are better than constant ones, and constant ones better than falling ones."


def measure(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng)[1], noise(rng)
    real, label = even(CLASSES, rng)
    cond = {"label": label}
    made = {"constant": guided(plain, x0, cond, 16, 3.0)}
    for shape in (Rising(), RaisedCosine(), Falling()):
        guide = Guide(Unconditional({"label": 8}), OverTime(3.0, shape))
        made[type(shape).__name__] = sample(plain, x0, 16, cond, guidance=guide)
    first = guided(network(rng, conditions=LABEL), x0, cond, 16, 3.0)
    far, near = {k: w2(x, real) for k, x in made.items()}, {k: faithful(x, label) for k, x in made.items()}
    away, unlike = w2(first, real), faithful(first, label)
    rows = []
    for a, b in (("Rising", "constant"), ("RaisedCosine", "constant"), ("constant", "Falling")):
        rows.append(finding(f"W2 to the data: {a} (figure) against {b}", far[b], far[a], away))
        compares = f"fidelity: {a} (figure) against {b}, 1% worse"
        rows.append(finding(compares, 0.99 * near[b], near[a], unlike, better="higher"))
    return rows
