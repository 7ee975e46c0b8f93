"""Samples of a trained flow in place of data."""

from __future__ import annotations

from typing import Any

from beeline.core.errors import require
from beeline.core.protocols.data import Modality
from beeline.core.ranges import Count, Inside, Whole, dataclass
from beeline.data.modality import DataSetBase
from beeline.runs.features.bundles import bundle_of


@dataclass(frozen=True)
class SamplesOf(DataSetBase):
    """Samples of a bundle with its sampler, with labels in turn where it has classes.

    x1 = sampler(flow, x0, label)
    With them the change of an adapted flow is learned by a flow of another size, without the data of the adapter; its
    errors are copied too.  Assumes a flow from noise whose only condition is a label, if any.
    Source: Wang et al. 2024, "Trans-LoRA: towards data-free Transferable Parameter Efficient Finetuning" (arXiv
    2405.17258), without the filter.

    >>> SamplesOf("runs/styled", 500).count
    500
    """

    path: str  # directory of the bundle, or hub:owner/name
    count: Count = 2000
    held_out: Inside = 0.1  # held-out fraction, of other seeds
    seed: Whole = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def load(self) -> tuple[Any, Any]:
        held = max(1, round(self.held_out * self.count))
        seeds = range(self.count + held)
        return self._made(seeds[: self.count]), self._made(seeds[self.count :])

    def _made(self, seeds: range) -> Any:
        bundle, known = bundle_of(self.path), self.modality().conditions
        require(
            not known or set(known) == {"label"} and "classes" in known["label"],
            f"samples of {self.path} were to be data, and its conditions {sorted(known)} are more than a label; make "
            "samples with conditions by 'beeline sample', and give their file",
        )
        more: dict[str, Any] = {"label": [i % known["label"]["classes"] for i in seeds]} if known else {}
        return bundle.sample(len(seeds), seeds=list(seeds), seed=self.seed, **more)

    def modality(self) -> Modality:
        found = bundle_of(self.path).modality
        require(found is not None, f"the bundle {self.path} has no modality, so that its samples are no data")
        assert found is not None
        return found
