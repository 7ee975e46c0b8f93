"""Mixers by linear recurrences over the tokens in order."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.modes import wide
from beeline.core.ranges import Count, Range, dataclass
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import OneStream
from beeline.networks.transformer.mixing.convolutions import CONVOLUTIONS, GridMixing
from beeline.networks.transformer.mixing.scan import Parts, before, recurrence, scan


class Recurrent(GridMixing):
    """Receptance, keys and values of tokens and their shifted neighbours; a subclass mixes keys and values."""

    def __init__(self, width: int, axes: int):
        super().__init__(axes)
        place = torch.arange(width) / max(width - 1, 1)
        self.mu = nn.Parameter(place.sqrt().repeat(3, 1))
        self.decay = nn.Parameter(-5 + 8 * place**1.35)
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        self.r, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, u: Tensor, layout: Layout) -> Tensor:
        moved = self.moved(self.as_grid(u, layout)).flatten(2).mT
        r, k, v = (
            layer(torch.lerp(moved, u, mu.to(u))) for layer, mu in zip((self.r, self.k, self.v), self.mu, strict=True)
        )
        out: Tensor = self.out(torch.sigmoid(r) * self.mixed(wide(k), wide(v)).to(u.dtype))
        return out

    def moved(self, x: Tensor) -> Tensor:
        """A grid [B,D,*grid] of neighbours."""
        return before(x.flatten(2).mT).mT

    def mixed(self, k: Tensor, v: Tensor) -> Tensor:
        """The mixed values [B,N,D]."""

        # sums carry the exponent p that was taken out of them, so that no exponential overflows
        def combine(one: Parts, two: Parts) -> Parts:
            p = torch.maximum(one[1] - rate * two[0], two[1]).detach()
            first, second = torch.exp(one[1] - rate * two[0] - p), torch.exp(two[1] - p)
            return one[0] + two[0], p, first * one[2] + second * two[2], first * one[3] + second * two[3]

        rate, p = torch.exp(self.decay.to(k)), k.detach()
        leaf = torch.exp(k - p)
        _, past, top, below = scan(combine, (torch.ones_like(k[:, :, :1]), p, leaf * v, leaf))
        past = torch.cat([torch.full_like(past[:, :1], -torch.inf), past[:, :-1]], 1)
        own = self.bonus.to(k) + k
        p = torch.maximum(past, own).detach()
        first, second = torch.exp(past - p), torch.exp(own - p)
        return (first * before(top) + second * v) / (first * before(below) + second)


@dataclass(frozen=True)
class RWKV(OneStream):
    """A causal recurrence with a decay for every channel, gated by the receptance of the token.

    o_i = W (sigmoid(r_i) * w_i),  w_i = (sum_{j<i} e^{k_j - (i-1-j) w} v_j + e^{u + k_i} v_i) / (the same without v)
    r, k, v = linear layers of mu u_i + (1 - mu) u_{i-1}.  The order is that of the patches, row by row: for sequences.
    Its time and memory grow with the number of tokens.
    Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048), version 4.

    >>> RWKV()
    RWKV()
    """

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Recurrent(width, len(grid))


class BothWays(Recurrent):
    """A recurrence in both directions, whose neighbours are those of the grid."""

    def __init__(self, width: int, axes: int):
        super().__init__(width, axes)
        with torch.no_grad():
            self.decay.copy_(torch.linspace(0, 8, width))  # over the whole sequence

    def moved(self, x: Tensor) -> Tensor:
        axes, parts = x.ndim - 2, []
        for share, part in enumerate(x.tensor_split(2 * axes, 1)):
            axis = 2 + share // 2
            n, zero = part.shape[axis], torch.zeros_like(part.narrow(axis, 0, 1))
            inner = part.narrow(axis, share % 2, n - 1)
            parts.append(torch.cat([inner, zero] if share % 2 else [zero, inner], axis))
        return torch.cat(parts, 1)

    def mixed(self, k: Tensor, v: Tensor) -> Tensor:
        n, k = k.shape[1], k - k.amax(1, keepdim=True).detach()
        leaf = torch.exp(k)
        sums = torch.cat([leaf * v, leaf], 2)
        decay = torch.exp(-self.decay.to(k) / n).repeat(2).expand_as(sums)
        past, later = (before(recurrence(decay, y)) for y in (sums, sums.flip(1)))
        own = torch.exp(self.bonus.to(k) / n).repeat(2) * sums
        top, below = (past + later.flip(1) + own).chunk(2, 2)
        return top / below


@dataclass(frozen=True)
class BiRWKV(OneStream):
    """A recurrence in both directions with a decay for every channel, gated by the receptance of the token.

    w_i = (sum_{j != i} e^{k_j - (|i-j|-1) w / N} v_j + e^{u / N + k_i} v_i) / (the same without v)
    r, k, v = linear layers of mu u_i + (1 - mu) u_i', where u' has one share of the channels from each neighbour on the
    grid.  Its time and memory grow with the number of tokens.
    Source: Fei et al. 2024, "Diffusion-RWKV" (arXiv 2404.04478); Duan et al. 2024, "Vision-RWKV" (arXiv 2403.02308).

    >>> BiRWKV()
    BiRWKV()
    """

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return BothWays(width, len(grid))


class Scanned(GridMixing):
    """A selective state space over the grid in several orders."""

    def __init__(self, width: int, axes: int, expand: int, state: int):
        super().__init__(axes)
        self.ways = 2 * axes
        inner = -(-expand * width // self.ways) * self.ways
        self.inp, self.out = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.near = nn.Parameter(torch.empty(inner, 1, *[3] * axes).uniform_(-1, 1) * 3 ** (-axes / 2))
        self.rank, self.state = -(-width // 16), state
        self.told = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.step = nn.Linear(self.rank, inner)
        self.step.bias = nn.Parameter((10 ** (2 * torch.rand(inner) - 3)).expm1().log())  # steps of 0.001 to 0.1
        self.rates = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))

    def forward(self, h: Tensor, layout: Layout) -> Tensor:
        u, z = self.inp(h).chunk(2, -1)
        u = F.silu(
            CONVOLUTIONS[len(layout.grid)](self.as_grid(u, layout), self.near.to(u), padding=1, groups=len(self.near))
        )
        u = u.flatten(2).mT
        low, b, c = self.told(u).split([self.rank, self.state, self.state], -1)
        step, ways = F.softplus(self.step(low)), orders(layout.grid, u.device)
        y = self.skip.to(u) * u + self.states(wide(u), wide(step), wide(b), wide(c), ways).to(u.dtype)
        out: Tensor = self.out(y * F.silu(z))
        return out

    def states(self, u: Tensor, step: Tensor, b: Tensor, c: Tensor, ways: Tensor) -> Tensor:
        """C_i s_i of tokens [B,N,E] with ``step`` [B,N,E], b and c [B,N,n], in orders [N,ways]."""
        each = torch.arange(ways.shape[1], device=u.device)
        u, step = (y.unflatten(-1, (len(each), -1))[:, ways, each] for y in (u, step))  # [B,N,ways,E/ways]
        rates = -torch.exp(self.rates.to(u)).unflatten(0, (len(each), -1))
        s = recurrence(torch.exp(step[..., None] * rates), (step * u)[..., None] * b[:, ways][..., None, :])
        y = (s @ c[:, ways][..., None]).squeeze(-1)
        return y[:, ways.argsort(0), each].flatten(2)


def orders(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Orders [N,2 axes] of the tokens of a grid: with each axis as the fastest, forwards and backwards."""
    index = torch.arange(math.prod(grid), device=device).view(grid)
    each = [index.movedim(axis, -1).flatten() for axis in reversed(range(len(grid)))]
    return torch.stack([way for one in each for way in (one, one.flip(0))], 1)


