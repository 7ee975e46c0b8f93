"""The base of samplers that compare several candidates for every sample, and the step of a stochastic flow."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from beeline.core.declared import Remembering, fields_of, unwrapped
from beeline.core.errors import require
from beeline.core.host_times import set_host_times
from beeline.core.modes import check_together, check_values, deferred, eval_mode
from beeline.core.protocols.steering import Controller
from beeline.core.ranges import Count, Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, expand_time, map_cond
from beeline.couplings.sources import Gaussian
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.sampler import Call, Sampler, check_rows
from beeline.sampling.steering.controller import affine_path, complete_controller
from beeline.sampling.steering.modalities import for_rows as rows_of_energies
from beeline.solvers.diffusions import White
from beeline.solvers.process import process_of, require_ode
from beeline.solvers.sde import EulerMaruyama


@dataclass(frozen=True)
class Search(Sampler):
    """Base of samplers that run several candidates for every sample and return one of them.

    A subclass gives ``_search``.  The states of a run are [n*B,*S]; row k B + i is candidate k of sample i, and the
    noise of a call is the first candidate of each.  ``watch`` gets the states of all candidates.  With seeds a sample
    depends on its own seed alone.  Candidates are compared within a sample, never across samples.
    """

    candidates: Annotated[int, Range(least=2)] = 8  # for every sample
    rng: Rng = Rng(0)  # of initial noise and of the noise of steps
    seeds: tuple[int, ...] = ()  # one per sample, or none
    rows: Count = 4096  # states in a batch; samples are searched in parts with at most so many states

    def seeded(self, seeds: Sequence[int], *names: int | str | float) -> Search:
        return replace(self, rng=self.rng.fork(*names), seeds=tuple(int(seed) for seed in seeds))

    def for_rows(self, start: int, end: int) -> Search:
        plain = Sampler(self.steps, self.schedule, self.solver, self.guidance, self.controllers)
        own = {k: rows_of_energies(v, start, end) for k, v in fields_of(self).items() if k not in fields_of(plain)}
        made = replace(self, **own)
        if self.seeds:
            return replace(made, seeds=self.seeds[start:end])
        part, fresh = plain.for_rows(start, end), self.rng.fork("rows", start)
        return replace(made, solver=part.solver, guidance=part.guidance, controllers=part.controllers, rng=fresh)

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        name = type(self).__name__
        call.check_whole(name, "it compares candidates")
        require(
            not self.seeds or len(self.seeds) == len(x0),
            f"{name} has {len(self.seeds)} seeds for a batch of {len(x0)}; every sample needs its own seed: use "
            "seeded, and for_rows for a part of a batch",
        )
        check_rows(cond, x0)
        check_together("the state", x0, flow, self)  # with the networks of its energies and references
        cond = map_cond(lambda leaf: leaf.to(x0.device), cond)
        size = max(1, self.rows // self.candidates)
        parts = []
        with eval_mode(flow, self), deferred():
            for i in range(0, len(x0), size):
                own = self if len(x0) <= size else self.for_rows(i, i + size)
                here = map_cond(lambda leaf, i=i: leaf[i : i + size], cond)  # type: ignore[misc]
                x = x0[i : i + size]
                parts.append(own._search(flow, x.to(torch.promote_types(x.dtype, torch.float32)), here, call))
            made = torch.cat(parts)
            check_values(
                made.isfinite().all(),
                lambda: (
                    f"{name} got samples that are not finite; the field or a weight is infinite: use more steps, or a "
                    "lower scale of guidance or of the energy"
                ),
            )
        return made

    @abstractmethod
    def _search(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        """The chosen samples [B,*S] for initial noise ``x0`` [B,*S]."""

    def normal(self, like: Tensor, n: int, *names: int | str | float) -> Tensor:
        """Standard normal numbers [n*B,*S] for ``like`` [B,*S], those of a row from its seed if there are seeds."""
        whole, rng = like.new_empty(len(like), n, *like.shape[1:]), self.rng.fork(*names)
        return (rng.rows(self.seeds, whole) if self.seeds else rng.normal(whole)).transpose(0, 1).flatten(0, 1)

    def _own(self, n: int) -> Sampler:
        """The settings for ``n`` candidates of every sample: those of a Sampler, with a seed for each candidate."""
        plain = Sampler(self.steps, self.schedule, self.solver, self.guidance, self.controllers)
        return plain.seeded(self.keys(n)) if self.seeds else plain

    def keys(self, n: int) -> list[int]:
        """A seed for every one of ``n`` candidates of every sample; none without seeds."""
        return [self.rng.fork("candidate", k, seed).key() for k in range(n) for seed in self.seeds]

    def starts(self, flow: Flow, x0: Tensor, n: int | None = None) -> Tensor:
        """Initial states [n*B,*S]: ``x0`` [B,*S], and further samples of the source."""
        more = (self.candidates if n is None else n) - 1
        if isinstance(flow.source, Gaussian):
            return torch.cat([x0, self.normal(x0, more, "start")])
        if not self.seeds:
            return torch.cat([x0, flow.source.sample(tiled(x0, more), self.rng.fork("start"))])
        keys = [self.rng.fork("start", k, seed) for k in range(more) for seed in self.seeds]
        return torch.cat([x0, *(flow.source.sample(x0[:1], key) for key in keys)])


class Steered(NamedTuple):
    """A guided drift, and the corrections of its controllers."""

    drift: Dynamics
    controllers: Sequence[Controller]

    def correct(self, x: Tensor, t: Tensor) -> Tensor:
        """The state after the corrections."""
        for controller in self.controllers:
            x = controller.correct(x, t)
        return x

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The corrected state and its velocity."""
        x = self.correct(x, t)
        return x, self.drift(x, t)


