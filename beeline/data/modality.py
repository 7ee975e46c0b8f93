"""Base classes of modalities and data sets, with the defaults of their protocols."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from beeline.core.declared import check_members, missing
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import ENCODED, DataSet, Endpoints, FullDataSet, Modality
from beeline.core.protocols.training import Microbatches
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.arrays import no_labels
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler


class ModalityBase:
    """Defaults of the Modality protocol: no conditions, no files, an HTML preview of the data as text.

    A subclass gives ``shape``, ``fit``, ``encode`` and ``decode``.
    """

    continuous: ClassVar[bool] = True
    preview_type: ClassVar[str] = "text/html"
    formats: ClassVar[tuple[str, ...]] = ()
    previewed: ClassVar[int] = 16

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        return {}

    @property
    def offers(self) -> Mapping[str, Any]:
        return {}

    @property
    def levels(self) -> int | None:
        return None

    @property
    def fixed_size(self) -> bool:
        return True

    def raw(self, values: Any, labels: Any = None) -> Any:
        no_labels(labels, type(self).__name__)
        return values

    def condition(self, value: Any, n: int) -> Cond:
        require(
            value is None,
            f"the condition {value!r} was given, but {type(self).__name__} has no conditions; leave it out",
        )
        return None

    def of_condition(self, value: Any) -> tuple[Any, Any]:
        return self, value

    def with_condition(self, raw: Any, value: Any) -> Any:
        return raw

    def preview(self, raw: Any) -> bytes:
        return f"<pre>{html.escape(str(raw)[:2000])}</pre>\n".encode()

    def preview_beside(self, made: Any, real: Any) -> bytes:
        return self.preview(made)

    def save(self, raw: Any, path: Path) -> None:
        raise BeelineError(
            f"{path} cannot be written, because {type(self).__name__} has no file format; give it formats and save"
        )

    def metrics(self) -> Sequence[Any]:
        return ()

    def microbatches(self, raw: Any, rng: Rng) -> Microbatches | None:
        return None

    def check_unchanging(self, raw: Any) -> None:
        pass

    def subset(self, raw: Any, most: int = ENCODED) -> Any:
        return raw

    def finalize(self, flow: Flow, sampler: Sampler, x1: Tensor, rng: Rng) -> Flow:
        return flow


class DataSetBase:
    """Defaults of the FullDataSet protocol: data in memory, one end of a flow, no other files.

    A subclass gives ``load`` and ``modality``.
    """

    paired: ClassVar[bool] = False

    def summary(self) -> str:
        return ""

    def microbatches(self, modality: Any, rng: Rng) -> Microbatches | None:
        return None

    def endpoints(self, batch: Batch, held: Batch, rng: Rng) -> Endpoints | None:
        return None

    def read_file(self, path: str) -> Any:
        raise BeelineError(
            f"{path} was to be read as {type(self).__name__} reads its data, which do not come from a file; leave it "
            "out, or train from files with the recipe 'translation'"
        )


@dataclass(frozen=True)
class MinimalDataSet(DataSetBase):
    """A data set that has only ``load`` and ``modality``, with the defaults of the other members."""

    data: DataSet

    def load(self) -> tuple[Any, Any]:
        return self.data.load()

    def modality(self) -> Modality:
        return check_modality(self.data.modality())


def complete(data: Any) -> FullDataSet:
    """The data set with every member of FullDataSet; ValueError names the members that it lacks."""
    check_members(data, DataSet, "load and modality are all that a data set has to have")
    lacking = missing(data, FullDataSet)
    if not lacking:
        found: FullDataSet = data
        return found
    if set(lacking) == set(missing(object(), FullDataSet)) - set(missing(object(), DataSet)):
        return MinimalDataSet(data)
    check_members(data, FullDataSet, "inherit beeline.data.modality.DataSetBase, which has defaults")
    raise AssertionError("a member is missing, but none was named")


def check_modality(modality: Any) -> Modality:
    """The modality; ValueError names the members of the protocol that it lacks."""
    check_members(modality, Modality, "inherit beeline.data.modality.ModalityBase, which has defaults for most of them")
    found: Modality = modality
    return found


def same_modality(modality: Any, own: Any) -> Any:
    """The fitted modality of an earlier run, for data whose own modality is ``own``; another one is refused."""
    require(
        type(modality) is type(own),
        f"the run continues with {type(modality).__name__} data, but the new data are {type(own).__name__}; give data "
        "of the same modality, or start a new run",
    )
    return modality
