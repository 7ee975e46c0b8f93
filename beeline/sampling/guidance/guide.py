"""Guidance: a rule that combines a strong and a weak prediction inside a time window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Remembering, as_map, is_map, unwrapped
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Guidance, Reference, Rule
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.fields.flow import Flow, bind
from beeline.sampling.guidance.negative import Negative
from beeline.sampling.guidance.null import null_like as null_like
from beeline.solvers.process import FieldReadout


class FlowDependent(ABC):
    """Base class of guidance and references that depend on the flow in addition to its field."""

    @abstractmethod
    def for_flow(self, flow: Flow) -> Any:
        """The guidance or reference for ``flow``."""


def guidance_for_flow(guidance: Guidance, flow: Flow) -> Guidance:
    """The guidance for ``flow``; a Sampler calls this before every run."""
    return guidance.for_flow(flow) if isinstance(guidance, FlowDependent) else guidance


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

    scale: float  # 1 is no guidance; 1.5 to 7 is usual

    def for_run(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        return lambda strong, weak, x, t: torch.add(strong, strong - weak, alpha=self.scale - 1)


@dataclass(frozen=True)
class Guide(FlowDependent):
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
        low, high = self.window
        require(
            0 <= low <= high <= 1,
            f"Guide got window={self.window}, which is no interval of times: set (low, high) with "
            "0 <= low <= high <= 1",
        )

    def for_flow(self, flow: Flow) -> Guidance:
        """The guidance with the reference for ``flow``."""
        return (
            replace(self, reference=self.reference.for_flow(flow))
            if isinstance(self.reference, FlowDependent)
            else self
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        alone, both = self.predictions(field, cond)
        combine = self.rule.for_run()
        low, high = self.window

        def within(t: Tensor) -> Tensor:
            return (t >= low) & (t <= high)

        def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
            whole = (low, high) == (0.0, 1.0) or bool(within(host_times(t)).all())
            if not whole and not bool(within(host_times(t)).any()):
                return alone(x, t, *s)
            strong, weak = both(x, t, *s)
            guided = combine(strong, weak, x, t)
            return guided if whole else torch.where(expand_time(within(t), x), guided, strong)

        return as_map(lambda x, t, s=None: f(x, t, t if s is None else s)) if is_map(field) else f

    def predictions(self, field: Any, cond: Cond) -> tuple[Dynamics, Callable[..., tuple[Tensor, Tensor]]]:
        """The strong prediction alone, and the function (x, t, *s) -> (strong, weak), for one run."""
        strong = field.field if isinstance(field, FieldReadout) else field
        other, null = self.reference(strong, cond)
        other = field.with_field(other) if isinstance(field, FieldReadout) else other
        apart_strong, apart_weak = bind(field, cond, repeat=True), bind(other, null, repeat=True)
        apart = isinstance(unwrapped(field), Remembering)  # each prediction has its own memory
        joined = self.together and not apart and other is field and _stackable(cond, null)
        pair = map_cond(lambda a, b: torch.cat([a, b]), cond, null) if joined else None
        double = bind(field, pair) if joined else None
        rows = min((len(leaf) for _, leaf in leaves(cond) if leaf.ndim), default=0)

        def both(x: Tensor, t: Tensor, *s: Tensor) -> tuple[Tensor, Tensor]:
            if double is not None and len(x) == rows:  # not for solvers that are parallel in time
                strong, weak = double(*(torch.cat([part, part]) for part in (x, t, *s))).chunk(2)
                return strong, weak
            return apart_strong(x, t, *s), apart_weak(x, t, *s)

        return apart_strong, both

    def calls(self, t: float) -> int:
        return 2 if self.window[0] <= t <= self.window[1] else 1


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


def _stackable(cond: Cond, null: Cond) -> bool:
    """Whether two conditions can form one batch: the same leaves with the same shapes."""
    shapes = [{name: leaf.shape[1:] for name, leaf in leaves(tree)} for tree in (cond, null)]
    return cond is not None and null is not None and shapes[0] == shapes[1]
