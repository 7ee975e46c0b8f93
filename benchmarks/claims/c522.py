"""Tang et al. 2025: Gumbel-softmax flows scale to larger alphabets."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.core.simplex import Dirichlet, GumbelSimplex, GumbelSoftmax, Posterior, Simplex
from benchmarks.claims.toys import draw, finding, learn, network

METHOD = "Gumbel-softmax flow matching"
LENGTH = 4


def two_grams(tokens: torch.Tensor, k: int) -> torch.Tensor:
    """The frequencies of neighbours [k,k], with a trace of mass everywhere."""
    code = (tokens[:, :-1] * k + tokens[:, 1:]).flatten()
    count = torch.bincount(code, minlength=k * k).double() + 0.1
    return (count / count.sum()).reshape(k, k)


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    rows = []
    for k in (4, 16):
        chain = torch.softmax(1.5 * rng.fork("chain", k).normal(torch.empty(k, k)), 1)
        tokens = [rng.fork("first", k).integers(k, 10_000)]
        for i in range(LENGTH - 1):
            pick = torch.multinomial(chain[tokens[-1]], 1, generator=rng.fork("next", k, i).generator())
            tokens.append(pick[:, 0])
        real = torch.stack(tokens, 1)
        data, known = bl.Batch(nn.functional.one_hot(real, k).float()), two_grams(real, k)
        errors = []
        for path, source in ((Dirichlet(), Simplex()), (GumbelSoftmax(), GumbelSimplex())):
            field = Posterior(network(rng, LENGTH * k, width=128, shape=(LENGTH, k)), path, logs=True)
            objective = bl.objectives.Classify(path, bl.couplings.Independent(source))
            field = learn(field, objective, data, rng.fork("net", k), steps=700)
            made = draw(field, source.sample(torch.zeros(3000, LENGTH, k), rng.fork("x0")), 30).argmax(-1)
            errors.append(float((known * (known / two_grams(made, k)).log()).sum()))
        rows.append(
            finding(f"KL of neighbours, {k} symbols, 30 steps: Gumbel-softmax (figure) against Dirichlet", *errors)
        )
    return rows
