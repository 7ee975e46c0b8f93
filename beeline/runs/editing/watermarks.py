"""Watermarks of samples: a bundle that draws with one, and whether data have one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from beeline.core.errors import require
from beeline.couplings.watermark import TreeRing
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.sampler import Sampler

if TYPE_CHECKING:  # a bundle has a mark
    from beeline.runs.bundle import Bundle

SURE = 1e-3  # a p-value below which data are said to have the mark


@dataclass(frozen=True)
class Detected:
    """How near the noise of data is to a watermark."""

    p_value: Tensor  # [N] probability that data without the mark are as near
    distance: Tensor  # [N] in standard deviations of noise
    round_trip: Tensor  # [N] error of the inversion: where it is large, a mark cannot be found

    @property
    def summary(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "marked": int((self.p_value < SURE).sum()),
            "inputs": len(self.p_value),
            "p_value": [float(f"{p:.3g}") for p in self.p_value],
            "round_trip": float(self.round_trip.mean()),
        }


def watermarked(bundle: Bundle, mark: TreeRing) -> Bundle:
    """The bundle whose samples have the mark; ValueError for data that are no pictures."""
    require(
        bundle.modality is not None and bundle.flow.source.gaussian,
        "a watermark was given for a bundle that does not start from normal noise, or does not know its data; use one "
        "that training left",
    )
    mark.check(tuple(bundle.modality.shape))
    return replace(bundle, mark=mark)


def detect(
    bundle: Bundle,
    mark: TreeRing,
    given: Any,
    cond: Any = None,
    sampler: Sampler | None = None,
    inversion: Any = None,
    seed: int = 0,
) -> Detected:
    """Whether data ``given`` came from noise with the mark, by inverting the flow, as ``bundle.invert`` does.

    ``cond`` is the condition of the data, by default the learned null.  The samples of a student are inverted with its
    teacher, as far as the student kept the pairing of noise and data.

    Raises BeelineError for a student, and for data that are no pictures.
    """
    watermarked(bundle, mark)
    found = bundle.invert(given, cond, inversion=inversion or Backwards(), seed=seed, sampler=sampler)
    return Detected(mark.p_value(found.noise), mark.distance(found.noise), found.error)


def secret_of(file: Path) -> TreeRing:
    """The watermark of the secret in a file; ValueError for a file that is missing or empty."""
    require(file.is_file(), f"there is no file {file} with a secret; write one, such as openssl rand -hex 16 > {file}")
    secret = file.read_bytes().strip()
    require(
        len(secret) >= 8, f"{file} holds {len(secret)} bytes; a secret has at least 8: openssl rand -hex 16 > {file}"
    )
    return TreeRing.of_secret(secret)
