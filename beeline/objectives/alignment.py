"""Regularisation: aligned, separable or dispersed features, smooth steps, states of the model's own prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beeline.core.errors import nearest, require
from beeline.core.modes import eval_mode
from beeline.core.protocols.data import Encoder
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import Objective, ObjectiveSpec, heldout_of
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time, leaves, take
from beeline.fields.flow import evaluate_field
from beeline.networks.hooks import block_features, block_name, block_width, captured_outputs, latest_output
from beeline.networks.transformer.layout import collected_notes
from beeline.objectives.heads import Head, settings_of
from beeline.objectives.losses.basic import squared
from beeline.objectives.losses.encoders import RandomFeatures, tokens
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.objectives.second_order import Helped
from beeline.paths.affine import AffinePath
from beeline.times.samplers import Uniform


class _Term(ObjectiveWrapper):
    """An objective plus a term.  The held-out loss is that of the objective alone."""

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False)

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)


class _TermBeside(_Term):
    """An objective plus a term that trains a helper beside the network."""

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap)

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with its helper."""
        raise NotImplementedError


@dataclass(frozen=True)
class Aligned(_TermBeside):
    """Representation alignment: hidden features of noisy states approach those of a frozen encoder of the clean datum.

    loss - strength mean cos(helper(h_block(x_t, t)), encoder(x1))
    Assumes a Helped network whose helper projects the block's features to the encoder's.  Tokens are compared one to
    one where their numbers agree, and by their means elsewhere.  Costs one encoder pass.
    Source: Yu et al. 2025, "Representation Alignment for Generation" (arXiv 2410.06940).

    >>> Aligned().encoder
    RandomFeatures(size=64, seed=0)
    """

    objective: Objective = field(default_factory=FlowMatching)
    block: str = ""  # name of the module whose output is aligned; empty is the middle block
    encoder: Encoder = field(default_factory=RandomFeatures)
    strength: NonNegative = 0.5  # of the cosine

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with a projector from the block's features to the encoder's."""
        block = block_name(network, self.block.removeprefix("field."))
        h = tokens(block_features(network, block, batch))
        with torch.no_grad():
            target = self.encoder(take(batch, torch.arange(1)).x1)
        with rng.ambient():
            return Helped(network, Head(h.shape[-1], target.shape[-1:], width=max(64, h.shape[-1])))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        helper, block = helper_of(field, self), block_name(field, self.block)
        with captured_outputs(field, block) as seen:
            loss = self.objective(field, batch, rng)
        with torch.no_grad():
            target = self.encoder(batch.x1)
        h = tokens(latest_output(seen, block))
        if h.ndim == target.ndim == 3 and h.shape[1] == target.shape[1]:
            h, target = h.flatten(0, 1), target.flatten(0, 1)
        predicted, target = (part.mean(1) if part.ndim == 3 else part for part in (h, target))
        predicted = helper(predicted)
        require(
            predicted.shape == target.shape,
            f"the projected features of {block!r} have shape {tuple(predicted.shape)} and the encoder's "
            f"{tuple(target.shape)}; they are compared one to one: use a helper with outputs of the encoder's shape",
        )
        return with_term(loss, -F.cosine_similarity(predicted, target, dim=-1).mean(), self.strength, "alignment")


@dataclass(frozen=True)
class Separable(_TermBeside):
    """Hidden features are trained to be linearly separable by class, without an encoder.

    loss + strength cross entropy(helper(mean h_block(x_t, t)), label)
    Assumes a Helped network whose helper is a linear probe, and labels as a condition.
    Source: "No Alignment Needed for Generation" 2025, learning linearly separable representations.

    >>> Separable(FlowMatching(), "field").by
    'label'
    """

    objective: Objective = field(default_factory=FlowMatching)
    block: str = ""  # name of the module whose output is probed; empty is the middle block
    by: str = "label"  # name of the condition that holds the class, before dropout
    strength: NonNegative = 0.1  # of the cross entropy

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with a linear probe."""
        known = settings_of(network).get("conditions") or {}
        require(
            "classes" in known.get(self.by, {}),
            f"Separable needs the class as the condition {self.by!r}, but the data have {sorted(known)}; "
            + (nearest(self.by, known) if known else "use data with labels, or Dispersed() without them"),
        )
        block = block_name(network, self.block.removeprefix("field."))
        width = block_width(network, block, batch, 3, self)
        with rng.ambient():
            return Helped(network, Head(width, (known[self.by]["classes"],)))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        helper = helper_of(field, self)
        conditions = dict(leaves(batch.cond))
        require(
            self.by in conditions,
            f"Separable needs the class as the condition {self.by!r}, but the batch has {sorted(conditions)}; "
            + (nearest(self.by, conditions) if conditions else "add the labels, or use Dispersed() without them"),
        )
        block = block_name(field, self.block)
        with captured_outputs(field, block) as seen:
            loss = self.objective(field, batch, rng)
        features = latest_output(seen, block)
        pooled = features.flatten(1, -2).mean(1) if features.ndim > 2 else features
        extra = F.cross_entropy(helper(pooled), conditions[self.by].long())
        return with_term(loss, extra, self.strength, "separability")


