"""Maximum likelihood: posteriors over symbols by cross-entropy, and causal flows by their density."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.protocols.flows import Coupling, SymbolClassifier, SymbolPath, TimeSampler, source_of
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.couplings.basic import Independent
from beeline.networks.causal_flow import CausalFlow
from beeline.objectives.losses.basic import Weight, one
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase
from beeline.solvers.runge_kutta import EULER
from beeline.spaces.simplex import Dirichlet, GumbelSoftmax, PosteriorNetwork, check_simplex
from beeline.spaces.tokens import TokenMixture
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class Classify(ObjectiveBase):
    """Cross-entropy of the symbol at the data end, from whose posterior the velocity follows.

    E weight(t) (-log softmax(logits(x_t, t))[x1]), averaged over positions
    Assumes one-hot data [B,*S,K], a simplex or token path, and a PosteriorNetwork (a field with ``logits``).  Recipes
    that name no solver sample tokens with TokenJumps.
    Source: Stark et al. 2024 (arXiv 2402.05841); Gat et al. 2024 (arXiv 2407.15595).

    >>> from beeline.spaces.simplex import Dirichlet, PosteriorNetwork
    >>> net = PosteriorNetwork(lambda x, t: torch.zeros_like(x), Dirichlet())
    >>> Classify(Dirichlet())(net, Batch(torch.eye(2)), Rng(0)).value
    tensor(0.6931)
    """

    path: SymbolPath = field(default_factory=Dirichlet)
    coupling: Coupling | None = None  # None is Independent with the source of the path
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    drop: Drop | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, path=self.path, coupling=self.coupling, drop=self.drop, wrap=self.wrap)

    def __post_init__(self) -> None:
        require(
            isinstance(self.path, SymbolPath),
            f"Classify got the path {self.path}, which does not end at a symbol; use paths.Dirichlet, GumbelSoftmax or "
            "TokenMixture, or FlowMatching on this path",
        )
        fits = self.path.sources()
        if self.coupling is None:
            object.__setattr__(self, "coupling", Independent(fits[0]))
        source = source_of(self.coupling) or fits[0]
        known = [other for kind in (Dirichlet(), GumbelSoftmax(), TokenMixture()) for other in kind.sources()]
        require(
            source in fits or type(source) not in {type(other) for other in known},
            f"Classify got the path {self.path} and the source {source}, which belongs to another path; this path "
            f"starts from {' or '.join(str(fit) for fit in fits)}: use that source, or coupling=none",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network as a classifier, with logarithms of probabilities as its input."""
        x = batch.x1
        require(
            x.ndim > 2 and bool(((x == 0) | (x == 1)).all()) and bool((x.sum(-1) == 1).all()),
            f"Classify got data of shape {tuple(x.shape[1:])} that are not one-hot along the last dimension; it "
            "predicts the symbol at every position: use the recipe sequences, or data=SequenceFile(path)",
        )
        return PosteriorNetwork(network, self.path, logs=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, SymbolClassifier),
            f"Classify got a {type(field).__name__}, which has no ``logits`` of the symbol; wrap the network in "
            "PosteriorNetwork(network, path)",
        )
        check_simplex(batch.x1, "the datum")
        assert self.coupling is not None
        batch = FlowMatching(coupling=self.coupling, drop=self.drop).pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x = self.path.state(batch.x0, batch.x1, t, rng.fork("path"))
        logits = field.logits(x, t) if batch.cond is None else field.logits(x, t, batch.cond)
        each = -(batch.x1 * torch.log_softmax(logits, -1)).sum(-1)
        error = each.flatten(1).mean(1) if each.ndim > 1 else each
        per_sample = self.weight(t) * error
        if batch.weight is not None:
            per_sample = per_sample * batch.weight
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), "error": error.detach().mean()}, per_sample.detach(), t)


@dataclass(frozen=True)
class CausalLikelihood(ObjectiveBase):
    """Negative log-likelihood of a causal flow, on data with a little noise.

    E -log p(x1 + noise x0 | cond) / D, in nats per number
    Assumes a CausalFlow, sampled in one Euler step.  The noise keeps the density of discrete or degenerate data finite.
    Source: Zhai et al. 2024, TarFlow (arXiv 2412.06329).

    >>> flow = CausalFlow((2,), width=8, blocks=1, depth=1, heads=1)
    >>> CausalLikelihood(noise=0.0)(flow, Batch(torch.zeros(4, 2)), Rng(0)).value.detach()
    tensor(0.9189)
    """

    noise: NonNegative = 0.05  # standard deviation, in units of the data; 0.05 to 0.15 for images
    drop: Drop | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, drop=self.drop, solver=EULER, baselines=False, static_graph=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        flow = field
        while isinstance(flow, Wrapping):
            flow = flow.wrapped
        require(
            isinstance(flow, CausalFlow),
            f"CausalLikelihood got a {type(flow).__name__}, which has no density in one pass; use networks.CausalFlow",
        )
        batch = FlowMatching(drop=self.drop).pairs(batch, rng, field)
        assert batch.x0 is not None
        x = batch.x1 + self.noise * batch.x0
        each = -flow.log_prob(x.to(next(flow.parameters()).dtype), batch.cond).to(x.dtype) / x[0].numel()
        per_sample = each if batch.weight is None else each * batch.weight
        value = per_sample.mean()
        terms = {"loss": value.detach(), "error": each.detach().mean()}
        return Loss(value, terms, per_sample.detach(), torch.zeros_like(each))
