"""The ring with overlapping classes and a trained model, 16 Euler steps at guidance scale 5. APG bounds the root mean
square of the difference by 1 and has a momentum of -0.5. W2 is the distance to data with the wanted labels; fidelity is
the mean posterior probability of the condition."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.guidance.guide import Guide, Unconditional
from beeline.sampling.guidance.rules.projections import Projected
from benchmarks.claims.c142 import LABEL, guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import CLASSES, even, finding, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Adaptive projected guidance"
CLAIM = "High guidance scales without oversaturation, at equal fidelity and no extra cost."
RULE = Projected(5.0, radius=1.0, momentum=-0.5)


def measure(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng)[1], noise(rng)
    real, label = even(CLASSES, rng)
    cond, guide = {"label": label}, Guide(Unconditional({"label": 8}), RULE)
    made = [
        guided(plain, x0, cond, 16, 5.0),
        sample(plain, x0, 16, cond, guidance=guide),
        sample(network(rng, conditions=LABEL), x0, 16, cond, guidance=guide),
    ]
    largest = [float(x.norm(dim=1).max()) for x in made[:2]]
    far = float(real.norm(dim=1).max())
    return [
        finding("W2 to the data: APG (figure) against plain guidance", *(w2(x, real) for x in made)),
        finding("fidelity: APG (figure) against plain guidance, 2% worse", 0.98 * faithful(made[0], label),
                *(faithful(x, label) for x in made[1:]), better="higher"),
        finding("largest norm beyond that of the data: APG (figure) against plain guidance",
                *(max(0.0, r - far) for r in largest), far, "no samples at the data"),
    ]  # fmt: skip
