"""The ring with overlapping classes and a trained model, 16 Euler steps. CFG++ with the scales 0.05 to 0.9 is compared
with plain guidance at equal fidelity, by interpolation between its scales. None of them has the fidelity of scale 4,
which is compared with 0.9. W2 is the distance to data with the wanted labels; fidelity is the mean posterior
probability of the condition. Data are inverted with guidance and sampled again; the control are samples of other source
points."""

from __future__ import annotations

import numpy as np

import beeline as bl
from beeline.sampling.guidance.guide import Guide, Unconditional
from beeline.sampling.guidance.rules.steps import CFGPlusPlus
from benchmarks.claims.c142 import LABEL, NULL, guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import CLASSES, even, finding, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "CFG++ for flows"
CLAIM = "Better than guidance at all scales, and invertible."
STEPS, SCALES = 16, (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDED = 1.5, 2.0, 4.0


def plus(scale: float) -> Guide:
    return Guide(Unconditional({"label": NULL}), CFGPlusPlus(scale))


def measure(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng)[1], noise(rng)
    real, label = even(CLASSES, rng)
    cond = {"label": label}
    raw = w2(sample(network(rng, conditions=LABEL), x0, STEPS, cond, guidance=plus(0.5)), real)
    made = [sample(plain, x0, STEPS, cond, guidance=plus(scale)) for scale in SCALES]
    fidelity = np.maximum.accumulate([faithful(x, label) for x in made])
    rows = []
    for scale in GUIDED:
        x = guided(plain, x0, cond, STEPS, scale)
        near = faithful(x, label)
        far = float(np.interp(near, fidelity, [w2(x, real) for x in made]))
        at = "at the fidelity of scale" if scale < max(GUIDED) else "of the largest scale and of scale"
        compares = f"W2 {at} {scale:g}: CFG++ (figure) against guidance"
        rows.append(finding(compares, w2(x, real), far, raw))
        equal = float(np.interp(near, fidelity, SCALES))
        again = []
        for guidance in (bl.CFG(scale, {"label": NULL}), plus(equal)):
            sampler, flow = bl.Sampler(STEPS, solver=bl.solvers.EULER, guidance=guidance), bl.Flow(plain)
            again.append(rmse(sampler(flow, sampler.invert(flow, real, cond), cond), real))
        compares = f"data inverted and sampled again, distance, scale {scale:g}: CFG++ (figure) against guidance"
        rows.append(finding(compares, *again, rmse(x, real), "samples of other source points"))
    return rows
