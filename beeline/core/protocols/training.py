"""Protocols of training: callbacks, optimizers, learning rates, data sources, parallel engines and distillations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError
from beeline.core.modes import Device
from beeline.core.protocols.flows import Schedule, Solver
from beeline.core.protocols.objectives import Player
from beeline.core.rng import Rng
from beeline.core.types import Batch

if TYPE_CHECKING:  # annotations alone: nothing here needs them to run
    from beeline.distillation.fit_solver import Problem
    from beeline.fields.flow import Flow
    from beeline.fields.trained import Trained
    from beeline.sampling.sampler import Sampler
    from beeline.training.config import Training
    from beeline.training.distributed.parallel import Work


class Cost(Protocol):
    """A strictly convex cost of a displacement and its gradient; ``dual`` is the gradient of the conjugate."""

    def value(self, u: Tensor) -> Tensor: ...  # [B,*S] -> [B]

    def gradient(self, u: Tensor) -> Tensor: ...

    def dual(self, y: Tensor) -> Tensor: ...  # the inverse of ``gradient``


Log = Callable[[dict[str, Any]], None]
"""Called with one dict per step; a dict with ``note`` instead of ``loss`` is a message."""


@runtime_checkable
class Callback(Protocol):
    """Called during training with the raw and the averaged network: a held-out loss, previews.

    Inherit ``training.callbacks.CallbackBase``, which has defaults for all but ``name`` and ``evaluate``.
    """

    @property
    def name(self) -> str:
        """Its key in the log."""
        ...

    def due(self, step: int, steps: int) -> bool:
        """Whether it is called after step ``step`` (1, 2, ...) of ``steps``."""
        ...

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """Plain data for the log; an entry "note" is logged as a message.

        The callback sets evaluation mode itself where it needs it.
        """
        ...

    @property
    def scores(self) -> bool:
        """Whether ``score`` returns a loss, which early stopping uses."""
        ...

    def score(self, found: Mapping[str, Any]) -> float:
        """The loss of an evaluation; lower is better."""
        ...

    def watch(self, networks: Mapping[str, nn.Module]) -> None:
        """Called before the first step with all networks of the run by name, which are trained in place."""
        ...

    def place(self, device: torch.device, seen: dict[int, Any]) -> Callback:
        """The callback with its tensors on ``device``; ``seen`` maps the identity of moved objects to their copies."""
        ...

    def record(self, entry: Mapping[str, Any]) -> None:
        """Called on the first process with every entry of the log: one per step, and messages."""
        ...


class TrackedRun(NamedTuple):
    """The description of a run that a tracker is opened with."""

    name: str
    folder: Path  # of the run
    settings: Mapping[str, Any]  # plain data
    step: int  # of the first entry; above 1 in a resumed run
    identity: str | None  # of the tracker's own run, where it is continued


class TrackerRun(Protocol):
    """An open run of an experiment tracker; names are the same for all trackers (``training.logs.tracking``)."""

    @property
    def identity(self) -> str | None:
        """The name under which a resumed run finds it again."""
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def preview(self, name: str, file: Path, step: int) -> None:
        """An image (.png) or a page (.html)."""
        ...

    def text(self, text: str, step: int) -> None: ...

    def scores(self, values: Mapping[str, float]) -> None:
        """The final scores of the run."""
        ...

    def close(self) -> None: ...


class Tracker(Protocol):
    """An experiment tracker with its settings, such as the project."""

    @property
    def every(self) -> int:
        """Steps between two entries that are sent; evaluations, messages and the last step are always sent."""
        ...

    def check(self) -> None:
        """Raise BeelineError if it cannot be used: called before any work."""
        ...

    def open(self, run: TrackedRun) -> TrackerRun: ...


class Optimizer(Protocol):
    """Creates a torch optimizer; the engine sets its learning rate in every step.

    Inherit ``optimizers.OptimizerBase``, which has defaults for all but ``build``.
    """

    @property
    def lr_free(self) -> bool:
        """Whether it estimates its own learning rate, which the schedule multiplies."""
        ...

    @property
    def averages(self) -> bool:
        """Whether it averages its weights itself; the torch optimizer then has ``train()`` and ``eval()``."""
        ...

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        """The torch optimizer.

        ``matrices``: identities of the parameters with weight decay and orthogonalised updates, as
        ``parameter_groups.matrices`` returns them; None means all with two or more dimensions.
        """
        ...


class LRSchedule(Protocol):
    """Learning rate of step ``step`` (0, 1, ...) of ``steps``.

    Inherit ``learning_rate.LRScheduleBase``, which has a default for ``branch``.
    """

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        ...

    def branch(self, steps: int) -> int:
        """The step up to which learning rates do not depend on ``steps``: a longer run continues from there."""
        ...

    def __call__(self, step: int, steps: int) -> float: ...


class Profile(Protocol):
    """Weight of the old average in the update after step ``step`` (1, 2, ...)."""

    def decay(self, step: int) -> float: ...


@runtime_checkable
class Microbatches(Protocol):
    """Stateless data source: a microbatch is a pure function of its number and size, in any process, at any time."""

    def microbatch(self, number: int, size: int) -> Batch: ...


@runtime_checkable
class Feed(Microbatches, Protocol):
    """A data source with all members that the engine uses; inherit ``microbatches.FeedBase``, which has defaults."""

    @property
    def origin(self) -> Feed:
        """The feed without worker processes."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether data are read in order, so that worker processes would each read all of them."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain data that have to be the same when a run is resumed; {} stands for a hash of a first microbatch."""
        ...

    def rows(self, number: int, size: int) -> Tensor | None:
        """The indices of the data of a microbatch; None if the data have no indices."""
        ...

    def load(self, number: int, size: int) -> Batch:
        """A microbatch in the form that is cheapest to store and to move; ``encode`` completes it."""
        ...

    def encode(self, batch: Batch) -> Batch:
        """What ``load`` returned, on any device, as the microbatch: encode(load(number, size)) = microbatch(...)."""
        ...

    def begin(self, step: int, training: Training) -> None:
        """Called before step ``step`` (0, 1, ...)."""
        ...

    def observe(
        self,
        step: int,
        training: Training,
        errors: Mapping[int, tuple[Tensor, Tensor]],
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Called after a step with the losses and times of its data, by microbatch; ``total`` sums over processes."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state for checkpoints, as JSON data and tensors."""
        ...

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore a state."""
        ...


class Parallel(Protocol):
    """Process ``rank`` of ``world`` computes the microbatches rank, rank + world, ... of every step."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def shards(self) -> bool:
        """Whether parameters are sharded, so that all processes take part in writing a checkpoint."""
        ...

    def place(self, device: Device | None, networks: Mapping[str, nn.Module]) -> torch.device:
        """The device of this process for the setting ``device``."""
        ...

    def wrap(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        """The network on its device, sharded if the engine shards; ``dtype`` is that of the forward pass, if lower."""
        ...

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        """The forward and backward pass of a microbatch for a player."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over processes."""
        ...

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all tensors together, over all processes if they are sharded."""
        ...


@runtime_checkable
class Distillation(Protocol):
    """A student flow from a teacher flow: its networks, its data, its objective, and how it samples.

    Inherit this class: only ``networks``, ``data``, ``objective`` and ``student`` have no defaults.
    """

    by_samples: ClassVar[bool] = False  # whether its loss says nothing, and samples are compared with data instead
    automatic: ClassVar[bool] = False  # whether ``distill auto`` tries it with its default settings

    @property
    def store(self) -> str | None:
        """The folder of stored pairs of the teacher from which it learns; None where it generates its data."""
        return None

    @property
    def rounds(self) -> int:
        """How often it is repeated, with the student of a round as the teacher of the next."""
        return 1

    def next_round(self) -> Distillation:
        """The method of one more round, whose teacher is the student of this one and whose network is a copy."""
        return self

    def fitted(self, teacher: Flow, batch: Batch, rng: Rng) -> Distillation:
        """The method with what it finds of the teacher, by its data [N,*S], before anything else."""
        return self

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        """The networks that are trained, by name."""
        ...

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        """The training data of the student, from those of the teacher."""
        ...

    def heldout(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        """The data of the held-out loss, from held-out data of the teacher, one for every datum."""
        return self.data(teacher, batch, rng)

    def feed(self, teacher: Flow, data: Batch, rng: Rng) -> Batch | Microbatches:
        """The data for ``fit``: the training data, or microbatches of them."""
        return data

    def supply(self, teacher: Flow, data: Any, batch: Batch, rng: Rng) -> Batch | Microbatches:
        """The data for ``fit`` where they also depend on the data ``batch`` of the teacher.

        ``data``: the training data, or a source of stored ones.
        """
        return self.feed(teacher, data, rng)

    def objective(self, teacher: Flow) -> Any:
        """The objective of the student."""
        ...

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        """The flow of the trained networks, with its sampler."""
        ...

    def with_pairs(self, count: int) -> Distillation:
        """The method with so many pairs, where it generates a number of them before the training; else itself."""
        return self

    def rehearsal(self) -> Distillation:
        """The method with as little preparation as exercises all of it, for a rehearsal."""
        return self

    def trained(self, sampler: Sampler) -> Trained | None:
        """What it fixes about the sampling of its student, whose sampler is given; None fixes nothing.

        The guidance of ``taught`` is added to it.
        """
        return None

    def taught(self, sampler: Sampler) -> Sampler:
        """The sampler of the teacher whose samples the student learns, from the teacher's own: its guidance."""
        return sampler

    def for_evaluations(self, evaluations: int) -> Distillation:
        """The method whose student samples with so many evaluations; ValueError for a number that it cannot have."""
        raise BeelineError(
            f"{type(self).__name__} has no number of evaluations to choose; leave evaluations out, or use a method for "
            "few evaluations such as ParallelDecoding"
        )


class PairFilter(Protocol):
    """Chooses among the pairs of a teacher.  Inherit this class: ``fit`` has a default."""

    def fit(self, data: Batch | None) -> PairFilter:
        """The filter fitted to the teacher's training data, where it needs them."""
        return self

    def __call__(self, pairs: Batch) -> Tensor:
        """[B] bool, True for the pairs (x0, x1, cond) that are kept."""
        ...


class Fit(Protocol):
    """Finds (schedule, solver) for a number of steps on a problem.  ``FitBase`` has the default of ``logged``."""

    @property
    def logged(self) -> int:
        """How often ``problem.log`` is called, for a progress bar; 0 if never."""
        ...

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]: ...