@dataclass(frozen=True)
class Selective(OneStream):
    """A selective state space, scanned along rows and columns, forwards and backwards.

    u = silu(conv_3(W h)),  s_i = exp(d_i A) s_{i-1} + d_i B_i u_i,  y_i = C_i s_i + D u_i,  o = W (y * silu(W z h))
    d, B and C are linear in u.  One share of the channels has each order; in the paper blocks take turns, and rows end
    with learned tokens.  Its time and memory grow with the number of tokens, memory also with ``state``.
    Source: Teng et al. 2024, "DiM: Diffusion Mamba for Efficient High-Resolution Image Synthesis" (arXiv 2405.14224);
    Gu and Dao 2023, "Mamba" (arXiv 2312.00752).

    >>> Selective().state
    16
    """

    state: Count = 16  # numbers that a channel remembers
    expand: Count = 2  # channels inside, relative to the width

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Scanned(width, len(grid), self.expand, self.state)


class Filtered(GridMixing):
    """Rational filters of the sequence of tokens, forwards and backwards."""

    def __init__(self, width: int, axes: int, state: int):
        super().__init__(axes)
        self.a, self.b = (nn.Parameter(torch.zeros(2, width, state)) for _ in range(2))
        self.first = nn.Parameter(torch.randn(2, width) * 0.5**0.5)
        self.slack = nn.Parameter(torch.ones(2, width, 1))
        self.out = nn.Linear(width, 2 * width)

    def forward(self, u: Tensor, layout: Layout) -> Tensor:
        n, kernels = u.shape[1], self.kernels(u.shape[1], u.device)
        x = wide(self.as_grid(u, layout)).flatten(2)
        forwards, backwards = (product(k, y, n) for k, y in zip(kernels, (x, x.flip(-1)), strict=True))
        value, gate = self.out((forwards + backwards.flip(-1)).mT.to(u.dtype)).chunk(2, -1)
        return value * torch.sigmoid(gate)

    def kernels(self, length: int, device: torch.device) -> Tensor:
        """The responses [2,D,length] to an impulse, of both directions."""
        a, b, first, slack = (wide(p) for p in (self.a, self.b, self.first, self.slack))
        a = a / (a.abs().sum(-1, keepdim=True) + slack.abs() + 1e-6)  # poles inside of the unit circle
        one = torch.ones_like(first)[..., None]
        below, known = torch.cat([one, a], -1), one
        while known.shape[-1] < length:  # Newton: g (2 - f g) has twice as many right terms
            m = 2 * known.shape[-1]
            rest = -product(below, known, m)
            known = product(known, torch.cat([rest[..., :1] + 2, rest[..., 1:]], -1), m)
        answer = product(torch.cat([torch.zeros_like(one), b], -1), known, length)
        return torch.cat([answer[..., :1] + first[..., None], answer[..., 1:]], -1)


