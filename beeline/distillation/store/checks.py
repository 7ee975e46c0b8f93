"""Checks of pairs: whose they are, and that x0 is the noise and x1 the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.files import digest
from beeline.core.modes import device_of, eval_mode
from beeline.core.types import Batch, map_cond, take
from beeline.distillation.store.manifest import Manifest
from beeline.distillation.store.reading import PairStore
from beeline.fields.flow import Flow
from beeline.objectives.tables import columns_of, completed_rows
from beeline.sampling.sampler import Sampler

EVALUATED = 8  # pairs that are generated again
ROWS = 1024  # pairs whose noise is compared with the source
CLOSE = 0.05  # largest relative distance of a datum that is generated again
SURE = 6.0  # standard deviations that noise of the source does not exceed


def teacher_digest(flow: Flow) -> str:
    """SHA-256 of the weights of a flow."""
    require(
        isinstance(flow.field, nn.Module),
        f"the field of the teacher is a {type(flow.field).__name__}, not a network, and stored pairs name the weights "
        "that they come from; give a flow with a network",
    )
    return digest(flow.field.state_dict())


def check_store(store: PairStore, teacher: Flow) -> None:
    """BeelineError for pairs of another teacher, and for pairs that the teacher does not reproduce."""
    check_teacher(store.manifest, teacher, str(store.folder))
    index = torch.arange(min(ROWS, len(store)))
    few = index[:EVALUATED]
    key = store.key
    sampler = store.sampler.seeded(store.numbers(few).tolist(), "pairs", key.seed, *key.path)
    check_pairs(teacher, sampler, store.take(index), str(store.folder))


def check_teacher(manifest: Manifest, teacher: Flow, where: str) -> None:
    """BeelineError, which names ``where``, for a manifest of another teacher."""
    for name, found, own in (
        ("on the path", manifest.path, repr(teacher.path)),
        ("from the source", manifest.source_name, type(teacher.source).__name__),
        ("with the weights", manifest.teacher, teacher_digest(teacher)),
    ):
        require(
            found == own,
            f"{where} holds pairs of a teacher {name} {found[:60]}, and this one is {name} {own[:60]}; pairs teach a "
            "student of their own teacher only: make pairs of this one with beeline pairs, or give the teacher of the "
            "store",
        )


def check_pairs(flow: Flow, sampler: Sampler, pairs: Batch, where: str = "the data") -> None:
    """Check that x0 [B,*S] are source points of a flow and x1 what ``sampler`` makes of the first of them.

    With a Gaussian source the mean, the square and the spread of the norms of x0 must be those of standard normal
    noise.  At most ``EVALUATED`` pairs are generated again.
    BeelineError, which names ``where``, for data in the place of noise, and for noise and data of different pairs.
    """
    require(pairs.x0 is not None, f"{where} have no x0; pairs consist of noise x0 and data x1: make them with pairs")
    assert pairs.x0 is not None
    rows = torch.arange(min(EVALUATED, len(pairs.x1)))
    few = take(pairs, rows)
    assert few.x0 is not None
    noise, data = not flow.source.gaussian or is_noise(pairs.x0), flow.source.gaussian and is_noise(pairs.x1)
    require(
        noise,
        f"x0 of {where} is not noise of the source" + (", and x1 is, so that they seem swapped" if data else "")
        + "; x0 is the noise and x1 the data: exchange them, or make the pairs again",
    )  # fmt: skip
    distance = apart(flow, sampler, few, rows.tolist())
    require(
        distance <= CLOSE,
        f"the teacher's sampler ends at a distance of {distance:.2g} from x1 of {where}, relative to |x1 - x0|, where "
        f"at most {CLOSE:g} is rounding; noise and data are not of the same pairs, or of another sampler or guidance: "
        "make the pairs again",
    )


def apart(flow: Flow, sampler: Sampler, pairs: Batch, rows: Sequence[int]) -> float:
    """The median of |sampler(x0) - x1| / |x1 - x0|; ``sampler`` has the seeds of the pairs."""
    assert pairs.x0 is not None
    where = device_of(flow.field) or pairs.x0.device
    cond = map_cond(lambda leaf: leaf.to(where), pairs.cond)
    with eval_mode(flow.field):
        again = Batch(sampler.for_rows(0, len(rows))(flow, pairs.x0.to(where), cond), cond=cond)
    groups = columns_of(flow.field)
    again = again if groups is None else completed_rows(again, groups)
    x1 = pairs.x1.double()
    error, length = _norms(again.x1.to(x1) - x1), _norms(x1 - pairs.x0.double())
    return float((error / length.clamp(min=1e-12)).median())


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def is_noise(x: Tensor) -> bool:
    """Whether rows [B,*S] have the mean, the square and the spread of norms of standard normal noise.

    >>> from beeline.core.rng import Rng
    >>> is_noise(Rng(0).normal(torch.empty(100, 3))), is_noise(torch.ones(100, 3))
    (True, False)
    """
    rows = x.double().flatten(1)
    count, size = rows.shape
    mean = float(rows.mean()) * math.sqrt(count * size)
    each = (rows.square().mean(1) - 1) * math.sqrt(size / 2)  # mean 0 and variance 1
    square = float(each.mean()) * math.sqrt(count)
    spread = (float(each.square().mean()) - 1) / math.sqrt((2 + 12 / size) / count)
    return max(abs(mean), abs(square), abs(spread)) <= SURE
