"""Losses of the student of a score game."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.games import FDivergence, ScoreWeight, Situation, StudentTerm
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.core.types import expand_time
from beeline.objectives.games import formulas
from beeline.objectives.games.divergences import ReverseKL


class TermBase:
    """Defaults of a StudentTerm: a fake network, and no density ratio."""

    @property
    def fake(self) -> bool:
        return True

    @property
    def ratio(self) -> bool:
        return False

    def __call__(self, situation: Situation) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no loss; write __call__(situation) -> [B]")


@dataclass(frozen=True)
class Normalised:
    """The weight of distribution matching: differences in units of the teacher's own change of the sample.

    w = 1 / mean |x - D_T(x_t)|,  at most 1 / least
    Source: Yin et al. 2024 (arXiv 2311.18828).

    >>> Normalised()(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 1))
    tensor([[1.]])
    """

    least: Positive = 1e-3  # of the mean, which is zero for a perfect student

    def __call__(self, made: Tensor, wanted: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        return formulas.normaliser(made, wanted, self.least)


@dataclass(frozen=True)
class NoiseUnits:
    """The weight of variational score distillation: differences of the expected noise.

    w = a(t) / b(t),  so that w (D_fake - D_T) = E_T - E_fake
    Source: Wang et al. 2023, ProlificDreamer (arXiv 2305.16213).

    >>> NoiseUnits()(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 1), torch.full((1, 1), 2.0))
    tensor([[0.5000]])
    """

    def __call__(self, made: Tensor, wanted: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        return signal / noise


@dataclass(frozen=True)
class ScoreUnits:
    """The exact weight of a difference of scores, in which the term is the gradient of the divergence at x_t.

    w = a(t)^2 / b(t)^2,  so that w (D_fake - D_T) = a (s_fake - s_T) = d KL / dx
    Source: Yin et al. 2024 (arXiv 2311.18828), without their normalisation.

    >>> ScoreUnits()(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 1), torch.full((1, 1), 2.0))
    tensor([[0.2500]])
    """

    def __call__(self, made: Tensor, wanted: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        return (signal / noise).square()


@dataclass(frozen=True)
class ScoreDifference(TermBase):
    """The gradient of an f-divergence between the noised samples of the student and those of the teacher.

    gradient in x:  h(r) w (D_fake(x_t) - D_T(x_t)),  r = p_T(x_t) / p_student(x_t)
    With ReverseKL h = 1, and no critic is needed.  The others take r from a critic that tells real data from samples;
    r lies in [0.1, 20], and h is divided by its mean over the batch.
    Source: Yin et al. 2024, DMD (arXiv 2311.18828); Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> ScoreDifference().ratio
    False
    """

    divergence: FDivergence = field(default_factory=ReverseKL)
    weight: ScoreWeight = field(default_factory=Normalised)

    @property
    def ratio(self) -> bool:
        return self.divergence.ratio

    def __call__(self, situation: Situation) -> Tensor:
        made, at = situation.made, situation.at
        with torch.no_grad():
            wanted = situation.teacher(at.x, at.t)
            signal, noise = (expand_time(c, at.x) for c in situation.path.coefficients(at.t)[:2])
            direction = situation.fake(at.x, at.t) - wanted
            direction = self.weight(made.x1, wanted, signal, noise) * direction
            if self.divergence.ratio:
                h = self.divergence.weight(formulas.density_ratio(situation.log_ratio(at.x, at.t)))
                direction = expand_time(h / h.mean(), direction) * direction
        return formulas.towards(made.x1, direction)


@dataclass(frozen=True)
class ScoreIdentity(TermBase):
    """Score identity distillation: a Fisher divergence, with gradients through the two networks.

    w ((1 - alpha) |d|^2 + d . (D_fake - x)),  d = D_T - D_fake at x_t,  w = 1 / mean |x - D_T|
    With the exact D_fake alpha = 0.5 gives the gradient of the divergence without bias.
    Source: Zhou et al. 2024, "Score identity Distillation" (arXiv 2404.04057).

    >>> ScoreIdentity().alpha
    1.0
    """

    alpha: NonNegative = 1.0  # 0.5 to 1.2
    weight: ScoreWeight = field(default_factory=Normalised)

    def __call__(self, situation: Situation) -> Tensor:
        fake, wanted, w = _through(situation, self.weight)
        return w * formulas.score_identity(situation.made.x1, fake, wanted, self.alpha)


@dataclass(frozen=True)
class ScoreImplicit(TermBase):
    """Score implicit matching: a distance of the scores, here pseudo-Huber, with gradients through the two networks.

    -y . (D_fake - x) / (D sqrt(|y|^2 + c^2)),  y = D_fake - D_T at x_t,  c = scale sqrt(D)
    Source: Luo et al. 2024, "One-Step Diffusion Distillation through Score Implicit Matching" (arXiv 2410.16794).

    >>> ScoreImplicit().scale
    0.1
    """

    scale: Positive = 0.1  # from squared differences to absolute ones, per coordinate in data units

    def __call__(self, situation: Situation) -> Tensor:
        at = situation.at
        fake, wanted = situation.fake(at.x, at.t), situation.teacher(at.x, at.t)
        return formulas.score_implicit(situation.made.x1, fake, wanted, self.scale)


@dataclass(frozen=True)
class Fisher(TermBase):
    """The Fisher divergence of the student and the teacher, with gradients through the two networks.

    w (|d|^2 / 2 + correction d . (D_fake - x)),  d = D_T - D_fake at x_t,  w = 1 / mean |x - D_T|
    The correction accounts for the change of D_fake with the student: 1 is exact, 0 leaves it out.
    Source: Zhou et al. 2024 (arXiv 2404.04057) for both parts.

    >>> Fisher().correction
    1.0
    """

    correction: NonNegative = 1.0  # far below 1 the student collapses
    weight: ScoreWeight = field(default_factory=Normalised)

    def __call__(self, situation: Situation) -> Tensor:
        fake, wanted, w = _through(situation, self.weight)
        return w * formulas.fisher(situation.made.x1, fake, wanted, self.correction)


@dataclass(frozen=True)
class GuidanceAugmentation(TermBase):
    """The part of a guided distribution matching gradient that needs no fake network.

    gradient in x:  -w (scale - 1) (D_T(x_t, c) - D_T(x_t, null)),  w = 1 / mean |x - D_T(x_t, c)|
    Assumes a conditional teacher with a null condition.  Alone it over-saturates after some thousand steps: train
    briefly, or add ScoreDifference.
    Source: Liu et al. 2025, "Decoupled DMD" (arXiv 2511.22677).

    >>> GuidanceAugmentation().fake
    False
    """

    scale: NonNegative = 2.0  # of the guidance; 1 is none
    weight: ScoreWeight = field(default_factory=Normalised)

    @property
    def fake(self) -> bool:
        return False

    def __call__(self, situation: Situation) -> Tensor:
        made, at = situation.made, situation.at
        with torch.no_grad():
            strong, weak = situation.strong(at.x, at.t)
            signal, noise = (expand_time(c, at.x) for c in situation.path.coefficients(at.t)[:2])
            direction = self.weight(made.x1, strong, signal, noise) * formulas.augmentation(strong, weak, self.scale)
        return formulas.towards(made.x1, direction)


@dataclass(frozen=True)
class TermSum(TermBase):
    """A weighted sum of losses of the student.

    sum_k weight_k term_k

    >>> TermSum((ScoreDifference(), GuidanceAugmentation()), (1.0, 0.5)).fake
    True
    """

    terms: tuple[StudentTerm, ...] = (ScoreDifference(), GuidanceAugmentation())
    weights: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        require(
            len(self.terms) == len(self.weights) >= 1,
            f"TermSum got {len(self.terms)} terms and {len(self.weights)} weights; every term has one: give equal "
            "numbers, at least one",
        )

    @property
    def fake(self) -> bool:
        return any(term.fake for term in self.terms)

    @property
    def ratio(self) -> bool:
        return any(term.ratio for term in self.terms)

    def __call__(self, situation: Situation) -> Tensor:
        parts = [w * term(situation) for w, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(parts).sum(0)


def _through(situation: Situation, weight: ScoreWeight) -> tuple[Tensor, Tensor, Tensor]:
    """The predictions of the fake network and of the teacher with a graph, and the weight [B]."""
    made, at = situation.made, situation.at
    fake, wanted = situation.fake(at.x, at.t), situation.teacher(at.x, at.t)
    signal, noise = (expand_time(c, at.x) for c in situation.path.coefficients(at.t)[:2])
    return fake, wanted, weight(made.x1.detach(), wanted.detach(), signal, noise).flatten()
