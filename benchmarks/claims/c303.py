"""Two digits side by side. One model was trained with the labels of the left digits and random ones of the right, the
other the reverse, so that each knows one half; 12 Euler steps with guidance of scale 2. The share of halves with the
wanted label is that of a logistic regression, the mean of both halves."""

from __future__ import annotations

from statistics import fmean

import beeline as bl
from beeline.sampling.guidance.composition.fusion import SaliencyFusion
from beeline.sampling.guidance.composition.linear import Conjunction
from beeline.sampling.guidance.guide import Weak
from beeline.sampling.guidance.references.substituted import Substituted
from benchmarks.claims.halves import distance, network, pairs, read, sampled, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "MagicFusion: two models by saliency"
CLAIM = "One run with two models, of which the more salient one decides at every position, has the knowledge of both."
GUIDE = bl.CFG(2.0)


def measure(rng: bl.Rng) -> list[Finding]:
    data = pairs(rng)
    knows_left, knows_right = (trained(rng.fork(half), pairs(rng, shuffled=half)) for half in ("right", "left"))
    other = Weak(knows_right)
    mean = Conjunction((other,), (0.5, 0.5))

    def run(guidance: object, net: object = knows_left) -> tuple[float, float]:
        x, wanted = sampled(net, rng, guidance)
        return fmean(read(x, wanted)), distance(x, data, rng)

    fused, untrained = run(SaliencyFusion(GUIDE, other)), network(rng)
    none = run(SaliencyFusion(GUIDE, Weak(untrained)), untrained)
    rivals = {
        "the better of the two models": max(run(GUIDE), run(Substituted(other, GUIDE))),
        "the mean of both without guidance": run(mean),
    }
    rows = []
    for name, rival in rivals.items():
        rows.append(finding(f"labels: fused (figure) against {name}", rival[0], fused[0], none[0], better="higher"))
        rows.append(finding(f"distance to pairs of digits: fused (figure) against {name}", rival[1], fused[1], none[1]))
    return rows
