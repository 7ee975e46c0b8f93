"""Total variation of symbols sampled in 40 steps with the exact posterior of the symbol, at 4 and 40 symbols."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.spaces.simplex import Dirichlet, PosteriorNetwork, Simplex
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "Dirichlet flow matching"
CLAIM = (
    "A linear flow on the simplex has discontinuous targets and fails for many symbols; the Dirichlet path does not."
)
SCALE, NULL = 2.0, 2


def guidance(rng: bl.Rng) -> Finding:
    """Guidance in the space of probabilities, against the law that it aims at: p(i | class)^scale p(i)^(1 - scale)."""
    path, k = Dirichlet(top=12.0), 4
    classes = torch.softmax(rng.fork("classes").normal(torch.empty(2, k, dtype=torch.float64)), 1)
    table = torch.cat([classes, classes.mean(0, keepdim=True)])
    wanted = classes[0] ** SCALE * table[NULL] ** (1 - SCALE)
    wanted = wanted / wanted.sum()

    def known(x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        made: torch.Tensor = table[cond["label"]].log() + (path.top * t)[:, None] * x.clamp(min=1e-300).log()
        return made

    x0 = Simplex().sample(torch.empty(3000, k, dtype=torch.float64), rng.fork("guided"))

    def error(label: int, scale: float) -> float:
        cond = {"label": torch.full((len(x0),), label)}
        made = sample(PosteriorNetwork(known, path), x0, 40, cond, path=path, guidance=bl.CFG(scale, {"label": NULL}))
        share = torch.bincount(made.argmax(1), minlength=k) / len(x0)
        return float((share - wanted).abs().sum() / 2)

    return finding("error of the guided distribution: scale 2 (figure) against no guidance", error(0, 1.0),
                   error(0, SCALE), error(NULL, 1.0), "no condition")  # fmt: skip


def measure(rng: bl.Rng) -> list[Finding]:
    rows = []
    for k in (4, 40):
        prior = torch.softmax(rng.fork("prior", k).normal(torch.empty(k, dtype=torch.float64)), 0)
        x0 = Simplex().sample(torch.empty(3000, k, dtype=torch.float64), rng.fork("x0"))
        path = Dirichlet(top=3.0 * k)

        def ignorant(x: torch.Tensor, t: torch.Tensor, path: Any = path) -> torch.Tensor:
            return (path.top * t)[:, None] * x.clamp(min=1e-300).log()

        def known(x: torch.Tensor, t: torch.Tensor, prior: Any = prior, even: Any = ignorant) -> torch.Tensor:
            made: torch.Tensor = prior.log() + even(x, t)
            return made

        def linear(x: torch.Tensor, t: torch.Tensor, prior: Any = prior) -> torch.Tensor:
            # the exact posterior: x = (1-t) x0 + t e_k with x0 even on the simplex
            p = prior * (x >= t[:, None] - 1e-12)
            p = torch.where(p.sum(1, keepdim=True) > 0, p, torch.nn.functional.one_hot(x.argmax(1), len(prior)))
            return (p / p.sum(1, keepdim=True) - x) / (1 - t)[:, None]

        errors = []
        for field in (linear, PosteriorNetwork(known, path), PosteriorNetwork(ignorant, path)):
            share = torch.bincount(sample(field, x0, 40).argmax(1), minlength=k) / len(x0)
            errors.append(float((share - prior).abs().sum() / 2))
        rows.append(finding(f"{k} symbols: Dirichlet path (figure) against the linear one", *errors,
                            "posterior without the prior"))  # fmt: skip
    return [*rows, guidance(rng)]