def product(f: Tensor, g: Tensor, count: int) -> Tensor:
    """The first terms of the product of two power series [...,n]."""
    f, g = f[..., :count], g[..., :count]
    spectra = torch.fft.rfft(f, 2 * count) * torch.fft.rfft(g, 2 * count)
    return torch.fft.irfft(spectra, 2 * count)[..., :count]


@dataclass(frozen=True)
class RationalSSM(OneStream):
    """A linear filter with a rational transfer function for every channel, forwards and backwards, by FFT.

    H(z) = h + (b_1 z^-1 + .. + b_n z^-n) / (1 + a_1 z^-1 + .. + a_n z^-n),  o = gated(k * u + flip(k' * flip(u)))
    a and b are 0 and h is random at first, and |a| is below 1 in sum, which keeps the filter stable.  Kernels are power
    series without aliasing, so that sequences of other lengths have the same filter.  The order is that of the patches,
    row by row.  Time N log N, memory N.
    Source: Parnichkun et al. 2024, "State-Free Inference of State-Space Models: The Transfer Function Approach" (arXiv
    2405.06147).

    >>> RationalSSM().state
    16
    """

    state: Annotated[int, Range(least=1)] = 16  # order of the filter; 16 to 128, of no cost

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Filtered(width, len(grid), self.state)
