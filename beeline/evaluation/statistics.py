"""Mean and covariance of reference data in a feature space, stored for later evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.files import digest, replacing
from beeline.core.protocols.data import Features
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.data.arrays import read_arrays
from beeline.evaluation.features import Identity
from beeline.evaluation.metrics import Estimate, FeatureMetric, frechet, moments

ENDINGS = (".npz", ".safetensors")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of features of reference data.

    >>> Statistics.of(torch.randn(9, 2), Identity()).n
    9
    """

    mean: Tensor  # [d] float64
    covariance: Tensor  # [d,d] float64, unbiased
    n: int = 0  # data that they are of; 0: not recorded
    features: str = ""  # name of the feature space; empty: not recorded
    hash: str = ""  # of the features; empty: not recorded

    def __post_init__(self) -> None:
        d = self.mean.shape[-1] if self.mean.ndim else 0
        require(
            self.mean.shape == (d,) and d > 0 and self.covariance.shape == (d, d),
            f"reference statistics have a mean of shape {tuple(self.mean.shape)} and a covariance of shape "
            f"{tuple(self.covariance.shape)}, which are not [d] and [d,d]; compute them again with --save-reference",
        )
        finite = bool(self.mean.isfinite().all() and self.covariance.isfinite().all())
        require(
            finite and torch.allclose(self.covariance, self.covariance.T, rtol=1e-4, atol=1e-8),
            "the covariance of the reference statistics is not finite and symmetric, so the file is damaged or holds "
            "something else; compute it again with --save-reference",
        )

    @staticmethod
    def of(x: Tensor, features: Features) -> Statistics:
        """The statistics of data [N,*S] in a feature space."""
        return Statistics(*moments(features(x)), len(x), features.name, features.hash)

    @property
    def reference_hash(self) -> str:
        return digest({"mean": self.mean, "covariance": self.covariance})

    def save(self, path: Path) -> None:
        """Write .npz (``mu`` and ``sigma``, as other packages name them) or .safetensors."""
        known(path)
        about = {"n": str(self.n), "features": self.features, "hash": self.hash}
        with replacing(path) as part:
            if path.suffix == ENDINGS[0]:
                with open(part, "wb") as file:
                    texts = {key: np.array(text) for key, text in about.items()}
                    np.savez(file, mu=self.mean.numpy(), sigma=self.covariance.numpy(), **texts)  # type: ignore[arg-type]
            else:
                save_file({"mu": self.mean.contiguous(), "sigma": self.covariance.contiguous()}, part, metadata=about)

    @staticmethod
    def load(path: Path) -> Statistics:
        """Read a file of ``save``, or a .npz of another package with ``mu`` and ``sigma``."""
        known(path)
        require(
            path.is_file(), f"there is no file {path} with reference statistics; write one with --save-reference {path}"
        )
        if path.suffix == ENDINGS[0]:
            arrays = read_arrays(path)
            about = {key: str(arrays[key]) for key in ("n", "features", "hash") if key in arrays}
            found = {key: arrays[key] for key in ("mu", "sigma") if key in arrays}
        else:
            try:
                with safe_open(path, "numpy") as file:
                    about = dict(file.metadata() or {})
                    found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            except (SafetensorError, OSError) as error:
                raise BeelineError(
                    f"{path} cannot be read ({str(error).splitlines()[0]}), so it is damaged; write it again with "
                    "--save-reference"
                ) from None
        require(
            {"mu", "sigma"} <= set(found),
            f"{path} holds {sorted(found)}, but reference statistics are a mean 'mu' and a covariance 'sigma'; write "
            "them with --save-reference",
        )
        mean, covariance = (torch.from_numpy(np.asarray(found[key], np.float64)) for key in ("mu", "sigma"))
        n = about.get("n", "0")
        return Statistics(
            mean, covariance, int(n) if n.isdigit() else 0, about.get("features", ""), about.get("hash", "")
        )


@dataclass(frozen=True)
class FrechetToStatistics(FeatureMetric):
    """Frechet distance of samples to stored statistics; the real data that it is called with are not used.

    |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)),  m1 and S1 stored
    Assumes statistics in the same feature space, and more samples than features.
    Source: Heusel et al. 2017 (arXiv 1706.08500).

    >>> x = Rng(0).normal(torch.empty(100, 2))
    >>> round(FrechetToStatistics(Identity(), Statistics.of(x, Identity()))(x, x + 2, Rng(0)), 6)
    8.0
    """

    features: Features = field(default_factory=Identity)
    statistics: Statistics | None = None
    name: ClassVar[str] = "Frechet distance"

    def least(self, size: int) -> int:
        stored = self._stored()
        require(
            len(stored.mean) == size and stored.hash in ("", self.features.hash),
            f"the reference statistics are {len(stored.mean)} features of {stored.features or 'an unknown network'}, "
            f"but the samples are compared in {size} features of {self.features.name}; give statistics of the same "
            "features, or other --features",
        )
        return size + 1

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        stored = self._stored()
        return frechet(stored.mean, stored.covariance, *moments(made))

    def estimate(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> Estimate:
        stored = self._stored()
        known = f"{stored.n:,}" if stored.n else "an unknown number of"
        note = (
            f"of {len(made):,} generated samples to stored statistics of {known} data in {len(stored.mean):,} features:"
        )
        note += " it grows as samples become fewer, so compare values of equal numbers"
        note += "" if stored.hash else "; the file does not record the features, so that it may belong to others"
        return Estimate(self.compare(real, made, rng), note=note, reference=(stored.reference_hash, stored.n))

    def _stored(self) -> Statistics:
        require(
            self.statistics is not None,
            "FrechetToStatistics was given no statistics, so there is nothing to compare with; give "
            "Statistics.load(path)",
        )
        assert self.statistics is not None
        return self.statistics


def known(path: Path) -> None:
    """Refuse files of another kind than those of statistics."""
    require(
        path.suffix in ENDINGS,
        f"reference statistics were to be read from or written to {path}, but they are {' or '.join(ENDINGS)} files; "
        "give such a name (pickles are not read)",
    )
