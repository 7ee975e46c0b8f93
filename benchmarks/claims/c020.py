"""The ring with and without exact values at the data end. Samples are W2 distances to the ring: 20 Euler steps of the
ODE, and 40 steps of the SDE, whose score divides by 1 - t. An untrained network with the exact end value is correct
near t = 1, so the velocity error is averaged over all times."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.fields.prediction import Boundary, Ends
from beeline.solvers.diffusions import Fading, White
from beeline.solvers.sde import EulerMaruyama
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, velocity_error, w2
from benchmarks.claims.verdict import Finding

METHOD = "Boundary conditions of the velocity"
CLAIM = "The exact value at the data end improves samples of the ODE and of the SDE (FID by 8 and 9 percent)."


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective = points(rng), bl.objectives.FlowMatching()
    x0, (real, _) = noise(rng), even(RING, rng)
    make: dict[str, Any] = {
        "plain": lambda: network(rng),
        "mask": lambda: network(rng, prediction=Boundary()),
        "subtraction": lambda: Ends(network(rng), bl.couplings.Independent()),
    }

    def errors(net: Any) -> list[float]:
        sde = EulerMaruyama(White(rng.fork("walk")), Fading(1.0))
        samples = (sample(net, x0, 20), sample(net, x0, 40, solver=sde))
        return [velocity_error(net, RING, rng), *(w2(made, real) for made in samples)]

    first = {name: errors(new()) for name, new in make.items()}
    last = {name: errors(learn(new(), objective, data, rng.fork("net"), steps=700)) for name, new in make.items()}
    measured = ("rmse of the velocity over all times", "W2, ODE", "W2, SDE")
    return [
        finding(f"{what}: {name} form (figure) against plain", last["plain"][k], last[name][k], first[name][k])
        for name in ("mask", "subtraction")
        for k, what in enumerate(measured)
    ]
