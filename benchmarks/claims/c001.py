"""Liu, Gong and Liu 2022: reflow straightens paths, never raises the transport cost, and makes one step enough."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.laws import GaussianMixture
from beeline.learn.distill import Reflow
from beeline.learn.rate import WarmupCosine
from beeline.learn.trainer import Training, fit
from beeline.metrics import SlicedWasserstein
from beeline.nets.small import MLP
from beeline.trajectory import straightness

METHOD = "Rectified flow: reflow"
TRAINING = Training(steps=2000, lot=256, rate=WarmupCosine(3e-3, 50), ema=None)
FINE, ONE = bl.Sampler(30), bl.Sampler(1, solver=bl.solvers.EULER)


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    law = GaussianMixture.ring()
    data = bl.Batch(law.sample(10_000, rng.fork("data"), dtype=torch.float32))
    with rng.fork("network").ambient():
        net = bl.Network(MLP(2, width=128, depth=3))
    silent = lambda entry: None  # noqa: E731
    first = bl.Flow(fit(net, bl.objectives.FlowMatching(), data, TRAINING, rng=rng.fork("first"), log=silent))
    reflow = Reflow(FINE)
    pairs = reflow.data(first, data, rng.fork("pairs"))
    made = fit(reflow.networks(first), reflow.objective(first), pairs, TRAINING, rng=rng.fork("second"), log=silent)
    second, _ = reflow.student(first, made)

    x0, real = rng.fork("test").normal(torch.empty(2000, 2)), law.sample(2000, rng.fork("real"), dtype=torch.float32)
    walks = [straightness(flow, x0, FINE) for flow in (first, second)]
    errors = [SlicedWasserstein()(real, ONE(flow, x0), rng.fork("score")) for flow in (first, second)]
    independent = float((real - x0).square().sum(1).mean())
    return [
        {
            "compares": "relative straightness of the paths on the ring: after reflow (figure) against before",
            "baseline": walks[0].relative,
            "figure": walks[1].relative,
            "better": "lower",
        },
        {
            "compares": "E|Z1 - Z0|^2 on the ring: first flow (figure) against independent pairs",
            "baseline": independent,
            "figure": walks[0].transport,
            "better": "lower",
        },
        {
            "compares": "E|Z1 - Z0|^2 on the ring: second flow (figure) against first",
            "baseline": walks[0].transport,
            "figure": walks[1].transport,
            "better": "lower",
        },
        {
            "compares": "sliced Wasserstein distance of one Euler step: after reflow (figure) against before",
            "baseline": errors[0],
            "figure": errors[1],
            "better": "lower",
        },
    ]
