"""A student beside its teacher on the same noise: whether pairs of noise and data are kept, and the diversity."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.evaluation.neighbours import Coverage, Recall

LEAST = 16  # samples
RNG = Rng(0)


class Likeness(NamedTuple):
    """How the samples of a student compare with those of its teacher from the same noise and conditions."""

    pairing: float  # 0: every sample is that of the teacher; 1: as far from it as from its others
    spread: float  # root mean square deviation from the mean, over that of the teacher; below 1 is less diverse
    recall: float  # share of the teacher's samples within those of the student
    coverage: float  # share of the neighbourhoods of the teacher's samples that hold one of the student
    teacher_recall: float  # the same of the teacher and other samples of its own
    teacher_coverage: float
    n: int

    def plain(self) -> dict[str, Any]:
        """As plain data, for a lineage."""
        return self._asdict()


def likeness(student: Tensor, teacher: Tensor, groups: Tensor | None = None, rng: Rng = RNG) -> Likeness:
    """Compare samples [N,*S] of a student with those of its teacher from the same noise, row by row.

    pairing = sqrt(mean_i |s_i - t_i|^2 / mean over i != j of |s_i - t_j|^2)
    spread = sqrt(tr cov(s) / tr cov(t)),  both within groups
    ``groups`` [N] are labels: pairs with i != j are taken from one group.  Recall and coverage compare one half of the
    student's samples with the other half of the teacher's, so that equal noise is not counted as diversity.

    >>> x = Rng(0).normal(torch.empty(64, 2))
    >>> likeness(x, x).pairing, likeness(0.5 * x, x).spread
    (0.0, 0.5)
    """
    require(
        student.shape == teacher.shape and len(student) >= LEAST,
        f"likeness got samples of shapes {tuple(student.shape)} and {tuple(teacher.shape)}; it compares them row by "
        f"row: give equally many of both, at least {LEAST}",
    )
    s, t = (x.detach().cpu().double().flatten(1) for x in (student, teacher))
    labels = torch.zeros(len(s), dtype=torch.long) if groups is None else groups.cpu()
    require(
        len(labels) == len(s) and int(labels.unique(return_counts=True)[1].max()) > 1,
        f"likeness got {len(labels)} labels for {len(s)} samples, {len(labels.unique())} of them different; distances "
        "are compared within groups: give every sample a label, and several samples the same",
    )
    together, apart, inner = 0.0, 0.0, [0.0, 0.0]
    for label in labels.unique():
        a, b = s[labels == label], t[labels == label]
        n = len(a)
        if n < 2:
            continue
        same = float((a - b).square().sum())
        every = n * float(a.square().sum() + b.square().sum()) - 2 * float(a.sum(0) @ b.sum(0))  # all pairs
        together, apart = together + same, apart + (every - same) / (n - 1)
        for i, x in enumerate((a, b)):
            inner[i] += float((x - x.mean(0)).square().sum())
    half = len(s) // 2
    made, other, real = s[:half], t[:half], t[half : 2 * half]
    shares = [metric.compare(real, x, rng) for x in (made, other) for metric in (Recall(), Coverage())]
    return Likeness(
        math.sqrt(together / apart) if apart > 0 else math.nan,
        math.sqrt(inner[0] / inner[1]) if inner[1] > 0 else math.nan,
        shares[0],
        shares[1],
        shares[2],
        shares[3],
        len(s),
    )
