"""The ring: flow matching and then MeanFlow from data, with the last third of the blocks told the end of the jump and
with a new embedding of it, against equally many steps of MeanFlow from the start. W2 distance and error of one
step."""

from __future__ import annotations

import copy

import beeline as bl
from beeline.networks.maps.decoupled import decoupled
from beeline.networks.maps.spans import spanned
from beeline.objectives.maps.presets import MeanFlow
from benchmarks.claims.maps import STEPS, fresh, jumped
from benchmarks.claims.toys import RING, even, exact_end, finding, learn, network, noise, points, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "Decoupled MeanFlow"
CLAIM = "A trained flow becomes a flow map without new modules, and is better than a map trained from scratch."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    wanted = exact_end(RING, x0)
    flow = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("flow"), steps=STEPS)
    with rng.fork("span").ambient():
        starts = [decoupled(copy.deepcopy(flow)), spanned(copy.deepcopy(flow))]
    untrained = jumped(copy.deepcopy(starts[0]), x0)
    divided, embedded = (learn(net, MeanFlow(), data, rng.fork("net"), steps=STEPS) for net in starts)
    scratch = learn(fresh(rng), MeanFlow(), data, rng.fork("net"), steps=2 * STEPS)
    ends = [jumped(net, x0) for net in (scratch, embedded, divided)]
    return [
        finding("one step, W2: converted (figure) against from scratch, equal steps in all", w2(ends[0], real),
                w2(ends[2], real), w2(untrained, real), "converted and not trained"),
        finding("one step, error to the exact ends: converted (figure) against from scratch", rmse(ends[0], wanted),
                rmse(ends[2], wanted), rmse(untrained, wanted), "converted and not trained"),
        finding("one step, W2: no new module (figure) against a new embedding of the end", w2(ends[1], real),
                w2(ends[2], real), w2(untrained, real), "converted and not trained"),
    ]  # fmt: skip
