"""Stark et al. 2024: a linear flow on the simplex fails for many symbols, the Dirichlet path does not.

At 4 symbols the Dirichlet path is behind because of Euler's error: its distance falls with the number of steps, to the
floor of the sample size.  At 40 symbols the linear path fails, as claimed.
"""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.simplex import Dirichlet, Posterior, Simplex
from benchmarks.claims.toys import draw, finding

METHOD = "Dirichlet flow matching"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    rows = []
    for k in (4, 40):
        prior = torch.softmax(rng.fork("prior", k).normal(torch.empty(k, dtype=torch.float64)), 0)
        x0 = Simplex().sample(torch.empty(4000, k, dtype=torch.float64), rng.fork("x0"))
        path = Dirichlet(top=3.0 * k)

        def known(x: torch.Tensor, t: torch.Tensor, path: Any = path, prior: Any = prior) -> torch.Tensor:
            return prior.log() + (path.top * t)[:, None] * x.clamp(min=1e-300).log()

        def linear(x: torch.Tensor, t: torch.Tensor, prior: Any = prior) -> torch.Tensor:
            # the exact posterior: x = (1-t) x0 + t e_k with x0 even on the simplex
            p = prior * (x >= t[:, None] - 1e-12)
            p = torch.where(p.sum(1, keepdim=True) > 0, p, torch.nn.functional.one_hot(x.argmax(1), len(prior)))
            return (p / p.sum(1, keepdim=True) - x) / (1 - t)[:, None]

        steps, errors = 40, []
        for field in (linear, Posterior(known, path)):
            x = draw(field, x0, steps)
            share = torch.bincount(x.argmax(1), minlength=k) / len(x)
            errors.append(float((share - prior).abs().sum() / 2))
        rows.append(finding(f"total variation of the symbols drawn, {k} symbols, exact classifiers, {steps} steps: "
                            "Dirichlet (figure) against linear", errors[0], errors[1]))  # fmt: skip
    return rows