class Steps(NamedTuple):
    """What a search needs of a run in steps."""

    path: AffinePath
    times: list[float]  # [steps+1]
    one: Steered  # for a state of every sample, [B,*S]
    many: Steered  # for a state of every candidate, [n*B,*S]
    cond: Cond  # of every candidate


@dataclass(frozen=True)
class StochasticSearch(Search):
    """Base of searches over the noise of steps; ``solver`` gives the diffusion coefficient.

    x_s = x + (s - t) (v + g^2/2 score) + g sqrt(s - t) z
    """

    solver: EulerMaruyama = field(default_factory=lambda: EulerMaruyama(White(Rng(0))))

    def _steps(self, flow: Flow, x0: Tensor, cond: Cond) -> Steps:
        """The drifts of a run; raises ValueError for flows and solvers that do not fit."""
        path = self._checked(flow)
        times = self.times()
        process, wide = process_of(flow), tiled_cond(cond, self.candidates)
        one = Steered(*self._own(1)._steered(flow, process, x0, cond, times))
        many = Steered(*self._own(self.candidates)._steered(flow, process, tiled(x0, self.candidates), wide, times))
        return Steps(path, times.tolist(), one, many, wide)

    def calls(self, t: float) -> int:
        """Field evaluations for one evaluation of the drift at time ``t``."""
        return self.guidance.calls(t) * math.prod(complete_controller(c).calls(t) for c in self.controllers)

    def correction_calls(self, t: float) -> int:
        """Field evaluations for the corrections of one state at time ``t``."""
        count, inner = 0, self.guidance.calls(t)
        for controller in map(complete_controller, self.controllers):
            inner *= controller.calls(t)
            count += controller.correction_calls(t) * inner
        return count

    def _checked(self, flow: Flow) -> AffinePath:
        """The path of a flow; raises ValueError for flows and solvers that do not fit."""
        name, times = type(self).__name__, self.times()
        require(
            isinstance(self.solver, EulerMaruyama) and not self.solver.heun,
            f"{name} got the solver {type(self.solver).__name__}; its candidates differ by the noise of single steps: "
            "use EulerMaruyama(White(Rng(0))) with heun=False",
        )
        require(
            bool((self.solver.diffusion(times[:-1]) > 0).any()),
            f"{name} got a diffusion that is zero at all times; candidates without noise are equal: use Fading(1.0)",
        )
        require(
            not isinstance(unwrapped(flow.field), Remembering),
            f"{name} got a field with a memory of its evaluations, such as a cache; candidates are exchanged between "
            "steps: use the field without it",
        )
        path = affine_path(flow, name)
        require_ode(flow, name)
        process_of(flow).check(flow, self.solver, times)
        return path


def transition(solver: EulerMaruyama, x: Tensor, v: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a stochastic step from ``t`` to ``s`` ([B]); no noise where b(s) = 0."""
    g2 = torch.where(solver.path.b(s) > 0, solver.diffusion(t), 0.0)
    drift = v + expand_time(g2 / 2, x) * solver.path.score(x, v, t)
    return torch.addcmul(x, expand_time(s - t, x), drift), expand_time((g2 * (s - t)).sqrt(), x)


def tiled(x: Tensor, n: int) -> Tensor:
    """``n`` copies [n*B,*S] of ``x`` [B,*S], one after another."""
    return x.repeat(n, *([1] * (x.ndim - 1)))


def tiled_cond(cond: Cond, n: int) -> Cond:
    """A condition for ``n`` candidates of every sample."""
    return map_cond(lambda leaf: tiled(leaf, n) if leaf.ndim else leaf, cond)


def picked(x: Tensor, index: Tensor) -> Tensor:
    """The candidates ``index`` ([B] or [m,B]) of ``x`` [n*B,*S]: [B,*S] or [m*B,*S]."""
    grouped = x.unflatten(0, (-1, index.shape[-1]))
    found = grouped[index, torch.arange(index.shape[-1], device=x.device)]
    return found if index.ndim == 1 else found.flatten(0, 1)


def lowest(values: Tensor) -> Tensor:
    """The index [B] of the least value of every column of ``values`` [n,B]; of the first among those equal to 1e-5."""
    least = values.min(0).values
    ties = values <= least + 1e-5 * (1 + least.abs())
    return ties.to(torch.uint8).argmax(0)


def at(time: float, like: Tensor) -> Tensor:
    """The time of every row, [B], whose values are known on the CPU."""
    values = torch.full((len(like),), time, dtype=like.dtype)
    return set_host_times(torch.full((len(like),), time, dtype=like.dtype, device=like.device), values)


def pairs(times: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """The number, the start and the end of every step."""
    for i in range(len(times) - 1):
        yield i, times[i], times[i + 1]
