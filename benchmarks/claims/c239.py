"""Liu et al. 2024: noise assigned to data within the batch, and bifocal times, for few steps."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, draw, exact_end, finding, learn, network, noise, points, rmse, w2

METHOD = "FlashAudio: immiscible assignment and bifocal times"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, x0, real = points(rng), noise(rng), RING.sample(1000, rng.fork("real")).float()
    made = []
    for coupling in (bl.couplings.Independent(), bl.couplings.Immiscible()):
        net = learn(network(rng), bl.objectives.FlowMatching(coupling=coupling), data, rng.fork("net"), lot=128)
        made.append([w2(draw(net, x0, n), real) for n in (1, 4)])
    start = noise(rng.fork("pairs"), 6000)
    pairs, wanted, errors = bl.Batch(exact_end(RING, start), start), exact_end(RING, x0), []
    for times in (bl.times.Uniform(), bl.times.Bifocal(4.0, 4.0)):
        objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired(), times=times)
        errors.append(rmse(draw(learn(network(rng), objective, pairs, rng.fork("two")), x0, 1), wanted))
    return [
        finding("W2 to the ring, one Euler step: immiscible (figure) against independent", made[0][0], made[1][0]),
        finding("the same with four steps", made[0][1], made[1][1]),
        finding("rmse of one step after reflow: bifocal times (figure) against uniform", errors[0], errors[1]),
    ]
