"""The ring with overlapping classes and a trained model. A second network refines the noise: it is trained on 4000
pairs of noise with the noise that the model without guidance maps to the guided sample of scale two, found by
inversion. Its evaluation is counted. Fidelity is the mean posterior probability of the condition."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.pairs import refined_pairs
from beeline.sampling.refined import RefinedNoise
from benchmarks.claims.c142 import LABEL, NULL, SCALE, guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Noise refinement"
CLAIM = "Sampling without guidance from refined noise has the quality of guidance at about half the cost."
PAIRS, STEPS = 4000, 6


def measure(rng: bl.Rng) -> list[Finding]:
    plain = trained(rng)[1]
    flow, given = bl.Flow(plain), {"label": torch.arange(PAIRS) % 8}
    how = bl.Sampler(STEPS)
    pairs = refined_pairs(flow, bl.Sampler(STEPS, guidance=bl.CFG(SCALE, {"label": NULL})), how, given,
                          rng.fork("pairs"), like=torch.empty(1, 2))  # fmt: skip
    objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired(), times=bl.times.At(0.0))
    new = lambda: network(rng.fork("refiner"), conditions=LABEL)  # noqa: E731
    net, first = learn(new(), objective, pairs, rng.fork("refine"), steps=600), new()
    x0 = noise(rng)
    cond = {"label": torch.arange(len(x0)) % 8}
    wanted = guided(CLASSES.field(), x0, cond, 60)
    heun = {"solver": bl.solvers.HEUN}
    with torch.no_grad():
        made, raw = (RefinedNoise(STEPS, refiner=f)(flow, x0, cond) for f in (net, first))
        full = bl.Sampler(STEPS, guidance=bl.CFG(SCALE, {"label": NULL}))(flow, x0, cond)
        equal = bl.Sampler(STEPS // 2, guidance=bl.CFG(SCALE, {"label": NULL}))(flow, x0, cond)
    free = sample(plain, x0, STEPS, cond, **heun)
    k = cond["label"]
    return [
        finding("error to guided samples: refined noise (figure) against the same noise, no guidance", rmse(free, full),
                rmse(made, full), rmse(raw, full), "untrained refiner"),
        finding("fidelity: refined noise (figure) against the same noise, no guidance", faithful(free, k),
                faithful(made, k), faithful(raw, k), "untrained refiner", "higher"),
        finding("W2 to guided samples: refined noise (figure, 13 evaluations) against guidance in 3 steps (12)",
                w2(equal, wanted), w2(made, wanted), w2(raw, wanted), "untrained refiner"),
        finding("W2 to guided samples: refined noise (figure, 13 evaluations) against guidance (24), 5% worse",
                1.05 * w2(full, wanted), w2(made, wanted), w2(raw, wanted), "untrained refiner"),
    ]  # fmt: skip
