"""Routers: which experts of a feed a token goes to, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Annotated, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Counting
from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, Positive, Range, dataclass
from beeline.networks.transformer.layout import Layout, Notes, ReadsNull


class Routing(NamedTuple):
    """Which experts a token goes to."""

    chosen: Tensor  # [T,k] numbers of experts
    weight: Tensor  # [T,k] factors of their outputs
    notes: Notes
    runs: Tensor | None = None  # [T,k] bool: which of them are computed; None for all
    scores: Tensor | None = None  # [T,experts] not negative, from which others may choose


class Router(Protocol):
    """Chooses experts; ``build`` gives a module (tokens [T,D], rows [T], layout) -> Routing."""

    def build(self, width: int, experts: int) -> nn.Module:
        """The module for tokens of ``width`` channels and a number of experts."""
        ...


class Linear(nn.Module):
    """The gate of a TopK router."""

    def __init__(self, width: int, experts: int, active: int):
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.active = active

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        p = torch.softmax(wide(self.gate(h)), -1)
        weight, index = p.topk(self.active, -1)
        return Routing(index, normalised(weight), {"balance": balance(p, index)}, scores=p)


@dataclass(frozen=True)
class TopK:
    """The experts with the largest probabilities, which are normalised over the chosen ones.

    p = softmax(W u);  weights p_e / sum over the chosen of p;  note ``balance`` = E sum_e share_e mean p_e, 1 if even
    No expert has a capacity, so that a token does not depend on others.
    Source: Shazeer et al. 2017 (arXiv 1701.06538); the balance: Fedus, Zoph and Shazeer 2021 (arXiv 2101.03961).

    >>> TopK(2).active
    2
    """

    active: Count = 2  # experts of a token

    def build(self, width: int, experts: int) -> nn.Module:
        return Linear(width, experts, possible(self, self.active, experts))


class Biased(Counting):
    """A sigmoid gate with a bias on the choice, which is moved after every training step."""

    bias: Tensor
    load: Tensor

    def __init__(self, width: int, experts: int, active: int, rate: float):
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.active, self.rate = active, rate
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)  # of the step so far

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        s = torch.sigmoid(wide(self.gate(h)))
        index = (s.detach() + self.bias.to(s.dtype)).topk(self.active, -1).indices
        return Routing(index, normalised(s.gather(-1, index)), {"balance": balance(normalised(s), index)}, scores=s)

    def add(self, counts: list[int]) -> None:  # type: ignore[override]
        self.load += torch.tensor(counts, dtype=self.load.dtype).to(self.load.device)

    @torch.no_grad()
    def settle(self, total: Callable[[Tensor], Tensor]) -> None:
        load = total(self.load).clone()
        self.load.zero_()
        self.bias += self.rate * torch.sign(load.mean() - load)


@dataclass(frozen=True)
class BiasBalanced:
    """The experts with the largest scores plus a bias, which follows their loads and needs no term in the loss.

    s = sigmoid(W u);  experts = top k of s + b;  weights s_e / sum over the chosen of s
    After every training step b_e rises by ``rate`` where expert e had fewer tokens than the mean, and falls where it
    had more.  Tokens of all microbatches and processes count.  The bias is saved, averages of weights copy it.
    Source: Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing" (arXiv 2408.15664).

    >>> BiasBalanced().rate
    0.001
    """

    active: Count = 2  # experts of a token
    rate: Positive = 0.001  # of the bias, a step; 0.01 balances ten times faster and is less steady

    def build(self, width: int, experts: int) -> nn.Module:
        return Biased(width, experts, possible(self, self.active, experts), self.rate)


class FirstAndBest(nn.Module):
    """The first expert, and the best of the others."""

    def __init__(self, width: int, experts: int, active: int):
        super().__init__()
        self.gate = nn.Linear(width, experts - 1, bias=False)
        self.active = active

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        s = torch.softmax(wide(self.gate(h)), -1)
        best, index = s.topk(self.active - 1, -1)
        most = best[:, :1]
        weight = torch.cat([1 - most, most * torch.softmax(best, -1)], -1)
        return Routing(F.pad(1 + index, (1, 0)), weight, {"balance": balance(s, index)})


@dataclass(frozen=True)
class SharedTop:
    """The first expert for every token, and the best of the others, so that one copy of a dense feed stays near it.

    s = softmax(W u) over the others, m = max s;  weights 1 - m of the first, m softmax(s_chosen) of the best
    Weights sum to 1.
    Source: Ding et al. 2024, "XFT" (arXiv 2404.15247).

    >>> SharedTop(4).active
    4
    """

    active: Annotated[int, Range(least=2)] = 3  # experts of a token, the first one among them

    def build(self, width: int, experts: int) -> nn.Module:
        return FirstAndBest(width, experts, possible(self, self.active, experts))


class Rectified(nn.Module):
    """A router with places for a number of tokens at each expert."""

    def __init__(self, inner: nn.Module, capacity: float, fill: bool):
        super().__init__()
        self.inner, self.capacity, self.fill = inner, capacity, fill

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        found: Routing = self.inner(h, rows, layout)
        if not self.training:
            return found
        assert found.scores is not None
        scores = found.scores
        assigned = torch.zeros_like(scores, dtype=torch.bool).scatter(1, found.chosen, True)
        places = max(1, round(self.capacity * found.chosen.numel() / scores.shape[1]))
        kept = assigned & (served(scores, assigned) < places)
        over = assigned.sum(1, keepdim=True) - kept.sum(1, keepdim=True)  # assignments of a token without a place
        left = scores.detach().masked_fill(assigned, -1).masked_fill(kept, -2)  # those without a place come last
        others = left.argsort(dim=-1, descending=True, stable=True)
        experts = torch.arange(scores.shape[1], device=h.device)
        assigned = kept | torch.zeros_like(kept).scatter(1, others, experts < over)
        if self.fill:
            assigned = assigned | (~assigned & (served(scores, ~assigned) < places - assigned.sum(0)))
        chosen = experts.expand_as(scores)
        return Routing(chosen, normalised(scores * assigned), found.notes, assigned, scores)


@dataclass(frozen=True)
class Rectify:
    """Places for a number of tokens at each expert, without dropped tokens and without empty places.

    places = capacity T k / E;  a token beyond the places of its expert goes to the best other one, and
    free places take the tokens with the largest scores that are not there yet;  weights are normalised for each token
    In training only, where the tokens of a batch depend on each other; samples are drawn with the router inside.
    Source: Zeng et al. 2024, "Turn Waste into Worth: Rectifying Top-k Router of MoE" (arXiv 2402.12399).

    >>> Rectify(BiasBalanced(1)).capacity
    1.0
    """

    router: Router = field(default_factory=TopK)
    capacity: Positive = 1.0  # places over the mean load of an expert; 0.5 to 2
    fill: bool = True  # whether free places take tokens

    def __post_init__(self) -> None:
        require(
            isinstance(self.router, TopK | BiasBalanced),
            f"Rectify got the router {type(self.router).__name__}; it normalises weights over the experts of a token "
            "anew, which other routers do not: give TopK() or BiasBalanced()",
        )

    def build(self, width: int, experts: int) -> nn.Module:
        return Rectified(self.router.build(width, experts), self.capacity, self.fill)


class Cosines(ReadsNull):
    """Learned prototypes of experts; the last expert is that of rows without a condition."""

    def __init__(self, width: int, experts: int, active: int, temperature: float):
        super().__init__()
        self.prototypes = nn.Parameter(0.02 * torch.randn(experts - 1, width))
        self.active, self.temperature = active, temperature

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        p, u = (F.normalize(wide(v), dim=-1) for v in (self.prototypes, h))
        weight, index = (u @ p.T).topk(self.active, -1)
        runs, free = None, None if layout.null is None else layout.null[rows][:, None]
        if free is not None:
            first = torch.arange(self.active, device=h.device) == 0
            index = torch.where(free, len(p), index)
            weight = torch.where(free, first.to(weight.dtype), weight)
            runs = ~free | first
        notes = {"contrast": self.contrast(p, wide(h), index)} if layout.noting else {}
        return Routing(index, weight, notes, runs)

    def contrast(self, p: Tensor, u: Tensor, index: Tensor) -> Tensor:
        """Cross entropy of prototypes and the means of the tokens of the experts that have some; 0 for one expert."""
        member = F.one_hot(index, len(p) + 1).sum(1)[:, : len(p)].to(u)  # [T,E]
        has = member.sum(0) > 0
        means = F.normalize((member.T @ u)[has], dim=-1)
        logits = p[has] @ means.T / self.temperature
        return F.cross_entropy(logits, torch.arange(len(logits), device=u.device)) if len(logits) > 1 else 0 * p.sum()


@dataclass(frozen=True)
class Prototypes:
    """Experts with the nearest learned prototypes, and an expert of its own for tokens without a condition.

    weights = cos(u, p_e) of the k largest;  rows with the null condition go to the last expert, with weight 1
    Note ``contrast``: cross entropy of cos(p_i, mean token of expert j) / temperature to i = j, over experts with
    tokens; in a loss its weight is 1: ``objectives.Noted(objective, {"contrast": 1.0})``.
    Source: Wei et al. 2025, "Routing Matters in MoE: Scaling Diffusion Transformers with Explicit Routing Guidance"
    (arXiv 2510.24711), ProMoE; use it with a shared expert.

    >>> Prototypes(1).active
    1
    """

    active: Count = 1  # experts of a token
    temperature: Positive = 0.07

    def build(self, width: int, experts: int) -> nn.Module:
        require(
            experts >= 2,
            f"Prototypes got {experts} expert; the last one is that of tokens without a condition: set count to 2 or "
            "more",
        )
        return Cosines(width, experts, possible(self, self.active, experts - 1), self.temperature)


class Awake(nn.Module):
    """Experts with positive scores."""

    def __init__(self, width: int, experts: int, chunk: int):
        super().__init__()
        self.gate = nn.Linear(width, experts)
        nn.init.normal_(self.gate.weight, std=0.1 * width**-0.5)
        nn.init.ones_(self.gate.bias)  # all are awake at first; a row without any has no gradient
        self.chunk = chunk

    def forward(self, h: Tensor, rows: Tensor, layout: Layout) -> Routing:
        z = wide(self.gate(h))
        r = torch.relu(z)
        weight = r * torch.rsqrt(r.square().mean(-1, keepdim=True) + EPS) * (1 + EPS) ** 0.5
        index = torch.arange(z.shape[1], device=h.device).expand_as(z)
        return Routing(index, weight, self.notes(z, r, rows) if layout.noting else {}, r > 0, r)

    def notes(self, z: Tensor, r: Tensor, rows: Tensor) -> Notes:
        """Terms for neighbouring tokens that wake the same experts, and for chunks that wake few."""
        same = rows[1:] == rows[:-1]
        local = F.binary_cross_entropy_with_logits(100 * z[1:], torch.sigmoid(100 * z[:-1]), reduction="none")
        share = r / (r.sum(-1, keepdim=True) + EPS)
        chunks = F.pad(share, (0, 0, 0, -len(share) % self.chunk)).unflatten(0, (-1, self.chunk))
        return {
            "locality": (local.mean(-1) * same).sum() / same.sum().clamp(min=1),
            "chunk": 1 - (1 - chunks).prod(1).mean(),  # the probability that a chunk wakes an expert
            "awake": (r > 0).to(z.dtype).mean(),
            "awake_chunk": (chunks > 0).any(1).to(z.dtype).mean(),
        }


EPS = 1e-6


@dataclass(frozen=True)
class ReLURouter:
    """Experts with positive scores, as many as a token needs.

    r = relu(W u + b);  weights r / rms(r);  b = 1 at first, so that all experts are awake with weights near 1
    Notes for a loss: ``locality`` (neighbours wake the same experts) and ``chunk`` (a chunk of tokens wakes few);
    for the log: the shares ``awake`` and ``awake_chunk``.
    Source: Song et al. 2025, "BlockFFN" (arXiv 2507.08771).

    >>> ReLURouter().chunk
    8
    """

    chunk: Count = 8  # neighbouring tokens that are computed together

    def build(self, width: int, experts: int) -> nn.Module:
        return Awake(width, experts, self.chunk)


def possible(router: object, active: int, experts: int) -> int:
    """``active``, which may be at most the number of experts."""
    require(
        active <= experts,
        f"{type(router).__name__} got active={active} for {experts} experts; a token goes to some of them: set 1 to "
        f"{experts}",
    )
    return active


def normalised(weight: Tensor) -> Tensor:
    """Weights [...,k] that sum to 1."""
    return weight / weight.sum(-1, keepdim=True)


def served(scores: Tensor, among: Tensor) -> Tensor:
    """The places of tokens in the order of their scores for each expert, [T,E]; those of ``among`` come first."""
    order = scores.detach().masked_fill(~among, -1).argsort(dim=0, descending=True, stable=True)
    return order.argsort(0)


def balance(p: Tensor, index: Tensor) -> Tensor:
    """E sum_e share_e mean p_e for probabilities [T,E] and chosen experts [T,k]: 1 if tokens are evenly divided."""
    count = p.shape[-1]
    share = F.one_hot(index, count).sum(1).to(p).mean(0) / index.shape[-1]
    return count * (share * p.mean(0)).sum()
