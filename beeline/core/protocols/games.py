"""Protocols of score games, in which a student is trained against networks that follow its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from beeline.core.protocols.flows import Source
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond

if TYPE_CHECKING:  # needed by annotations only
    from beeline.fields.flow import Flow
    from beeline.paths.affine import AffinePath
    from beeline.sampling.sampler import Sampler


class Generated(NamedTuple):
    """Samples of a student, with the last evaluation that made them."""

    x1: Tensor  # [B,*S], with a graph
    x: Tensor  # [B,*S], the state of the last evaluation
    t: Tensor  # [B], its time
    s: Tensor  # [B], the next time of the student's grid
    path: AffinePath  # on which samples are noised
    end: float = 1.0  # the time at which this path reaches the samples


class Noised(NamedTuple):
    """States at which the student is compared with the teacher, with the slopes that the fake network learns there."""

    x: Tensor  # [B,*S]
    t: Tensor  # [B]
    v: Tensor  # [B,*S]


class Situation(NamedTuple):
    """What a loss of the student takes: its samples, the noised states, and predictions of the datum there."""

    made: Generated
    at: Noised
    path: AffinePath  # of the teacher
    teacher: Callable[[Tensor, Tensor], Tensor]  # guided, (x, t) -> expected datum
    fake: Callable[[Tensor, Tensor], Tensor]  # of the samples of the student, likewise
    log_ratio: Callable[[Tensor, Tensor], Tensor]  # [B], log p_data(x) - log p_student(x) at time t, by the critic
    strong: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # data of the teacher with and without the condition


class Generation(Protocol):
    """How a student makes the samples on which it is trained, and how it samples afterwards."""

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        """Samples with the conditions of ``batch``, whose data are a template where the method needs none."""
        ...

    def sampler(self, teacher: Flow) -> Sampler:
        """The sampler of the student."""
        ...


class Noising(Protocol):
    """Where the samples of a student are compared with the teacher."""

    def __call__(self, made: Generated, source: Source, rng: Rng) -> Noised: ...


class StudentTerm(Protocol):
    """A loss [B] of the student by scores of its samples; ``objectives.games.terms.TermBase`` has defaults."""

    @property
    def fake(self) -> bool:
        """Whether it takes predictions of a network that is trained on the samples of the student."""
        ...

    @property
    def ratio(self) -> bool:
        """Whether it takes the density ratio of a critic."""
        ...

    def __call__(self, situation: Situation) -> Tensor: ...


class FDivergence(Protocol):
    """An f-divergence D_f(teacher | student) by the weight h(r) = r^2 f''(r) of its gradient, r = p_teacher/p_student.

    The gradient of the divergence is that of the reverse KL divergence with the factor h(r) at every state.
    """

    @property
    def ratio(self) -> bool:
        """Whether h depends on r."""
        ...

    def weight(self, r: Tensor) -> Tensor: ...


class ScoreWeight(Protocol):
    """The weight [B,1,...] of a difference of expected data at a state."""

    def __call__(self, made: Tensor, wanted: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """``made`` and ``wanted`` [B,*S]: the sample and the teacher's; path coefficients a and b, [B,1,...]."""
        ...


class AdversarialLoss(Protocol):
    """Losses [B] of a critic and of a student from logits [B]."""

    def critic(self, real: Tensor, made: Tensor) -> Tensor: ...

    def student(self, made: Tensor) -> Tensor: ...


class RealSamples(Protocol):
    """What a critic tells the samples of the student from."""

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> tuple[Tensor, Cond]:
        """Samples [B,*S] without a graph, and their conditions."""
        ...


class GuidedStudent(Protocol):
    """What learns guided velocities; ``distillation.guided.students.GuidedBase`` has defaults but for ``build``."""

    @property
    def scaled(self) -> bool:
        """Whether it takes the guidance scale as the condition ``beta``."""
        ...

    def build(self, teacher: Flow) -> nn.Module:
        """The network that is trained, from a copy of that of the teacher."""
        ...

    def finished(self, network: nn.Module) -> nn.Module:
        """The network of the student from the trained one, which is not changed."""
        ...
