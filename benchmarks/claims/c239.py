"""W2 distance to the ring: one step after immiscible training and one round of reflow with bifocal times, against the
same without either, and against diffusion (variance-preserving path) with 100 steps, at equal training."""

from __future__ import annotations

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "FlashAudio: immiscible assignment and bifocal times"
CLAIM = "One step beats diffusion with hundreds of steps."
SEEDS = 4


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    matching, independent = bl.objectives.FlowMatching, bl.couplings.Independent()
    vp = bl.paths.VariancePreserving()
    eps = bl.Network(network(rng).backbone, vp, bl.predictions.Noise())
    diffusion = learn(eps, matching(vp, independent, prediction=bl.predictions.Noise()), data, rng.fork("vp"))
    first = [learn(network(rng), matching(coupling=c), data, rng.fork("net"), steps=400)
             for c in (independent, bl.couplings.Immiscible())]  # fmt: skip
    start = noise(rng.fork("pairs"), 5000)
    pairs, paired = bl.Batch(sample(first[1], start, 20, solver=bl.solvers.HEUN), start), bl.couplings.Paired()
    uniform, bifocal = (learn(network(rng), matching(coupling=paired, times=t), pairs, rng.fork("two"), steps=400)
                        for t in (bl.times.Uniform(), bl.times.Bifocal(4.0, 4.0)))  # fmt: skip
    one = lambda net: w2(sample(net, x0, 1), real)  # noqa: E731
    raw = one(network(rng))
    hundred = w2(sample(diffusion, x0, 100, path=vp, solver=bl.solvers.DPMSolver(2, vp)), real)
    return [
        finding("one step after reflow with bifocal times (figure) against diffusion, 100 steps", hundred, one(bifocal),
                raw),
        finding("one step after reflow: bifocal times (figure) against uniform", one(uniform), one(bifocal), raw),
        finding("two steps before reflow: immiscible (figure) against independent",
                *(w2(sample(f, x0, 2), real) for f in (*first, network(rng)))),
    ]  # fmt: skip
