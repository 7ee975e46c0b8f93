"""Kullback-Leibler divergence of the frequencies of neighbours in short sequences of a Markov chain, 20 steps."""

from __future__ import annotations

import copy

import torch
from torch import nn

import beeline as bl
from beeline.spaces.simplex import Dirichlet, GumbelSimplex, GumbelSoftmax, PosteriorNetwork, Simplex
from benchmarks.claims.toys import finding, learn, network, sample
from benchmarks.claims.verdict import Finding

METHOD = "Gumbel-softmax flow matching"
CLAIM = "Scales to larger alphabets; guidance uses classifiers that were trained on clean sequences only."
LENGTH, SEEDS = 3, 3


def two_grams(tokens: torch.Tensor, k: int) -> torch.Tensor:
    """The frequencies of neighbours [k,k], with a trace of mass everywhere."""
    code = (tokens[:, :-1] * k + tokens[:, 1:]).flatten()
    count = torch.bincount(code, minlength=k * k).double() + 0.1
    return (count / count.sum()).reshape(k, k)


def measure(rng: bl.Rng) -> list[Finding]:
    rows = []
    for k in (4, 20):
        chain = torch.softmax(1.5 * rng.fork("chain", k).normal(torch.empty(k, k)), 1)
        tokens = [rng.fork("first", k).integers(k, 6000)]
        for i in range(LENGTH - 1):
            pick = torch.multinomial(chain[tokens[-1]], 1, generator=rng.fork("next", k, i).generator())
            tokens.append(pick[:, 0])
        real = torch.stack(tokens, 1)
        data, known = bl.Batch(nn.functional.one_hot(real, k).float()), two_grams(real, k)
        errors = []
        for path, source in ((Dirichlet(), Simplex()), (GumbelSoftmax(), GumbelSimplex())):
            field = PosteriorNetwork(network(rng, LENGTH * k, width=64, shape=(LENGTH, k)), path, logs=True)
            objective = bl.objectives.Classify(path, bl.couplings.Independent(source))
            first = copy.deepcopy(field)
            field = learn(field, objective, data, rng.fork("net", k), steps=350)
            for f in (field, first):
                made = sample(f, source.sample(torch.zeros(2000, LENGTH, k), rng.fork("x0")), 20).argmax(-1)
                errors.append(float((known * (known / two_grams(made, k)).log()).sum()))
        rows.append(finding(f"{k} symbols: Gumbel-softmax (figure) against Dirichlet", errors[0], errors[2], errors[3]))
    return rows
