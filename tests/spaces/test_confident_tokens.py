"""Masked tokens in the order of their certainty, with exact fields of a short chain."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.solvers.diffusions import White
from beeline.spaces.confident_tokens import ConfidentJumps
from beeline.spaces.tokens import MaskTokens, TokenJumps, TokenMixture

LENGTH, SYMBOLS = 4, 3
PATH = TokenMixture()


class Exact:
    """The exact field of a distribution of sequences [N,L] with probabilities [N]; the last symbol is the mask."""

    def __init__(self, sequences, p):
        self.sequences, self.p = torch.tensor(sequences), p / p.sum()
        self.symbols = int(self.sequences.max()) + 1
        self.hot = torch.nn.functional.one_hot(self.sequences, self.symbols + 1).double()  # [N,L,K]

    def __call__(self, x, t, cond=None):
        seen = x.double() + x[..., -1:].double()  # a masked token agrees with every symbol
        agrees = torch.einsum("blk,nlk->bnl", seen, self.hot).prod(2) * self.p
        posterior = torch.einsum("bn,nlk->blk", agrees / agrees.sum(1, keepdim=True), self.hot)
        return PATH.mixture(x, t, posterior.to(x))

    def error(self, x):
        """Total variation between the sequences of samples and the exact ones."""
        found = torch.einsum("blk,nlk->bnl", x.double(), self.hot).prod(2).mean(0)
        return float((found - self.p).abs().sum() + 1 - found.sum()) / 2

    def sampled(self, solver, steps, n=6000):
        x0 = MaskTokens().sample(torch.empty(n, *self.hot.shape[1:]), bl.Rng(0))
        return bl.Sampler(steps, solver=solver)(bl.Flow(self, PATH, MaskTokens()), x0)


def chain():
    """Sequences of a Markov chain."""
    step = torch.softmax(2 * bl.Rng(0).normal(torch.empty(SYMBOLS, SYMBOLS, dtype=torch.float64)), 1)
    sequences = list(itertools.product(range(SYMBOLS), repeat=LENGTH))
    p = [math.prod(float(step[a, b]) for a, b in itertools.pairwise(s)) for s in sequences]
    return Exact(sequences, torch.tensor(p, dtype=torch.float64))


CHAIN = chain()
FLOW = bl.Flow(CHAIN, PATH, MaskTokens(), independent=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_token_a_step_is_exact_in_every_order(temperature):
    x = CHAIN.sampled(ConfidentJumps(PATH, White(bl.Rng(3)), temperature=temperature), LENGTH)
    assert set(x.unique().tolist()) == {0.0, 1.0} and not x[..., -1].any()
    exact = bl.Rng(1).uniform(6000, torch.empty(1, dtype=torch.float64))
    floor = CHAIN.error(CHAIN.hot[torch.searchsorted(CHAIN.p.cumsum(0), exact).clamp(max=len(CHAIN.p) - 1)])
    assert CHAIN.error(x) < 1.3 * floor


def test_certain_tokens_first_leave_a_sum_to_the_last_step():
    """The third token is the sum of two that are more certain than it: two steps are exact in that order alone."""
    sums = Exact([(a, b, a ^ b) for a in (0, 1) for b in (0, 1)], torch.tensor([0.42, 0.18, 0.28, 0.12]).double())
    assert sums.error(sums.sampled(ConfidentJumps(PATH, White(bl.Rng(3))), 2)) < 0.02
    assert sums.error(sums.sampled(TokenJumps(PATH, White(bl.Rng(3))), 2)) > 0.1


def test_the_number_of_revealed_tokens_follows_the_path():
    counts = []
    x0 = MaskTokens().sample(torch.empty(3, LENGTH, SYMBOLS + 1), bl.Rng(0))
    bl.Sampler(4, solver=ConfidentJumps(PATH))(FLOW, x0, watch=lambda x, t: counts.append(x[..., -1].sum(1).tolist()))
    assert counts == [[4 - k] * 3 for k in range(5)]


def test_samples_depend_on_their_seeds_alone():
    x0 = MaskTokens().sample(torch.empty(5, LENGTH, SYMBOLS + 1), bl.Rng(0))
    sampler = bl.Sampler(3, solver=ConfidentJumps(PATH, temperature=1.0)).seeded(range(5), 0)
    assert torch.equal(sampler(FLOW, x0)[2:4], sampler.for_rows(2, 4)(FLOW, x0[2:4]))


def test_wrong_steps_are_refused():
    with pytest.raises(BeelineError, match="towards the data"):
        bl.integrate(lambda x, t: x, torch.ones(1, 2, 3), torch.tensor([1.0, 0.0]), ConfidentJumps())
