"""The requests of the HTTP interface, and the samplers that they may describe."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from beeline.config import build as config
from beeline.core.errors import require
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Plain, Unconditional
from beeline.sampling.sampler import Sampler
from beeline.serving.works import Drawing, Model, Result, Task, Work

STEPS = 1000  # of a request
MOST = 2**16  # samples of a request, however many a service allows


class Models(Protocol):
    """A service, as far as requests know it."""

    def model(self, name: str | None) -> Model:
        """A model by name, or the first one."""
        ...

    def drawing(
        self, model: str | None, seeds: Sequence[int], condition: Any = None, sampler: Sampler | None = None
    ) -> Drawing:
        """Samples of a model, checked."""
        ...

    def task(self, model: str | None, rows: int, call: Callable[[Bundle], Result]) -> Task:
        """A call on a model, checked."""
        ...


class SamplerRequest(BaseModel):
    """Settings of the sampler that differ from those of the model."""

    model_config = ConfigDict(extra="forbid")

    steps: Annotated[int, Field(ge=1, le=STEPS, description="steps from noise to data")] | None = None
    solver: (
        Annotated[str, Field(max_length=200, description="a component of 'beeline list solvers', as HEUN")] | None
    ) = None
    schedule: Annotated[str, Field(max_length=200, description="as Shifted(3.0)")] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, description="1 is no guidance")] | None = None
    guidance: (
        Annotated[
            str,
            Field(
                max_length=400, description="as Guide(Unconditional(), Projected(3.0)); such samples are drawn alone"
            ),
        ]
        | None
    ) = None
    controllers: (
        Annotated[
            list[Annotated[str, Field(max_length=400)]],
            Field(max_length=8, description="components of 'beeline list controllers'; such samples are drawn alone"),
        ]
        | None
    ) = None

    def changed(self, sampler: Sampler) -> Sampler:
        """The sampler with these settings; ValueError where one does not exist."""
        require(
            self.guidance is None or self.guidance_scale is None,
            f"guidance={self.guidance!r} and guidance_scale={self.guidance_scale} were given; give one of them",
        )
        if self.guidance is not None:
            sampler = dataclasses.replace(sampler, guidance=component(self.guidance, "guidance"))
        if self.controllers is not None:
            steering = tuple(component(text, "controllers") for text in self.controllers)
            sampler = dataclasses.replace(sampler, controllers=steering)
        if self.steps is not None:
            sampler = dataclasses.replace(sampler, steps=self.steps)
        if self.solver is not None:
            sampler = dataclasses.replace(sampler, solver=component(self.solver, "solvers"))
        if self.schedule is not None:
            sampler = dataclasses.replace(sampler, schedule=component(self.schedule, "schedules"))
        if self.guidance_scale is not None:
            sampler = dataclasses.replace(sampler, guidance=CFG(self.guidance_scale))
        return sampler


class Requested(BaseModel):
    """What every request has."""

    model_config = ConfigDict(extra="forbid")
    quick: ClassVar[bool] = False  # whether it is checked in less than a millisecond

    model: Annotated[str, Field(max_length=200, description="by default the first one that is served")] | None = None
    priority: Annotated[int, Field(ge=-10, le=10, description="higher ones first")] = 0
    timeout: Annotated[float, Field(gt=0, le=86400, description="seconds after which it fails")] | None = None

    @property
    def rows(self) -> int:
        """The number of data that are drawn or given."""
        return 1

    @property
    def conditions(self) -> Any:
        """What the user wants drawn, as it was given."""
        return None

    def work(self, service: Models) -> Work:
        """What is to be done, checked; ValueError for what the model cannot do."""
        raise NotImplementedError

    def settled(self) -> Requested:
        """The same with every random choice made, so that it can be done again."""
        return self


class SampleRequest(Requested):
    """Samples of a model."""

    quick = True
    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 1, "seed": 7, "condition": {"label": 3}}]})

    n: Annotated[int, Field(ge=1, le=MOST, description="number of samples")] = 1
    seed: (
        Annotated[int, Field(ge=0, lt=2**62, description="of the first sample; the next ones have the next seeds")]
        | None
    ) = None
    seeds: list[Annotated[int, Field(ge=0, lt=2**62)]] | None = None
    condition: Any = None
    sampler: SamplerRequest | None = None
    adapters: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-4, le=4)]],
            Field(description="amounts of served bundles that were adapted from the model, by name"),
        ]
        | None
    ) = None

    @property
    def rows(self) -> int:
        """The number of samples."""
        return self.n

    @property
    def conditions(self) -> Any:
        """The condition."""
        return self.condition

    def work(self, service: Models) -> Work:
        """Samples, which share runs with those of others."""
        model, seeds = service.model(self.model), self.drawn()
        usual = model.bundle.sampler
        sampler = usual if self.sampler is None else self.sampler.changed(usual)
        drawing = service.drawing(self.model, seeds, self.condition, sampler)
        if shares(sampler):
            return dataclasses.replace(drawing, amounts=model.amounts(self.adapters))
        require(
            not self.adapters,
            "adapters were given with a guidance or controllers of one's own, which need a network for themselves; "
            "leave one of them out, or request the adapted model by its name",
        )
        return service.task(self.model, len(seeds), drawing.drawn)

    def settled(self) -> SampleRequest:
        """With a seed."""
        given = self.seed is not None or self.seeds is not None
        return self if given else self.model_copy(update={"seed": secrets.randbits(48)})

    def drawn(self) -> list[int]:
        """The seed of every sample; new ones where none is given."""
        require(
            self.seeds is None or (self.seed is None and len(self.seeds) == self.n),
            f"{len(self.seeds or ())} seeds were given for n={self.n} and seed={self.seed}; give one seed for every "
            "sample, or the seed of the first",
        )
        first = secrets.randbits(48) if self.seed is None else self.seed
        return list(range(first, first + self.n)) if self.seeds is None else self.seeds


def shares(sampler: Sampler) -> bool:
    """Whether runs of a sampler evaluate the network as it is, so that their evaluations can be those of others too.

    Other guidance may skip layers, change attention or need derivatives.
    """
    guidance = sampler.guidance
    if isinstance(guidance, Guide):
        plain = isinstance(guidance.reference, Unconditional) and isinstance(guidance.rule, Extrapolate)
    else:
        plain = isinstance(guidance, Plain)
    return plain and not sampler.controllers


def component(text: str, kind: str) -> Any:
    """A component from a request; ValueError for one that holds a text, as a path would be."""
    made = config.parse(text, kind)
    require(
        not holds_text(made),
        f"{text!r} holds a text, such as the name of a file; a request may set numbers and components alone",
    )
    return made


def holds_text(part: Any) -> bool:
    """Whether a component or one inside of it has a text among its settings."""
    if isinstance(part, str):
        return True
    if isinstance(part, list | tuple):
        return any(holds_text(one) for one in part)
    if isinstance(part, dict):
        return any(holds_text(one) for one in part.values())
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return any(holds_text(getattr(part, f.name)) for f in dataclasses.fields(part))
    return False
