"""The section of a student: its samples beside those of its teacher from the same noise, pairing and diversity."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from beeline.cli.report.measuring import Budget, every_label, first, label_count
from beeline.config import build as config
from beeline.evaluation.likeness import Likeness, likeness
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler

MOST, FEWEST = 256, 64  # samples of both
LABELS = 16  # different ones, so that there are several samples of each
FREE = 1.0  # seconds that a comparison may always take


@dataclass(frozen=True)
class Comparison:
    """Samples of a student and of its teacher from the same noise and conditions, encoded, and their likeness."""

    student: Tensor  # [n,*S]
    teacher: Tensor
    found: Likeness
    sampler: Sampler  # of the teacher, with the guidance that the student has learned


def compared(student: Bundle, teacher: Bundle, budget: Budget) -> Comparison:
    """Sample a student and its teacher, 256 of both, or 64 where the time of the report is short."""
    sampler = taught(student, teacher)
    x0, cond = student.start(range(MOST)), every_label(student, MOST, LABELS)
    begun = time.perf_counter()
    few = pair(student, teacher, sampler, x0[:FEWEST], first(cond, FEWEST))
    seconds = (time.perf_counter() - begun) * (MOST / FEWEST - 1)
    if seconds < max(FREE, budget.left / 4):
        few = pair(student, teacher, sampler, x0, cond)
    classes = label_count(student)
    labels = None if classes is None else torch.arange(len(few[0])) % min(classes, LABELS)
    return Comparison(*few, likeness(*few, labels), sampler)


def taught(student: Bundle, teacher: Bundle) -> Sampler:
    """The sampler of the teacher, with the guidance that the student has learned if it records one."""
    guidance = student.lineage.get("guidance")
    return teacher.sampler if guidance is None else replace(teacher.sampler, guidance=config.build(guidance))


def pair(student: Bundle, teacher: Bundle, sampler: Sampler, x0: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    keys = range(len(x0))
    ends = (
        student.draw(x0, cond, sampler=student.sampler.seeded(keys)),
        teacher.draw(x0, cond, sampler=sampler.seeded(keys)),
    )
    return ends[0].cpu(), ends[1].cpu()
