"""Sequences of six symbols of a Markov chain with four symbols, whose exact posterior given the visible tokens is
known: all errors are those of the order and of tokens that are revealed together. Total variation of neighbours and of
whole sequences in three steps, and the share of sequences with a transition of a probability below 2 percent. The
learned null condition of the paper is not measured."""

from __future__ import annotations

import itertools
import math

import torch

import beeline as bl
from beeline.solvers.diffusions import White
from beeline.spaces.confident_tokens import ConfidentJumps
from beeline.spaces.tokens import MaskTokens, TokenJumps, TokenMixture
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Masked tokens in the order of their certainty"
CLAIM = "Fewer tokens a step, the purest first, reduce the error of tokens that are sampled independently."
LENGTH, K, STEPS, NUMBER = 6, 4, 3, 6000
PATH = TokenMixture()


class Chain:
    """The exact field of sequences of a Markov chain; symbol K is the mask."""

    def __init__(self, rng: bl.Rng):
        self.step = torch.softmax(2 * rng.normal(torch.empty(K, K)), 1)
        sequences = list(itertools.product(range(K), repeat=LENGTH))
        p = [math.prod(float(self.step[a, b]) for a, b in itertools.pairwise(s)) for s in sequences]
        self.sequences, self.p = torch.tensor(sequences), torch.tensor(p) / K
        self.hot = torch.nn.functional.one_hot(self.sequences, K + 1).float()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        seen = x + x[..., -1:]
        agrees = self.p.expand(len(x), -1)
        for i in range(LENGTH):
            agrees = agrees * (seen[:, i] @ self.hot[:, i].T)
        posterior = (agrees @ self.hot.flatten(1)).view_as(x) / agrees.sum(1)[:, None, None]
        return PATH.mixture(x, t, posterior)

    def errors(self, tokens: torch.Tensor) -> tuple[float, float, float]:
        """Total variation of neighbours and of sequences, and the share of sequences with an unlikely transition."""
        pairs = torch.bincount((tokens[:, :-1] * K + tokens[:, 1:]).flatten(), minlength=K * K).float()
        known = torch.zeros(K * K)
        for i in range(LENGTH - 1):
            known.index_add_(0, self.sequences[:, i] * K + self.sequences[:, i + 1], self.p)
        index = (tokens * K ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
        whole = torch.bincount(index, minlength=len(self.p)).float() / len(tokens)
        rare = (self.step[tokens[:, :-1], tokens[:, 1:]] < 0.02).any(1).float().mean()
        near = (pairs / pairs.sum() - known / known.sum()).abs().sum() / 2
        return float(near), float((whole - self.p).abs().sum() / 2), float(rare)


def measure(rng: bl.Rng) -> list[Finding]:
    chain = Chain(rng.fork("chain"))
    flow = bl.Flow(chain, PATH, MaskTokens())
    x0 = MaskTokens().sample(torch.empty(NUMBER, LENGTH, K + 1), rng)

    def made(solver: object, steps: int = STEPS) -> tuple[float, float, float]:
        return chain.errors(bl.Sampler(steps, solver=solver)(flow, x0).argmax(-1))  # type: ignore[arg-type]

    noise = White(rng.fork("noise"))
    orders = {"random": TokenJumps(PATH, noise), "even": ConfidentJumps(PATH, noise, temperature=1000.0),
              "purity": ConfidentJumps(PATH, noise, temperature=1.0), "sure": ConfidentJumps(PATH, noise)}  # fmt: skip
    found = {name: made(solver) for name, solver in orders.items()}
    slow, once = made(orders["purity"], LENGTH), made(orders["random"], 1)
    control = "all tokens in one step"
    rows = []
    for k, what in enumerate(("total variation of neighbours", "total variation of sequences")):
        rows += [
            finding(f"{what}: chosen in proportion to purity (figure) against random numbers of random tokens",
                    found["random"][k], found["purity"][k], once[k], control),
            finding(f"{what}: chosen in proportion to purity (figure) against as many random tokens", found["even"][k],
                    found["purity"][k], once[k], control),
            finding(f"{what}: the purest (figure) against as many random tokens", found["even"][k], found["sure"][k],
                    once[k], control),
            finding(f"{what}: one token a step (figure) against two", found["purity"][k], slow[k], once[k], control),
        ]  # fmt: skip
    rows.append(finding("sequences with an unlikely transition: the purest (figure) against as many random tokens",
                        found["even"][2], found["sure"][2], once[2], control))  # fmt: skip
    return rows
