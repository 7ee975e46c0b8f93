"""Guidance: a rule that combines a strong and a weak prediction inside a time window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import as_map, is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Combination, Guidance, Reference, Rule, reference_calls
from beeline.core.ranges import NonNegative, check_window, dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves
from beeline.fields.flow import Flow, bind
from beeline.sampling.guidance.dependence import Containing, TimesDependent
from beeline.sampling.guidance.dependence import FlowDependent as FlowDependent
from beeline.sampling.guidance.null import null_like as null_like
from beeline.sampling.guidance.predictions import Predictions
from beeline.sampling.guidance.references.negative import Negative


def guidance_for_flow(guidance: Guidance, flow: Flow, times: Tensor | None = None) -> Guidance:
    """The guidance for ``flow`` and for a run over ``times`` [steps+1]; a Sampler calls this before every run."""
    if isinstance(guidance, FlowDependent):
        guidance = guidance.for_flow(flow)
    return guidance.for_times(times) if times is not None and isinstance(guidance, TimesDependent) else guidance


@dataclass(frozen=True)
class Plain:
    """No guidance.

    v = v(x, t, cond)

    >>> Plain()(lambda x, t, cond: cond, torch.ones(1, 1))(torch.zeros(1, 1), torch.zeros(1))
    tensor([[1.]])
    """

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        return bind(field, cond, repeat=True)

    def calls(self, t: float) -> int:
        return 1


@dataclass(frozen=True)
class Unconditional(FlowDependent):
    """The same field under a null condition.

    weak = v(x, t, null)
    Assumes a network trained with condition dropout to this null.
    Source: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598).

    >>> Unconditional(10)(None, torch.tensor([3, 4]))[1]
    tensor([10, 10])
    """

    # null conditions by name, for the batch or for one sample (then repeated), or one number for all leaves;
    # None is the null of the flow or its network
    null: Any = None

    def for_flow(self, flow: Flow) -> Reference:
        """The reference with the null of ``flow``; raises ValueError for a flow without one and for another null."""
        learned = flow.null
        if isinstance(learned, Negative):
            return learned if self.null is None else self
        require(
            not (isinstance(learned, Mapping) and not learned),
            "guidance was requested for a flow that was trained without condition dropout; its unconditional "
            "prediction is untrained: train with Drop(0.1), or use Plain()",
        )
        require(
            learned is not None or self.null is not None,
            "guidance got no null condition, and the flow records none; the weak prediction needs one: use CFG(scale, "
            "null={'label': 10}), or Flow(..., null={'label': 10})",
        )
        return self if learned is None else LearnedNull(learned, self.null)

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        require(
            cond is not None,
            "guidance got cond=None; it extrapolates from the null condition to a condition: pass cond=, or use "
            "Plain()",
        )
        return field, null_like(self.null, cond, field)


@dataclass(frozen=True)
class LearnedNull:
    """The null condition of a flow; raises ValueError if ``given`` differs from it."""

    null: Any
    given: Any = None

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        _, null = Unconditional(self.null)(field, cond)
        if self.given is not None:
            _, given = Unconditional(self.given)(field, cond)
            pairs = zip(leaves(null), leaves(given), strict=True)
            other = [name for (name, a), (_, b) in pairs if not torch.equal(a, b.to(a))]
            require(
                not other,
                f"guidance got the null {self.given} for {other}, but the flow was trained with {self.null}; other "
                "values were not trained as nulls: omit it, as in CFG(scale)",
            )
        return field, null


@dataclass(frozen=True)
class Weak:
    """A weaker field under the same condition (autoguidance).

    weak = other(x, t, cond)
    Assumes a field trained on the same data and path.
    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv 2406.02507).

    >>> Weak(torch.sin)("field", None)[0] is torch.sin
    True
    """

    field: Any  # a VelocityField

    def __post_init__(self) -> None:
        require(
            callable(self.field),
            f"Weak got {str(self.field)[:80]!r}, which is not callable; a field cannot be given as text: pass it in "
            "Python, as in Weak(load('runs/small').flow.field), or name a bundle: WeakBundle(runs/small)",
        )

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        return self.field, cond


@dataclass(frozen=True)
class Extrapolate:
    """Linear extrapolation from the weak through the strong prediction.

    v = weak + scale (strong - weak);  scale 1 is the strong prediction, 0 the weak one
    Source: Ho and Salimans 2022 (arXiv 2207.12598).

    >>> Extrapolate(2.0).for_run()(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
    tensor([[2.]])
    """

    scale: NonNegative  # 1 is no guidance; 1.5 to 7 is usual

    def for_run(self) -> Combination:
        return lambda strong, weak, x, t: torch.add(strong, strong - weak, alpha=self.scale - 1)


@dataclass(frozen=True)
class Guide(Containing):
    """Guidance by a reference, a rule and a time window.

    v = rule(strong, weak) for t inside the window, strong outside
    Assumes the assumptions of the reference.
    Source: Ho and Salimans 2022 (arXiv 2207.12598); the window is Kynkaanniemi et al. 2024 (arXiv 2404.07724).

    >>> Guide(Unconditional(0), Extrapolate(3.0), window=(0.2, 0.9)).calls(0.5)
    2
    """

    reference: Reference
    rule: Rule
    window: tuple[float, float] = (0.0, 1.0)  # times with guidance, both ends included
    together: bool = True  # evaluate both predictions in one batch of 2B if they come from one field

    def __post_init__(self) -> None:
        check_window("Guide", self.window)

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        alone, both = self.predictions(field, cond)
        combine = self.rule.for_run()
        low, high = self.window

        def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
            whole = (low, high) == (0.0, 1.0) or bool(self.within(host_times(t)).all())
            if not whole and not bool(self.within(host_times(t)).any()):
                return alone(x, t, *s)
            strong, weak = both(x, t, *s)
            guided = combine(strong, weak, x, t)
            return guided if whole else torch.where(expand_time(self.within(t), x), guided, strong)

        return like_field(field, f)

    def within(self, t: Tensor) -> Tensor:
        """Whether guidance applies, for every time."""
        low, high = self.window
        return (t >= low) & (t <= high)

    def predictions(self, field: Any, cond: Cond) -> tuple[Dynamics, Callable[..., Sequence[Tensor]]]:
        """The strong prediction alone, and the function (x, t, *s) -> (strong, weak), for one run."""
        made = Predictions(field, cond, [self.reference], self.together)
        return made.strong, made

    def calls(self, t: float) -> int:
        return 1 + (reference_calls(self.reference) if self.window[0] <= t <= self.window[1] else 0)


class OfGuide(Containing):
    """Base of guidance whose member ``guidance`` is a Guide, as its checks make sure."""

    guidance: Guidance

    @property
    def guide(self) -> Guide:
        """The guidance inside."""
        assert isinstance(self.guidance, Guide)
        return self.guidance


@dataclass(frozen=True)
class Guides(Containing):
    """Several kinds of guidance at once, each with its own reference, rule and window.

    v = strong + sum_k (v_k - strong),  v_k = rule_k(strong, weak_k) inside window k, strong outside
    With one member this is that member.  The strong prediction is evaluated once.
    Assumes the assumptions of the references.
    Source: Karras et al. 2024 (arXiv 2406.02507), who add autoguidance and classifier-free guidance.

    >>> Guides((CFG(3.0, null=10), CFG(2.0, null=0, window=(0.5, 1)))).calls(0.2)
    2
    """

    guides: tuple[Guide, ...]
    together: bool = True  # evaluate predictions of one field in one batch

    def __post_init__(self) -> None:
        require(
            len(self.guides) > 0 and all(isinstance(guide, Guide) for guide in self.guides),
            f"Guides got {[type(guide).__name__ for guide in self.guides]}; it adds differences of Guides: give at "
            "least one Guide, such as CFG(3.0)",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        predictions = Predictions(field, cond, [guide.reference for guide in self.guides], self.together)
        rules = [guide.rule.for_run() for guide in self.guides]

        def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
            active = [k for k, guide in enumerate(self.guides) if bool(guide.within(host_times(t)).any())]
            strong, *weak = predictions(x, t, *s, which=active)
            v = strong
            for k, prediction in zip(active, weak, strict=True):
                change = rules[k](strong, prediction, x, t) - strong
                whole = bool(self.guides[k].within(host_times(t)).all())
                inside = expand_time(self.guides[k].within(t), x)
                v = v + (change if whole else torch.where(inside, change, torch.zeros_like(change)))
            return v

        return like_field(field, f)

    def calls(self, t: float) -> int:
        return 1 + sum(guide.calls(t) - 1 for guide in self.guides)


def CFG(scale: float, null: Any = None, window: tuple[float, float] = (0.0, 1.0)) -> Guide:  # noqa: N802 - a name of the field
    """Classifier-free guidance: v = weak + scale (strong - weak), weak = v(x, t, null).

    ``scale`` 1 is no guidance.  ``null`` is a tree of null conditions for the batch or for one sample (then repeated),
    such as {"label": 10}, or a number for all leaves; by default the null of the flow or its network.  Guidance applies
    for t inside ``window``.
    Source: Ho and Salimans 2022 (arXiv 2207.12598).

    >>> CFG(3.0, null=10).rule
    Extrapolate(scale=3.0)
    """
    return Guide(Unconditional(null), Extrapolate(scale), window)


def like_field(field: Any, f: Callable[..., Tensor]) -> Dynamics:
    """The function f(x, t), or f(x, t, s) for a flow map, as dynamics of the kind of ``field``."""
    return as_map(lambda x, t, s=None: f(x, t, t if s is None else s)) if is_map(field) else f
