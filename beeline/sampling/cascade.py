"""Flows in sequence: the frames of one flow one after another, and flows given the samples of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Source
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class Autoregressive:
    """Samples the frames of a state one after another, each given those before it.

    x_f ~ flow(x_f | x_0, ..., x_{f-1}, cond), f = 0, 1, ...;  the frames after f stay noise until their turn
    Assumes states [B,F,...] and a field with a time for every frame, trained with ``Continued(F, F - 1, single=True)``
    as times.  Takes F times the evaluations of its sampler.
    Source: Favaro et al. 2024, "CaloDREAM" (arXiv 2405.09629), autoregressive flow of layer energies.

    >>> Autoregressive(Sampler(2))(Flow(lambda x, t: 1 + 0 * x), torch.zeros(1, 3, 1)).flatten()
    tensor([1., 1., 1.])
    """

    sampler: Sampler

    def __call__(self, flow: Flow, x0: Tensor, cond: Cond = None) -> Tensor:
        require(
            x0.ndim >= 2,
            f"Autoregressive got states of shape {tuple(x0.shape)}; frames are the second dimension: pass [B,F,...]",
        )
        x, count = x0, x0.shape[1]
        for f in range(count):
            turn = GivenFrames(tuple(range(f)), self.sampler.guidance, tuple(range(f + 1, count)))
            guidance = turn if count > 1 else self.sampler.guidance
            x = replace(self.sampler, guidance=guidance)(flow, x, cond)
        return x


@dataclass(frozen=True)
class Stage:
    """One flow of a cascade."""

    name: str  # of its samples, as a condition [B,...] of later stages
    flow: Flow
    sampler: Callable[..., Tensor]  # Sampler or Autoregressive
    shape: tuple[int, ...]  # of one sample
    given: tuple[str, ...]  # names of the conditions that its network takes


@dataclass(frozen=True)
class Cascade:
    """Flows whose conditions are the samples of earlier ones.

    x_k ~ flow_k(. | cond, link(x_1), ..., link(x_{k-1}))
    Assumes that every condition of a stage is given or is the name of an earlier stage.
    Source: Favaro et al. 2024, "CaloDREAM" (arXiv 2405.09629).

    >>> one = Stage("u", Flow(lambda x, t, c: c["e"]), Sampler(1), (1,), ("e",))
    >>> two = Stage("v", Flow(lambda x, t, c: c["u"] - x), Sampler(1), (1,), ("u",))
    >>> made = Cascade((one, two)).sample({"e": torch.ones(3, 1)}, Rng(0))
    >>> sorted(made)
    ['u', 'v']
    """

    stages: tuple[Stage, ...]
    link: Callable[[Tensor], Tensor] = torch.nn.Flatten()  # from samples to conditions

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        require(
            len(names) > 0 and len(set(names)) == len(names),
            f"Cascade got stages with the names {names}; each is a condition of the later ones: give different names",
        )

    def sample(self, cond: Mapping[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """The samples [B,*S] of all stages by name, for conditions with B rows."""
        known, made = dict(cond), {}
        for stage in self.stages:
            missing = sorted(set(stage.given) - set(known))
            require(
                not missing and bool(known),
                f"the stage {stage.name!r} takes the conditions {list(stage.given)}, and {missing} are neither given "
                "nor the name of an earlier stage: pass them, or change the order of the stages",
            )
            first = next(iter(known.values()))
            like = torch.empty(len(first), *stage.shape, device=first.device, dtype=_dtype(known.values()))
            source: Source = stage.flow.source
            x0 = source.sample(like, rng.fork(stage.name))
            made[stage.name] = stage.sampler(stage.flow, x0, {name: known[name] for name in stage.given} or None)
            known[stage.name] = self.link(made[stage.name])
        return made


def _dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """The first floating dtype; float32 where there is none."""
    return next((x.dtype for x in tensors if x.is_floating_point()), torch.float32)
