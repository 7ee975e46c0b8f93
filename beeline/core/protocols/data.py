"""Protocols of data sets, of modalities, and of the metrics of samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond

if TYPE_CHECKING:  # annotations alone: nothing here needs them to run
    from beeline.core.protocols.training import Microbatches
    from beeline.data.tables.schema import Schema
    from beeline.fields.flow import Flow
    from beeline.sampling.sampler import Sampler

Better = Literal["lower", "higher"]
M = TypeVar("M", bound="Modality")
ENCODED = 2**26  # encoded numbers that are held in memory at once (256 MiB); more are encoded by microbatch


class Modality(Protocol):
    """Converts between data in the user's own form and encoded tensors [N,*S].  A value: fitting gives a new one.

    Inherit ``data.modality.ModalityBase``, which has defaults for all but ``shape``, ``fit``, ``encode`` and
    ``decode``.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape *S of one encoded datum; empty before fitting."""
        ...

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        """The conditions of a network for these data: {"label": {"classes": 10}}, or {}."""
        ...

    @property
    def offers(self) -> Mapping[str, Any]:
        """Further settings of networks that follow from the data, by name; each network takes those that it has."""
        ...

    @property
    def continuous(self) -> bool:
        """Whether coordinates are quantities; false where they encode states, as one-hot codes do."""
        ...

    @property
    def levels(self) -> int | None:
        """Number of integer values of a coordinate, encoded as equal parts of [-1, 1]; None for other data."""
        ...

    @property
    def fixed_size(self) -> bool:
        """Whether all data have the shape ``shape``; false where a network has to take several sizes."""
        ...

    @property
    def preview_type(self) -> str:
        """The MIME type of ``preview``: image/png or text/html."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """The endings of the files that ``save`` writes; "" is a directory."""
        ...

    def fit(self: M, raw: Any) -> M:
        """A new modality with the sizes, scales and classes of ``raw``; ValueError names what cannot be encoded."""
        ...

    def raw(self, values: Any, labels: Any = None) -> Any:
        """Data in memory (arrays, tensors, data frames) with their labels as ``encode`` takes them."""
        ...

    def encode(self, raw: Any, rng: Rng | None = None) -> Batch:
        """Data as tensors [N,*S] with their conditions; ``rng`` is for encodings that add noise."""
        ...

    def decode(self, x: Tensor) -> Any:
        """Tensors [N,*S] as data."""
        ...

    def condition(self, value: Any, n: int) -> Cond:
        """A condition in the user's form as tensors for a batch of ``n``."""
        ...

    def of_condition(self: M, value: Any) -> tuple[M, Any]:
        """The modality of samples with a condition, and the rest of the condition: a condition may give the shape."""
        ...

    def with_condition(self, raw: Any, value: Any) -> Any:
        """Sampled data with what the condition ``value`` fixes: known cells exactly, labels beside images."""
        ...

    def preview(self, raw: Any) -> bytes:
        """Some of the data as a file of type ``preview_type``."""
        ...

    @property
    def previewed(self) -> int:
        """The number of samples that a preview during training shows."""
        ...

    def preview_beside(self, made: Any, real: Any) -> bytes:
        """A preview of generated data that also shows their distribution beside that of ``real`` data."""
        ...

    def save(self, raw: Any, path: Path) -> None:
        """Write data in the format that the ending of ``path`` names."""
        ...

    def metrics(self) -> Sequence[Metric]:
        """Metrics beyond those for tensors of any kind."""
        ...

    def microbatches(self, raw: Any, rng: Rng) -> Microbatches | None:
        """Training data that are encoded anew for every microbatch; None to train on ``encode(raw)``."""
        ...

    def check_unchanging(self, raw: Any) -> None:
        """Raise ValueError for data that are augmented anew for every microbatch; pairs of data have to stay equal."""
        ...

    def subset(self, raw: Any, most: int = ENCODED) -> Any:
        """A fixed subset of data that are too many to be encoded at once, of at most ``most`` encoded numbers."""
        ...

    def finalize(self, flow: Flow, sampler: Sampler, x1: Tensor, rng: Rng) -> Flow:
        """The flow after training, adapted to the training data ``x1`` [N,*S]; most modalities return it unchanged."""
        ...


class Autoencoder(Protocol):
    """A frozen map from images to latents and back; it runs on the device of its input."""

    def encode(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in [-1, 1] -> latents [B,c,h,w]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B,c,h,w] -> images [B,C,H,W], about in [-1, 1]."""
        ...

    def digest(self) -> str:
        """A hash of its weights; "" without weights."""
        ...


class ConditionEncoder(Protocol):
    """A frozen map from values in the user's form, such as texts, to conditions of a network.

    Inherit ``data.described.encoders.ConditionEncoderBase``, which has defaults for all but ``sizes`` and ``encode``.
    """

    @property
    def column(self) -> str:
        """The column of the data that holds the values; "" for that with the name of the condition."""
        ...

    @property
    def depth(self) -> int:
        """How deeply lists are nested in one value: 0 for a text, 1 for a list of numbers."""
        ...

    @property
    def reads_files(self) -> bool:
        """Whether it takes a text for the name of a file, which a service does not allow."""
        ...

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        """What it gives, as networks take it: "" is the condition itself, "pooled" is NAME.pooled, and so on."""
        ...

    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """The conditions [N,...] of values, named as in ``sizes``; those of None are zeros, the null."""
        ...

    def stored(self, values: Sequence[Any]) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function that gives the conditions of some rows of the values, each of which is encoded at most once."""
        ...

    def digest(self) -> str:
        """A hash of all that the conditions depend on beside the settings; "" where that is nothing."""
        ...


