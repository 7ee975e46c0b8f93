"""Adaptive solvers: embedded Runge-Kutta pairs with error control."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import IntegrationError, require
from beeline.core.protocols.flows import SolverTraits
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.solvers.runge_kutta import advance
from beeline.solvers.wrappers import SolverBase


@dataclass(frozen=True)
class Embedded:
    """The tableau of an embedded Runge-Kutta pair with the property "first same as last".

    x_s = x + h sum_i b_i k_i as in RungeKutta;  error = h (sum_i (b_i - c_i) k_i),  k_last = f(x_s, s)
    Assumes that the last row of ``a`` is b.
    Source: Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential Equations I", II.4.

    >>> DORMAND_PRINCE.order
    5
    """

    order: Count  # of the result
    a: tuple[tuple[float, ...], ...]  # rows of increasing length; the last is b without its last weight, which is 0
    error: tuple[float, ...]  # weights of the error estimate, with sum 0
    error_order: Count  # order of the embedded method

    def __post_init__(self) -> None:
        require(
            abs(sum(self.a[-1]) - 1) < 1e-12 and abs(sum(self.error)) < 1e-12 and len(self.error) == len(self.a) + 1,
            f"Embedded got a={self.a}, error={self.error}; this is no embedded pair: the last row of a must sum to 1, "
            "and error to 0 with one weight per stage",
        )


BOGACKI_SHAMPINE = Embedded(3, ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)), (-5 / 72, 1 / 12, 1 / 9, -1 / 8), 2)
DORMAND_PRINCE = Embedded(
    5,
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    4,
)
TSITOURAS = Embedded(
    5,
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    (
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    4,
)


class Progress(NamedTuple):
    """The memory of an adaptive run; ``integrate(..., done=...)`` gives access to its counts."""

    x: Tensor  # the last returned state, to detect a correction of it
    slope: Tensor  # velocity at x, or at the end of the span
    length: Tensor  # [B] length of the next trial step, in time
    error: Tensor  # [B] error of the last accepted trial, relative to the tolerance
    evaluations: int
    accepted: int  # trials accepted for at least one sample
    rejected: int  # trials rejected for at least one sample
    end: float | None = None  # last time of the run, which a dense run does not exceed
    span: _DenseStep | None = None


class _DenseStep(NamedTuple):
    """A step beyond the requested time, with the data of its quartic interpolant."""

    t: Tensor
    s: Tensor
    x: Tensor
    middle: Tensor
    x_s: Tensor
    v: Tensor
    v_s: Tensor

    def at(self, time: Tensor) -> Tensor:
        """The quartic through the states and slopes at both ends and the state at the midpoint."""
        u, h = expand_time((time - self.t) / (self.s - self.t), self.x), expand_time(self.s - self.t, self.x)
        a, b, p, q, m = self.x, self.x_s, h * self.v, h * self.v_s, self.middle
        c2 = -11 * a - 5 * b + 16 * m - 4 * p + q
        c3 = 18 * a + 14 * b - 32 * m + 5 * p - 3 * q
        c4 = -8 * a - 8 * b + 16 * m - 2 * p + 2 * q
        return a + u * (p + u * (c2 + u * (c3 + u * c4)))


@dataclass(frozen=True)
class Adaptive(SolverBase):
    """Adaptive step sizes: an embedded pair with a proportional-integral controller.

    a step is accepted if |error / (atol + rtol max(|x|, |x_s|))| <= 1 in root mean square;  the next one is
    safety error^(-0.7/p) last_error^(0.4/p) times as long, p the order of the error
    Assumes a field that can be evaluated at any time.  Errors are computed per sample, so that a sample does not depend
    on its batch, or over the whole batch with ``per_sample=False``.  Rejected trials count as evaluations.  With
    ``dense`` the states at the given times are interpolated between steps of free length.
    Source: Hairer, Norsett and Wanner 1993, II.4; Tsitouras 2011, "Runge-Kutta pairs of order 5(4)".

    >>> x = Adaptive().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    >>> abs(float(x) - 2.718282) < 1e-4
    True
    """

    rtol: float = 1e-5  # relative tolerance, above 0; 1e-3 is coarse, 1e-7 needs float64
    atol: float = 1e-5  # absolute tolerance in units of the state, above 0
    table: Embedded = TSITOURAS
    per_sample: bool = True  # separate error and step length per sample
    dense: bool = False  # interpolate the states at the given times; needs per_sample=False
    max_evaluations: int = 10_000  # IntegrationError beyond
    safety: float = 0.9  # safety factor of the step length, in (0, 1)

    def __post_init__(self) -> None:
        require(
            self.rtol > 0 and self.atol > 0,
            f"Adaptive got rtol={self.rtol}, atol={self.atol}; no step has an error of zero: set tolerances above 0, "
            "for example 1e-5",
        )
        require(
            self.max_evaluations >= 1 and 0 < self.safety < 1,
            f"Adaptive got max_evaluations={self.max_evaluations}, safety={self.safety}; no step could be accepted: "
            "set max_evaluations >= 1 and 0 < safety < 1",
        )
        require(
            not (self.dense and self.per_sample),
            "Adaptive got dense=True and per_sample=True; the interpolant belongs to a step of the whole batch: set "
            "per_sample=False",
        )

    @property
    def order(self) -> int:
        return self.table.order

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(adaptive=True)

    def init_memory(self, times: Tensor) -> Any:
        """The last time of the run."""
        return float(times[-1].flatten()[0]) if times.ndim == 1 else None

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        if not isinstance(memory, Progress):
            memory = self._start(f, x, t, s, memory)
        elif memory.x is not x:  # the state was corrected: its slope and the span are stale
            memory = memory._replace(slope=f(x, t), evaluations=memory.evaluations + 1, span=None)
        return self._dense(f, x, t, s, memory) if self.dense else self._advance_to(f, x, t, s, memory)

    def _start(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, end: float | None) -> Progress:
        """The first step length, from the sizes of the state, its slope and the change of that (Hairer II.4)."""
        slope, reach = f(x, t), _interval_length(t, s)
        self._finite(x, t, slope)
        scale = self.atol + self.rtol * x.detach().abs()
        size, speed = self._norm(x / scale), self._norm(slope / scale)
        guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed.clamp(min=1e-30)).minimum(reach)
        step = _expand_dims(guess / reach, t) * (s - t)
        bend = self._norm((f(torch.addcmul(x, expand_time(step, x), slope), t + step) - slope) / scale) / guess
        steep = torch.maximum(speed, bend)
        power = 1 / (self.table.error_order + 1)
        length = torch.where(steep <= 1e-15, (guess * 1e-3).clamp(min=1e-6), (0.01 / steep.clamp(min=1e-30)) ** power)
        length = torch.minimum(100 * guess, length).minimum(reach)
        return Progress(x, slope, length, torch.full_like(length, 1e-4), 2, 0, 0, end)

    def _trial(
        self, f: Dynamics, x: Tensor, slope: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """One step of the pair: the state at s, the stages, and the error of each sample over its tolerance."""
        h = s - t
        wide, k, times = expand_time(h, x), [slope], [t]
        for row in self.table.a[:-1]:
            c = sum(row)
            times.append(s if abs(c - 1) < 1e-12 else t + c * h)
            k.append(f(advance(x, wide, row, k), times[-1]))
        new = advance(x, wide, self.table.a[-1], k)
        k.append(f(new, s))
        bad = advance(torch.zeros_like(x), wide, self.table.error, k).detach()
        error = self._norm(bad / (self.atol + self.rtol * torch.maximum(x.detach().abs(), new.detach().abs())))
        if not bool(error.isfinite().all()):  # a trial state may overflow; the current state must not
            at = next((u for u, v in zip(times, k, strict=False) if not bool(v.isfinite().all())), s)
            self._finite(x, at, f(x, at))
        return new, k, torch.where(error.isfinite(), error, torch.full_like(error, 1e10))

    def _finite(self, x: Tensor, t: Tensor, v: Tensor) -> None:
        """Raise IntegrationError for a field that is not finite at a finite state, which no shorter step changes."""
        bad = ~v.detach().flatten(1).isfinite().all(1)
        if bool(bad.any()):
            at = float(t.flatten(1)[bad][0, 0] if t.ndim > 1 else t[bad][0])
            raise IntegrationError(
                f"the field returned NaN or infinite values at t = {at:.6g} for {int(bad.sum())} of {len(x)} finite "
                "states; a shorter step does not help: check the field at that time (the last good state is error.x)",
                x,
                at,
            )

    def _factor(self, error: Tensor, last: Tensor) -> Tensor:
        """Ratio of the next step length to this one; from both errors if accepted, from the new one if rejected."""
        power = 1 / (self.table.error_order + 1)
        error = error.clamp(min=1e-10)
        accepted = error ** (-0.7 * power) * last.clamp(min=1e-4) ** (0.4 * power)
        return (self.safety * torch.where(error <= 1, accepted, (error**-power).clamp(max=1.0))).clamp(0.2, 10.0)

    def _advance_to(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, m: Progress) -> tuple[Tensor, Progress]:
        """Trial steps until every sample has reached ``s``; ``gone`` [B] is the completed fraction of the interval."""
        reach = _interval_length(t, s)
        gone = torch.zeros_like(reach)
        slope, length, last = m.slope, m.length, m.error
        evaluations, accepted, rejected = m.evaluations, m.accepted, m.rejected
        while bool((gone < 1).any()):
            here = t + _expand_dims(gone, t) * (s - t)
            self._allow(x, here, length, evaluations, accepted, rejected)
            left = (1 - gone) * reach
            final = length >= left * (1 - 1e-6)
            part = torch.where(final, torch.ones_like(gone), gone + length / reach)
            there = torch.where(_expand_dims(final, t), s, t + _expand_dims(part, t) * (s - t))
            new, k, error = self._trial(f, x, slope, here, there)
            evaluations += len(self.table.a)
            busy, good = gone < 1, error <= 1
            take = busy & good
            accepted, rejected = accepted + int(take.any()), rejected + int((busy & ~good).any())
            tried = torch.minimum(length, left)
            longer = tried * self._factor(error, last)
            # a step shortened by the end of the interval does not replace a longer proposal
            longer = torch.where(final & good, torch.maximum(longer, length), longer)
            length, last = torch.where(busy, longer, length), torch.where(take, error, last)
            gone = torch.where(take, part, gone)
            x, slope = torch.where(expand_time(take, x), new, x), torch.where(expand_time(take, x), k[-1], slope)
        return x, Progress(x, slope, length, last, evaluations, accepted, rejected, m.end)

    def _dense(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, m: Progress) -> tuple[Tensor, Progress]:
        """Steps of free length until beyond ``s``, and the interpolated state at ``s``."""
        span, (state, here) = m.span, (x, t) if m.span is None else (m.span.x_s, m.span.s)
        edge = s if m.end is None else torch.full_like(s, m.end)
        while span is None or bool(((s - span.s) * (edge - t)).gt(0).any()):
            self._allow(state, here, m.length, m.evaluations, m.accepted, m.rejected)
            reach = (edge - here).abs()
            final = m.length >= reach * (1 - 1e-6)
            target = torch.where(final, edge, here + m.length * torch.sign(edge - here))
            new, k, error = self._trial(f, state, m.slope, here, target)
            good = bool((error <= 1).all())
            m = m._replace(
                length=torch.minimum(m.length, reach) * self._factor(error, m.error),
                error=error if good else m.error,
                slope=k[-1] if good else m.slope,
                evaluations=m.evaluations + len(self.table.a),
                accepted=m.accepted + good,
                rejected=m.rejected + (not good),
            )
            if good:
                middle = advance(state, expand_time(target - here, state), _midpoint_weights(self.table), k)
                span = _DenseStep(here, target, state, middle, new, k[0], k[-1])
                state, here = new, target
        out = state if bool((here == s).all()) else span.at(s)
        return out, m._replace(x=out, span=span)

    def _allow(self, x: Tensor, t: Tensor, length: Tensor, evaluations: int, accepted: int, rejected: int) -> None:
        """Raise IntegrationError for a trial beyond ``max_evaluations``, and for steps too short for the dtype."""
        at = float(t.flatten()[0])
        if evaluations + len(self.table.a) > self.max_evaluations:
            raise IntegrationError(
                f"after {evaluations} evaluations ({accepted} trials accepted, {rejected} rejected) the run was at t = "
                f"{at:.6g}, and max_evaluations={self.max_evaluations} allows no further step; raise it, or increase "
                f"rtol={self.rtol} and atol={self.atol} (the last good state is error.x)",
                x,
                at,
            )
        if bool((length < 1e-12).any()):
            raise IntegrationError(
                f"the step length fell below 1e-12 near t = {at:.6g}; no step has an error within rtol={self.rtol}, "
                f"atol={self.atol}: the field is discontinuous or not finite there, or the tolerance is below the "
                "rounding error of the dtype: increase it, or integrate in float64 (the last good state is error.x)",
                x,
                at,
            )

    def _norm(self, x: Tensor) -> Tensor:
        """Root mean square [B] of each sample, or of the batch."""
        square = x.detach().square().flatten(1).mean(1)
        return (square if self.per_sample else square.mean().expand_as(square)).sqrt()


def _expand_dims(h: Tensor, t: Tensor) -> Tensor:
    return h.reshape(h.shape + (1,) * (t.ndim - 1))


def _interval_length(t: Tensor, s: Tensor) -> Tensor:
    """[B] length of the interval, the longest of the frames of a sample."""
    return (s - t).abs().flatten(1).amax(1) if t.ndim > 1 else (s - t).abs()


@functools.cache
def _midpoint_weights(table: Embedded) -> tuple[float, ...]:
    """Weights of the state at the midpoint of a step: the least-norm solution of the order conditions at 1/2."""
    n = len(table.error)
    a = np.zeros((n, n))
    for i, row in enumerate(table.a):
        a[i + 1, : len(row)] = row
    c, u = a.sum(1), 0.5
    rows = [np.ones(n), c, c**2, a @ c, c**3, c * (a @ c), a @ c**2, a @ a @ c]
    wanted = [u, u**2 / 2, u**3 / 3, u**3 / 6, u**4 / 4, u**4 / 8, u**4 / 12, u**4 / 24]
    keep = 8 if table.order > 3 else 4
    weights: list[float] = np.linalg.lstsq(np.array(rows[:keep]), np.array(wanted[:keep]), rcond=None)[0].tolist()
    return tuple(weights)
