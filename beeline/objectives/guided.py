"""Guidance in the training target, so that sampling needs one network pass per evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from beeline.core.declared import in_place_of
from beeline.core.errors import require
from beeline.core.modes import eval_mode, wide
from beeline.core.progress import common
from beeline.core.protocols.flows import Reference
from beeline.core.protocols.objectives import ObjectiveSpec, spec_of
from beeline.core.ranges import NonNegative, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Dynamics, Loss, expand_time, leaves, map_cond
from beeline.fields.flow import Flow, evaluate_field
from beeline.objectives.matching import Example, FlowMatching, ObjectiveWrapper
from beeline.sampling.guidance.guide import Extrapolate, Guide, Unconditional, guidance_for_flow
from beeline.sampling.guidance.null import null_like
from beeline.sampling.guidance.temperature import Temperature
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER


@dataclass(frozen=True)
class GuidanceFree(ObjectiveWrapper):
    """Guidance-free training: the guided velocity is learned, with the temperature beta = 1/scale as an input.

    E |beta v(x, t, c, beta) + (1 - beta) sg v(x, t, null, 1) - u|^2,  beta ~ U(0, 1), 1 where the condition is dropped;
    at its minimum v(., beta) is classifier-free guidance of scale 1/beta
    Assumes named conditions, a network with the extra condition ``beta`` (a vector of size 1), and an objective with
    condition dropout.  Costs one more network pass per step, without gradient.
    Source: Chen et al. 2025, "Visual Generation Without Guidance" (arXiv 2501.15420).

    >>> from beeline.objectives.matching import Drop
    >>> objective = GuidanceFree(FlowMatching(drop=Drop(0.1, 10)))
    >>> net = lambda x, t, cond: x * cond["beta"]
    >>> objective(net, Batch(torch.zeros(4, 2), cond={"label": torch.arange(4)}), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    objective: FlowMatching = field(default_factory=FlowMatching)  # with condition dropout
    null: Any = None  # the null condition; None is that of the objective's dropout

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, conditions={"beta": {"size": 1}}, guidance=Temperature(1.5))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        check_named(batch.cond, self)
        beta = rng.fork("beta").uniform(len(batch.x1), wide(batch.x1[:0]))

        def mixed(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            void = null_of(self, cond, field)
            share = torch.where(equal(cond, void), torch.ones_like(beta), beta)
            with eval_mode(field):
                weak = evaluate_field(field, x, t, with_beta(void, torch.ones_like(beta)))
            wide = expand_time(share, x)
            return wide * evaluate_field(field, x, t, with_beta(cond, share)) + (1 - wide) * weak

        return self.objective(in_place_of(field, mixed), batch, rng)


@dataclass(frozen=True)
class ModelGuidance(ObjectiveWrapper):
    """Model guidance: the network's own guidance is added to the target, so that it learns the guided velocity.

    E |v(x, t, c) - (u + k sg[v(x, t, c) - v(x, t, null)])|^2,  k = 1 - 1/scale;  u alone where c is dropped;
    at its minimum v(., c) is classifier-free guidance of that scale
    Assumes an objective with condition dropout, and sampling without guidance.  Costs one more network pass per step,
    without gradient.  Start from a trained network: the differences of an untrained one are noise.
    Source: Tang et al. 2025, "Diffusion Models without Classifier-free Guidance" (arXiv 2502.12154).

    >>> from beeline.objectives.matching import Drop
    >>> objective = ModelGuidance(FlowMatching(drop=Drop(0.1, 10)), scale=2.0)
    >>> objective(lambda x, t, c: x, Batch(torch.zeros(4, 2), cond=torch.arange(4)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    objective: FlowMatching = field(default_factory=FlowMatching)  # with condition dropout
    null: Any = None  # the null condition; None is that of the objective's dropout
    scale: float = 1.5  # of the learned guidance; 1 is none, 1.3 to 2 is usual

    def __post_init__(self) -> None:
        require(
            self.scale >= 1,
            f"ModelGuidance got scale={self.scale}; below 1 the target moves away from the condition: give 1 or more "
            "(1.5 is usual)",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        def shifted(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            void = null_of(self, cond, field)
            strong = evaluate_field(field, x, t, cond)
            with eval_mode(field):
                weak = evaluate_field(field, x, t, void)
            k = torch.where(equal(cond, void), 0.0, 1 - 1 / self.scale).to(x.dtype)
            return strong - expand_time(k, x) * (strong.detach() - weak)

        return self.objective(in_place_of(field, shifted), batch, rng)


@dataclass(frozen=True)
class Anticipating(ObjectiveWrapper):
    """Training of the guided combination, so that guided sampling has the distribution of the data.

    E |v_null + scale (v(x, t, c) - v_null) - u|^2,  v_null = sg v(x, t, null);  v(x, t, null) alone where c is dropped;
    at its minimum guidance of that scale is the exact conditional field
    Assumes an objective with condition dropout, and sampling with that scale.  Costs one more network pass per step,
    without gradient.
    Source: Patel et al. 2023, "Bridging the Gap" (arXiv 2311.00938).

    >>> from beeline.objectives.matching import Drop
    >>> objective = Anticipating(FlowMatching(drop=Drop(0.1, 10)))
    >>> objective(lambda x, t, c: x, Batch(torch.zeros(4, 2), cond=torch.arange(4)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    objective: FlowMatching = field(default_factory=FlowMatching)  # with condition dropout
    null: Any = None  # the null condition; None is that of the objective's dropout
    scale: float = 1.5  # of the guidance in sampling; 1 is plain training
    share: float = 1.0  # of samples trained through the combination, 0 to 1

    def __post_init__(self) -> None:
        require(
            self.scale > 0 and 0 <= self.share <= 1,
            f"Anticipating got scale={self.scale}, share={self.share}; a scale is positive and a share lies between 0 "
            "and 1: 1.5 and 1 are usual",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        chosen = rng.fork("share").uniform(len(batch.x1), wide(batch.x1[:0])) < self.share

        def guided(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            void = null_of(self, cond, field)
            strong = evaluate_field(field, x, t, cond)
            with eval_mode(field):
                weak = evaluate_field(field, x, t, void)
            scale = torch.where(chosen & ~equal(cond, void), self.scale, 1.0).to(x.dtype)
            return weak + expand_time(scale, x) * (strong - weak)

        return self.objective(in_place_of(field, guided), batch, rng)


@dataclass(frozen=True)
class Contrastive(ObjectiveWrapper):
    """Condition contrastive alignment: a trained model is tuned towards its conditions and away from others.

    -log sigmoid(strength r(x, c)) - push log sigmoid(-strength r(x, c')),  c' another datum's condition,
    r = distance(v_ref, u) - distance(v, u) in place of a log likelihood ratio to the frozen reference
    Assumes conditions and a frozen copy of the trained model.  Costs two passes with and two without gradient.  The
    minimum is a tilted velocity field, which needs no guidance, and not that of the data.
    Source: Chen, Su and Zhu 2024, "Toward Guidance-Free AR Visual Generation via CCA" (arXiv 2410.09347).

    >>> v = lambda x, t, c: x
    >>> batch = Batch(torch.zeros(4, 2), cond=torch.arange(4))
    >>> round(float(Contrastive(FlowMatching(), v, push=1.0)(v, batch, Rng(0)).value), 4)
    1.3863
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    reference: Any = None  # the frozen model
    strength: NonNegative = 1.0  # per squared data unit and coordinate; higher follows single samples more closely
    push: NonNegative = 0.5  # weight of the wrong conditions; higher is closer to the condition and less diverse

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            self.reference is not None,
            "Contrastive got no reference; it compares a model with a frozen copy of its initial state: pass "
            "reference=copy.deepcopy(model)",
        )
        require(
            batch.cond is not None,
            "Contrastive got data without conditions; it compares right with wrong conditions: pass cond=",
        )
        example = self.inner.examples(batch, rng, field)
        right = example.batch.cond
        n = len(batch.x1)
        order = (
            torch.arange(n) + 1 + rng.fork("wrong").integers(max(n - 1, 1), 1)
        ) % n  # no sample has its own condition
        wrong = map_cond(lambda leaf: leaf[order.to(leaf.device)], right)

        def ratio(cond: Cond) -> Tensor:
            with eval_mode(self.reference):
                before = self.inner.errors(evaluate_field(self.reference, example.x, example.t, cond), example)
            after = self.inner.errors(evaluate_field(field, example.x, example.t, cond), example)
            return self.strength * (before - after).reshape(n, -1).mean(1)

        differs = (~equal(right, wrong)).to(example.x.dtype)
        attract, repel = -F.logsigmoid(ratio(right)), -F.logsigmoid(-ratio(wrong))
        per_sample = attract + self.push * differs * repel
        if batch.weight is not None:
            per_sample = per_sample * batch.weight
        value = per_sample.mean()
        terms = {"loss": value.detach(), "attract": attract.detach().mean(), "repel": repel.detach().mean()}
        return Loss(value, terms, per_sample.detach(), example.t)


@dataclass(frozen=True)
class GuidanceDistilled(ObjectiveWrapper):
    """Distillation of guidance: one network learns the guided velocities of a teacher for a range of scales.

    E |v(x_t, t, c, beta) - (weak + scale (strong - weak))|^2,  beta = 1/scale,  scale ~ U(scales)
    Sample with Temperature(scale), which takes one network pass per evaluation.  States are noised data, which is the
    first stage of the paper (the second, fewer steps, is PeRFlow or OneStep), or with ``rollout`` those of guided
    sampling, where the student is used.
    Assumes named conditions, a network with the extra condition ``beta`` (a vector of size 1), a trained teacher and
    an objective without condition dropout.  Costs two network passes of the teacher per step, and with ``rollout`` as
    many more for each of half of its steps.
    Source: Meng et al. 2023, "On Distillation of Guided Diffusion Models" (arXiv 2210.03142); states of guided
    sampling: Jensen and Sadat 2025 (arXiv 2503.07274).

    >>> teacher = Flow(lambda x, t, cond: x, null={"label": 10})
    >>> batch = Batch(torch.zeros(4, 2), cond={"label": torch.arange(4)})
    >>> GuidanceDistilled(teacher)(lambda x, t, cond: x * cond["beta"], batch, Rng(0)).per_sample.shape
    torch.Size([4])
    """

    teacher: Flow
    objective: FlowMatching = field(default_factory=FlowMatching)
    reference: Reference = field(default_factory=Unconditional)  # of the weak prediction
    scales: tuple[float, float] = (1.0, 4.0)  # from 1 to 10, the range of Temperature
    given: bool = True  # whether the student takes the scale as its condition ``beta``; else there is one scale alone
    rollout: Whole = 0  # steps of guided sampling by the teacher whose states are trained on; 0 takes noised data

    def __post_init__(self) -> None:
        low, high = self.scales
        require(
            self.given or low == high,
            f"GuidanceDistilled got scales={self.scales} and given=False; a student that does not take the scale "
            f"learns one: give scales=({high}, {high})",
        )
        require(
            1 <= low <= high <= 10,
            f"GuidanceDistilled got scales={self.scales}; the student is sampled by Temperature at scales from 1 to "
            "10: give (low, high) inside, such as (1, 4)",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        if not self.given:
            return super().spec
        return replace(super().spec, conditions={"beta": {"size": 1}}, guidance=Temperature(1.5))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        if self.given:
            check_named(batch.cond, self)
        example = self.inner.examples(batch, rng, field)
        low, high = self.scales
        scale = low + (high - low) * rng.fork("scale").uniform(len(example.x), example.x)
        guide = guidance_for_flow(Guide(self.reference, Extrapolate(0.0)), self.teacher)
        assert isinstance(guide, Guide)
        both = guide.predictions(self.teacher.field, example.batch.cond)[1]

        def guided(x: Tensor, t: Tensor) -> Tensor:
            strong, weak = both(x, t)
            return weak + expand_time(scale, x) * (strong - weak)

        with eval_mode(self.teacher.field, self.reference):
            if self.rollout:
                example = self.on_trajectory(example, guided, rng.fork("rollout"))
            target = guided(example.x, example.t)
        cond = with_beta(example.batch.cond, 1 / scale) if self.given else example.batch.cond
        return self.inner.compare(evaluate_field(field, example.x, example.t, cond), example._replace(v=target))

    def on_trajectory(self, example: Example, guided: Dynamics, rng: Rng) -> Example:
        """States of Euler steps of the guided teacher from the source points, one time for the batch, in a step."""
        grid = torch.linspace(0, 1, self.rollout + 1, dtype=example.x.dtype, device=example.x.device)
        k = int(common(rng).fork("rollout").integers(self.rollout, 1))  # on the CPU
        x = example.batch.x0
        assert x is not None
        if k:
            x = integrate(guided, x, grid[: k + 1], EULER).to(x.dtype)
        return example._replace(x=x, t=grid[k].expand(len(x)).clone())


def equal(cond: Cond, other: Cond) -> Tensor:
    """[B]: whether all conditions of a sample are equal."""
    same = [
        (a == b).flatten(1).all(1) if a.ndim > 1 else a == b
        for (_, a), (_, b) in zip(leaves(cond), leaves(other), strict=True)
    ]
    return torch.stack(same).all(0)


def null_of(whose: Any, cond: Cond, field: Any) -> Cond:
    """The null condition of a guided objective: its own, or that of the dropout."""
    drop = spec_of(whose.objective).drop
    require(
        cond is not None,
        f"{type(whose).__name__} learns guidance towards a condition, and the data have none; use data with labels, or "
        "FlowMatching()",
    )
    require(
        drop is not None,
        f"{type(whose).__name__} needs a learned null condition, and its objective has no condition dropout; add "
        "drop=Drop(0.1) to the objective",
    )
    return null_like(drop.null if whose.null is None else whose.null, cond, field)


def check_named(cond: Cond, whose: object) -> None:
    """Refuse conditions that are not a mapping by name."""
    require(
        isinstance(cond, Mapping),
        f"{type(whose).__name__} adds the condition 'beta' to the others, but the batch has "
        f"{'none' if cond is None else 'one without a name'}; give cond as a mapping, such as {{'label': labels}}",
    )


def with_beta(cond: Cond, beta: Tensor) -> Cond:
    """The named conditions with the temperature [B]."""
    assert isinstance(cond, Mapping)
    return {**cond, "beta": beta[:, None]}