class Augmentation(Protocol):
    """A random change of images that keeps their distribution; applied to every microbatch of training data.

    Inherit ``data.pictures.augmentations.AugmentationBase``, which has a default for ``margin``.
    """

    @property
    def margin(self) -> int:
        """Pixels by which it makes an image smaller on every side."""
        ...

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """uint8 [B,C,H+2m,W+2m] -> uint8 [B,C,H,W], with m the margin."""
        ...


class DataSet(Protocol):
    """Where data come from: a description that can be saved; ``load`` reads the data.

    That is all a data set has to have.  The other members of FullDataSet have defaults: inherit
    ``data.modality.DataSetBase`` to set some of them.
    """

    def load(self) -> tuple[Any, Any]:
        """(training data, held-out data), the same every time."""
        ...

    def modality(self) -> Modality:
        """The modality of the data, not fitted yet."""
        ...


class FullDataSet(DataSet, Protocol):
    """A data set with every member that the package uses; ``data.modality.complete`` completes a DataSet."""

    def summary(self) -> str:
        """A text that describes the data before training, such as the inferred schema; "" for none."""
        ...

    def microbatches(self, modality: Any, rng: Rng) -> Microbatches | None:
        """Training data that do not fit into memory; None to train on what ``load`` gives."""
        ...

    @property
    def paired(self) -> bool:
        """Whether ``endpoints`` gives source points, for which all data have to be in memory."""
        ...

    def endpoints(self, batch: Batch, held: Batch, rng: Rng) -> Endpoints | None:
        """Source points of the encoded (training, held-out) data, where the data set has its own; else None."""
        ...

    def read_file(self, path: str) -> Any:
        """All data of another file of the same format; ValueError where the data do not come from a file."""
        ...


class Endpoints(Protocol):
    """Both ends of a flow between two data sets."""

    @property
    def source(self) -> Any:
        """The source of the flow."""
        ...

    @property
    def batch(self) -> Batch:
        """Training data with source points."""
        ...

    @property
    def held(self) -> Batch:
        """Held-out data with source points."""
        ...

    @property
    def feed(self) -> Microbatches:
        """The data that a network is trained on."""
        ...


class TableMetric(Protocol):
    """(schema, real frame, generated frame, rng) -> one number."""

    @property
    def name(self) -> str: ...

    @property
    def better(self) -> Better: ...

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float: ...


class Encoder(Protocol):
    """A frozen map from clean data [B,*S] to features [B,d] or [B,tokens,d].

    That is all that an objective needs.  The other members of FullEncoder have defaults: inherit
    ``objectives.losses.encoders.EncoderBase`` to set some of them.
    """

    def __call__(self, x: Tensor) -> Tensor: ...


class FullEncoder(Encoder, Protocol):
    """An encoder with every member that evaluation uses."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def hash(self) -> str:
        """Identifies the map and its weights."""
        ...

    def pooled(self, x: Tensor) -> Tensor:
        """One vector per datum, [B,d]; ValueError for data of a shape that the encoder does not take."""
        ...


class Features(Protocol):
    """A map from encoded data [N,*S] to features [N,d]; ``hash`` identifies the map and its weights."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    @property
    def learned(self) -> bool:
        """Whether they are fitted to the training data, so that samples are compared with held-out data."""
        ...

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Features:
        """The features fitted to a reference set; itself where nothing is learned."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class LabelFeatures(Features, Protocol):
    """Features of a classifier."""

    def classify(self, x: Tensor) -> Tensor:
        """The most likely label of each row, [N]."""
        ...


class Metric(Protocol):
    """A number from two samples of encoded data [N,*S] and [M,*S].

    That is all a metric has to have.  The other members of FullMetric have defaults: inherit
    ``data.metric.MetricBase`` to set some of them.
    """

    @property
    def name(self) -> str: ...

    @property
    def better(self) -> Better: ...

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float: ...


class FullMetric(Protocol):
    """A metric with every member that the package uses; ``data.metric.complete_metric`` completes a Metric."""

    @property
    def name(self) -> str: ...

    @property
    def better(self) -> Better: ...

    @property
    def conditional(self) -> bool:
        """Whether ``__call__`` takes the conditions of the generated data as ``cond=``."""
        ...

    @property
    def resampled(self) -> bool:
        """Whether the interval is estimated from random halves of the samples; if not, ``interval`` gives it."""
        ...

    @property
    def evaluator(self) -> tuple[str, str]:
        """(name, hash) of what computes the number; numbers of different evaluators are not compared."""
        ...

    def fit(self: Any, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Any:
        """The metric fitted to a reference set; itself where nothing is learned."""
        ...

    def interval(self, value: float, n: int) -> tuple[float, float] | None:
        """The 95% interval of ``value`` at ``n`` generated samples; None where there is none."""
        ...

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float: ...