@dataclass(frozen=True)
class Dispersed(_Term):
    """Dispersive loss: hidden features of different data are pushed apart, as in a contrastive loss without pairs.

    loss + strength log mean_ij exp(-|h_i - h_j|^2 / (D temperature))
    Costs one product of the features of the batch with themselves.
    Source: Wang and He 2025, "Diffuse and Disperse" (arXiv 2506.09027).

    >>> Dispersed(FlowMatching(), "net").temperature
    0.5
    """

    objective: Objective = field(default_factory=FlowMatching)
    block: str = ""  # name of the module whose output is dispersed; empty is the middle block
    strength: NonNegative = 0.5
    temperature: Positive = 0.5  # squared distance per coordinate at which the repulsion fades

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        block = block_name(field, self.block)
        with captured_outputs(field, block) as seen:
            loss = self.objective(field, batch, rng)
        h = latest_output(seen, block).flatten(1)
        apart = (h.square().sum(1)[:, None] + h.square().sum(1)[None] - 2 * h @ h.T).clamp(min=0) / h.shape[1]
        extra = torch.logsumexp(-(apart / self.temperature).flatten(), 0) - 2 * math.log(len(h))
        return with_term(loss, extra, self.strength, "dispersion")


@dataclass(frozen=True)
class SmoothSteps(_Term):
    """A penalty on the local error of an embedded solver at random states, for fields that need fewer steps.

    loss + strength mean |v(x + h v, t + h) - v(x, t)|^2 / 4, which is the Euler-Heun error over h squared
    Assumes a velocity field.  Costs one more network pass.  The minimum changes where the exact flow is curved.
    Source: Pal et al. 2023, "Locally Regularized Neural Differential Equations" (arXiv 2303.02262).

    >>> penalty = SmoothSteps(FlowMatching())(lambda x, t: t[:, None] + 0 * x, Batch(torch.zeros(4, 1)), Rng(0))
    >>> bool(penalty.terms["curvature"] <= 0.01)
    True
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    strength: NonNegative = 0.1
    step: float = 0.1  # h, above 0 to 1

    def __post_init__(self) -> None:
        require(0 < self.step <= 1, f"SmoothSteps got step={self.step}; a step of time lies in (0, 1]: give 0.1")

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.inner.examples(batch, rng, field)
        cond = example.batch.cond
        predicted = evaluate_field(field, example.x, example.t, cond)
        s = (example.t + self.step).clamp(max=1)
        after = evaluate_field(field, example.x + expand_time(s - example.t, predicted) * predicted, s, cond)
        loss = self.inner.compare(predicted, example)
        return with_term(loss, squared(after, predicted).mean() / 4, self.strength, "curvature")


@dataclass(frozen=True)
class SelfRectified(ObjectiveWrapper):
    """States are computed from the model's own data estimate and the true noise, as they are in sampling.

    x0' = x0 + b(t)^power strength (x0 - x0_hat),  x0_hat = sg(source end implied by v(x_t, t));
    then the objective on the pair (x0', x1) at the same time.  With a factor of 1 the state is a x1_hat + b x0, and
    the target still leads to x1.
    Assumes an affine path.  Costs one more network pass, without gradient.  Exact where x1 is determined by x_t;
    elsewhere the minimum changes in favour of agreement with sampling.
    Source: Zhou et al. 2023, "DREAM" (arXiv 2312.00210).

    >>> SelfRectified()(lambda x, t: x, Batch(torch.zeros(4, 1)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    strength: NonNegative = 1.0  # 0 is the objective itself
    power: NonNegative = 1.0  # of the noise level b(t): the change fades towards the data

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        path = self.inner.path
        require(
            isinstance(path, AffinePath),
            f"SelfRectified was used on {type(path).__name__}, on which a velocity implies no source end; use an "
            "affine path such as Linear()",
        )
        assert isinstance(path, AffinePath)
        example = self.inner.examples(batch, rng, field)
        x0, cond = example.batch.x0, example.batch.cond
        assert x0 is not None
        with eval_mode(field):
            guess = path.noise(example.x, evaluate_field(field, example.x, example.t, cond), example.t)
        mix = self.strength * expand_time(path.b(example.t) ** self.power, x0)
        pairs = replace(example.batch, x0=x0 + mix * (x0 - guess))
        assert pairs.x0 is not None
        x, v = path.point(pairs.x0, pairs.x1, example.t)
        rebuilt = example._replace(batch=pairs, x=x, v=v)
        return self.inner.compare(evaluate_field(field, x, example.t, cond), rebuilt)


@dataclass(frozen=True)
class SelfPerceptual(ObjectiveWrapper):
    """Perceptual loss of the predicted datum with the hidden features of a frozen copy of the network.

    |h(x_hat_s, s) - h(x_s, s)|^2,  both noised to a time s with the same noise,  x_hat = data end implied by v(x_t, t)
    Assumes an affine path and a frozen trained copy.  Exact where x1 is determined by x_t; elsewhere the minimum
    is not the mean, as for every perceptual distance.
    Source: Lin and Yang 2024, "Diffusion Model with Perceptual Loss" (arXiv 2401.00110).

    >>> SelfPerceptual(FlowMatching(), nn.Identity(), "").plain
    0.0
    """

    objective: FlowMatching
    frozen: nn.Module  # a trained copy of the network
    block: str  # name of the module of the copy whose output is compared
    plain: NonNegative = 0.0  # weight of the loss of the objective
    times: TimeSampler = field(default_factory=Uniform)  # of the second noising

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        path = self.inner.path
        require(
            isinstance(path, AffinePath),
            f"SelfPerceptual was used on {type(path).__name__}, on which a velocity implies no data end; use an affine "
            "path such as Linear()",
        )
        assert isinstance(path, AffinePath)
        example = self.inner.examples(batch, rng, field)
        cond = example.batch.cond
        predicted = evaluate_field(field, example.x, example.t, cond)
        guess = path.data(example.x, predicted, example.t)
        s = self.times(len(guess), guess, rng.fork("again"))
        noise = rng.fork("noise").normal(guess)
        for weight in self.frozen.parameters():
            weight.requires_grad_(False)
        with captured_outputs(self.frozen, self.block) as seen:
            evaluate_field(self.frozen, path.point(noise, guess, s).x, s, cond)
            with torch.no_grad():
                evaluate_field(self.frozen, path.point(noise, example.batch.x1, s).x, s, cond)
        apart = squared(seen[0], seen[1].detach())
        loss = self.inner.compare(predicted, example)
        value, seen_apart = self.plain * loss.value + apart.mean(), apart.detach()
        terms = {**loss.terms, "loss": value.detach(), "features": seen_apart.mean()}
        return Loss(value, terms, self.plain * loss.per_sample + seen_apart, loss.t)


def helper_of(field: Any, whose: object) -> Any:
    """The helper of a Helped network."""
    require(
        isinstance(field, Helped),
        f"{type(whose).__name__} got a {type(field).__name__}; it trains a helper beside the field: give "
        "Helped(field, helper)",
    )
    return field.helper


@dataclass(frozen=True)
class Noted(_Term):
    """An objective plus notes of the network, such as the balance of its experts.

    loss + sum_k weight_k mean over blocks of note_k
    A note without a weight is not used.  Costs no further pass.
    Assumes a network whose blocks give these notes, such as DiT(feed=Experts()).
    Source: Fedus, Zoph and Shazeer 2021, "Switch Transformers" (arXiv 2101.03961), the balance of experts.

    >>> Noted().weights
    {'balance': 0.01}
    """

    objective: Objective = field(default_factory=FlowMatching)
    weights: Mapping[str, float] = field(default_factory=lambda: {"balance": 0.01})  # name of a note -> its weight

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        with collected_notes() as seen:
            loss = self.objective(field, batch, rng)
        every = [(name.rpartition(".")[2], value) for notes in seen for name, value in notes.items()]
        known = [(name, value) for name, value in every if value.requires_grad] or every  # not those of teachers
        for name, weight in self.weights.items():
            values = [value for own, value in known if own == name]
            require(
                values,
                f"Noted got the note {name!r}, and the network gives {sorted({own for own, _ in known}) or 'none'}; "
                "give names of these, or use a network with them, such as networks.DiT with feed=Experts()",
            )
            loss = with_term(loss, torch.stack(values).mean(), weight, name)
        return loss


def with_term(loss: Loss, extra: Tensor, strength: float, name: str) -> Loss:
    """The loss plus ``strength`` times the term ``extra``."""
    value = loss.value + strength * extra
    return Loss(value, {**loss.terms, "loss": value.detach(), name: extra.detach()}, loss.per_sample, loss.t)
