"""Flows of causal affine blocks: exact likelihood in one pass, and inversion by Gauss-Seidel-Jacobi iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.attention import CausalAttention
from beeline.networks.checks import check_sizes
from beeline.networks.embed import Conditions, Embedding
from beeline.networks.fp32 import layer_norm, zeroed
from beeline.networks.patches import from_patches, to_patches
from beeline.networks.transformer.blocks import AdaLNZero, PreNormBlock, Sizes, modulated
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.mixers import Attention
from beeline.solvers.parallel_in_time import jacobi_iteration

STEEPEST = 4.0  # bound of the logarithm of a scale
Past = Sequence[tuple[Tensor, Tensor] | None]


class Plan(NamedTuple):
    """How one block is inverted: the tokens in equal segments, one after the other, each by Jacobi iteration."""

    segments: int = 1  # the number of tokens is token by token
    rounds: int = 0  # most rounds in a segment; 0 is until the tolerance, with as many as tokens, which is exact
    zeros: int = 0  # whether the iteration starts from zeros rather than from the noise


class CausalLayer(PreNormBlock):
    """A transformer block with causal attention; takes and returns the keys and values of earlier tokens."""

    def __init__(self, width: int, heads: int, ratio: float):
        sizes = Sizes(width, heads, int(width * ratio), 0.0)
        super().__init__(sizes, Attention(), FeedForward(), AdaLNZero())
        self.mix = CausalAttention(width, heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, e: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.tell(e)[:, None].chunk(6, -1)
        mixed, past = self.mix(modulated(x, shift1, scale1), past)
        x = torch.addcmul(x, gate1, mixed)
        return torch.addcmul(x, gate2, self.mlp(modulated(x, shift2, scale2))[0]), past


class CausalBlock(nn.Module):
    """An affine map of tokens whose shift m_i and logarithmic scale a_i depend on the tokens before i.

    z_i = (x_i - m_i) exp(-a_i),  (m_i, a_i) = transformer(0, x_1, ..., x_{i-1})
    """

    def __init__(self, channels: int, count: int, width: int, depth: int, heads: int, ratio: float):
        super().__init__()
        self.inp = nn.Linear(channels, width)
        self.positions = nn.Parameter(0.02 * torch.randn(count, width))
        self.layers = nn.ModuleList(CausalLayer(width, heads, ratio) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, 2 * channels))

    def forward(
        self, before: Tensor, e: Tensor, place: int = 0, past: Past | None = None
    ) -> tuple[Tensor, Tensor, Past]:
        """(m, a, keys and values) of tokens from ``place`` on, given the token before each of them [B,N,C]."""
        h, seen = self.inp(before) + self.positions[place : place + before.shape[1]], []
        for layer, known in zip(self.layers, past or [None] * len(self.layers), strict=True):
            h, new = layer(h, e, known)
            seen.append(new)
        m, a = self.out(layer_norm(h)).chunk(2, -1)
        return m, STEEPEST * torch.tanh(a / STEEPEST), seen

    def invert(self, z: Tensor, e: Tensor, plan: Plan, tolerance: float) -> tuple[Tensor, int]:
        """(x, rounds) with x_i = m_i + z_i exp(a_i) for tokens z [B,N,C], segment by segment."""
        count, done, past, rounds = z.shape[1], [torch.zeros_like(z[:, :1])], None, 0
        length = -(-count // min(plan.segments, count))
        for place in range(0, count, length):
            part, seen = z[:, place : place + length], list[Any]()
            left = done[-1][:, -1:]

            def sweep(guess: Tensor, part: Tensor = part, left: Tensor = left, place: int = place) -> Tensor:
                # an early guess may overflow; the tokens that depend on it are computed again
                known = torch.nan_to_num(guess.transpose(0, 1), 0.0, 1e4, -1e4)
                m, a, seen[:] = self(torch.cat([left, known[:, :-1]], 1), e, place, past)  # noqa: B023
                return (m + part * a.exp()).transpose(0, 1)

            guess = (torch.zeros_like(part) if plan.zeros else part).transpose(0, 1)
            solved, n = jacobi_iteration(sweep, guess, tolerance, plan.rounds or None)
            done.append(solved.transpose(0, 1))
            past, rounds = list(seen), rounds + n
        return torch.cat(done[1:], 1), rounds


class CausalFlow(Declaring):
    """A normalizing flow of causal affine blocks on tokens (TarFlow), inverted by Gauss-Seidel-Jacobi iteration.

    each block: z_i = (x_i - m_i) exp(-a_i), with m_i and a_i of the tokens before i, then the order is reversed;
    log p(x) = log N(z; 0, 1) - sum a;  inverse: x <- m(x) + z exp(a(x)) for all tokens of a segment at once, exact
    after as many rounds as it has tokens;  as a field: v(x0, 0) = inverse(x0) - x0, so that one Euler step samples
    Assumes images [C,H,W] with sides that are multiples of the patch, or vectors [D], whose tokens are numbers.
    Source: Zhai et al. 2024, TarFlow (arXiv 2412.06329); Liu and Qin 2025, GS-Jacobi (arXiv 2505.12849).

    >>> flow = CausalFlow((1, 4, 4), width=16, blocks=2, depth=1, heads=2)
    >>> flow(torch.ones(3, 1, 4, 4), torch.zeros(3)).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        shape: Sequence[int],  # (channels, height, width), or (size,)
        patch: int = 2,  # side of a patch of an image in pixels
        width: int = 64,
        blocks: int = 4,  # affine maps
        depth: int = 2,  # transformer layers of each
        heads: int = 4,
        conditions: Conditions | None = None,
        *,
        ratio: float = 4.0,
        tolerance: float = 1e-6,  # largest root mean square change of a token in the last round of an inversion
        plan: Sequence[Sequence[int]] = ((1, 0, 0),),  # segments, rounds and start of every block, or of all
    ):
        super().__init__()
        check_sizes("CausalFlow", patch=patch, width=width, blocks=blocks, depth=depth, heads=heads)
        self.shape = tuple(int(n) for n in shape)
        require(
            len(self.shape) == 1 or (len(self.shape) == 3 and all(n % patch == 0 for n in self.shape[1:])),
            f"CausalFlow got shape={self.shape} and patch={patch}; its tokens are the patches of an image or the "
            "numbers of a vector: give (channels, height, width), the sides multiples of the patch, or (size,)",
        )
        require(tolerance > 0, f"CausalFlow got tolerance={tolerance}; an iteration would not end: give 1e-6")
        self.patch, self.tolerance = patch, tolerance
        self.settings: dict[str, Any] = {"shape": list(self.shape), "patch": patch, "width": width, "blocks": blocks}
        self.settings |= {"depth": depth, "heads": heads, "ratio": ratio, "tolerance": tolerance}
        channels = self.shape[0] * patch * patch if len(self.shape) == 3 else 1
        self.embed = Embedding(width, conditions)
        count = math.prod(self.shape) // channels
        self.block = nn.ModuleList(CausalBlock(channels, count, width, depth, heads, ratio) for _ in range(blocks))
        self.plan = self._plans(plan)

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.embed.cond.conditions))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        plan = [list(one) for one in self.plan]
        return {**self.settings, "conditions": self.embed.cond.conditions, "plan": plan}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        require(
            bool((t == 0).all()),
            "a CausalFlow was called at a time above 0; it maps noise to data in one step and has no velocity between "
            "them: sample with Sampler(1, solver=EULER)",
        )
        return self.invert(x, cond)[0] - x

    def encode(self, x: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        """The noise [B,*S] of data [B,*S], and the logarithm of the determinant of the map [B]."""
        tokens, e, total = self._tokens(x), self._told(x, cond), x.new_zeros(len(x))
        for block in self.block:
            m, a, _ = block(before(tokens), e)
            tokens, total = ((tokens - m) * (-a).exp()).flip(1), total - a.flatten(1).sum(1)
        return self._data(tokens), total

    def log_prob(self, x: Tensor, cond: Cond = None) -> Tensor:
        """The logarithm of the density of data [B,*S], in nats [B]."""
        z, total = self.encode(x, cond)
        return total - 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def invert(self, z: Tensor, cond: Cond = None) -> tuple[Tensor, list[int]]:
        """The data [B,*S] of noise [B,*S], and the rounds of each block, by the plan."""
        tokens, e, rounds = self._tokens(z), self._told(z, cond), []
        for block, plan in zip(reversed(self.block), reversed(self.plan), strict=True):
            tokens, n = block.invert(tokens.flip(1), e, plan, self.tolerance)  # type: ignore[operator]
            rounds.append(n)
        return self._data(tokens), rounds[::-1]

    @torch.no_grad()
    def ranking(self, x: Tensor, cond: Cond = None) -> Tensor:
        """[blocks] how slowly the inversion of each block converges on data, as shares of one: the CRM.

        |mean over the batch of exp(-a) x| |W_a| + |W_m|, with the spectral norms of the halves of the last layer.
        """
        found, e, tokens = [], self._told(x, cond), self._tokens(x)
        for block in self.block:
            m, a, _ = block(before(tokens), e)
            of_shift, of_scale = block.out.weight.float().chunk(2)  # type: ignore[union-attr, operator]
            size = ((-a).exp() * tokens).mean(0).norm()
            found.append(size * torch.linalg.matrix_norm(of_scale, 2) + torch.linalg.matrix_norm(of_shift, 2))
            tokens = ((tokens - m) * (-a).exp()).flip(1)
        ranks = torch.stack(found)
        return ranks / ranks.sum()

    @torch.no_grad()
    def choose_plan(
        self, x: Tensor, cond: Cond = None, tough: float = 0.3, segments: int = 8, rounds: int = 0, others: int = 0
    ) -> list[Plan]:
        """Choose, set and return the plan from data [B,*S]: segments for blocks whose share is at least ``tough``.

        The shares are those of ``ranking``.  ``rounds`` are those in a segment of such a block, ``others`` those of the
        other blocks.  Each block starts from the noise or from zeros, whichever is closer to the tokens of the data
        after one round (IGM).
        """
        shares, e, tokens, made = self.ranking(x, cond), self._told(x, cond), self._tokens(x), []
        for block, share in zip(self.block, shares.tolist(), strict=True):
            m, a, _ = block(before(tokens), e)
            z, errors = (tokens - m) * (-a).exp(), []
            for start in (z, torch.zeros_like(z)):
                m, a, _ = block(before(start), e)
                errors.append(float((m + z * a.exp() - tokens).mean(0).norm()))
            zeros = int(errors[1] < errors[0])
            made.append(Plan(segments, rounds, zeros) if share >= tough else Plan(1, others, zeros))
            tokens = z.flip(1)
        self.plan = made
        return made

    def _plans(self, plan: Sequence[Sequence[int]]) -> list[Plan]:
        plans = [Plan(*one) for one in plan] * (len(self.block) if len(plan) == 1 else 1)
        require(
            len(plans) == len(self.block)
            and all(p.segments >= 1 and p.rounds >= 0 and p.zeros in (0, 1) for p in plans),
            f"CausalFlow got plan={[list(one) for one in plan]} for {len(self.block)} blocks; give (segments, rounds, "
            "zeros) for every block, or once for all, with at least 1 segment",
        )
        return plans

    def _told(self, x: Tensor, cond: Cond) -> Tensor:
        return self.embed(x.new_zeros(len(x)), cond).to(x.dtype)  # type: ignore[no-any-return]

    def _tokens(self, x: Tensor) -> Tensor:
        require(
            x.shape[1:] == torch.Size(self.shape),
            f"CausalFlow got data of shape {tuple(x.shape[1:])} and was built for {self.shape}; pass [B,*shape]",
        )
        return x[..., None] if x.ndim == 2 else to_patches(x, self.patch)

    def _data(self, tokens: Tensor) -> Tensor:
        return tokens[..., 0] if len(self.shape) == 1 else from_patches(tokens, self.shape, self.patch)


def before(tokens: Tensor) -> Tensor:
    """The token before each token [B,N,C]; zeros before the first."""
    return torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
