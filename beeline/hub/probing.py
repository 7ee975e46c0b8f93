"""The convention of an unknown network, found by its error under every candidate on data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.modes import AUTO, Device, eval_mode, place_for
from beeline.core.protocols.flows import Prediction
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, expand_time, map_cond, take
from beeline.fields.flow import Data, Noise, Velocity
from beeline.hub.unknown import Unknown, unknown
from beeline.networks.hub.convention import CLOCKS, Convention
from beeline.paths.affine import AffinePath, Linear, VariancePreserving

CERTAIN = 3.0  # standard errors by which the best reading has to lead
TIMES = (0.1, 0.9)  # of the states; close to the ends some readings divide by zero
FEWEST = 32  # data
PREDICTIONS: tuple[Prediction, ...] = (Velocity(), Noise(), Data())
ATTRIBUTES: dict[str, Callable[[Convention], Any]] = {
    "output": lambda c: (c.prediction, c.sign),
    "direction of time": lambda c: c.clock,
    "time scale": lambda c: c.time_scale,
    "latents": lambda c: (c.latent_scale, c.latent_shift),
    "path": lambda c: c.path,
}
"""Parts of a convention that are decided one by one."""


@dataclass(frozen=True)
class Finding:
    """The readings of a network, the one of least error first."""

    readings: tuple[Convention, ...]
    losses: tuple[float, ...]  # mean squared errors of the velocity
    leads: tuple[float, ...]  # by how many standard errors the first reading is better than each
    linear: float  # error of the linear estimate of every coordinate from itself
    lead: float  # by how many standard errors the first reading is better than that
    n: int  # data

    @property
    def learned(self) -> bool:
        """Whether the network predicts the data better than a linear estimate of every coordinate does."""
        return self.lead >= CERTAIN

    @property
    def margin(self) -> float:
        """Standard errors between the two best readings."""
        return min(self.leads[1:])

    @property
    def margins(self) -> dict[str, float]:
        """For every part of the convention, the margin to the best reading in which it is another."""
        found = {}
        for name, of in ATTRIBUTES.items():
            rivals = [k for c, k in zip(self.readings, self.leads, strict=True) if of(c) != of(self.readings[0])]
            if rivals:
                found[name] = min(rivals)
        return found

    @property
    def decided(self) -> bool:
        return self.learned and self.margin >= CERTAIN

    @property
    def convention(self) -> Convention:
        """The convention; raises ValueError if it is undecided."""
        require(self.decided, f"the convention is undecided: {self.reason}")
        return self.readings[0]

    @property
    def reason(self) -> str:
        """Why the convention is undecided, and what to do; empty if it is decided."""
        if self.decided:
            return ""
        if not self.learned:
            return (
                f"the best reading has an error of {self.losses[0]:.4g}, where a linear estimate of every coordinate "
                f"reaches {self.linear:.4g}; give data of the kind that the network was trained on, in the layout and "
                "with the conditions that it takes, or a trained network"
            )
        open_ = [name for name, margin in self.margins.items() if margin < CERTAIN]
        return (
            f"{' and '.join(open_)}: two readings differ by {self.margin:.2g} standard errors on {self.n} data, fewer "
            f"than {CERTAIN:g}; give more data"
        )

    def rows(self, most: int = 5) -> list[dict[str, Any]]:
        """The best readings as plain data."""
        found = zip(self.readings[:most], self.losses, self.leads, strict=False)
        return [{"reading": str(c), "error": loss, "standard errors behind": lead} for c, loss, lead in found]

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data for JSON, which has no infinity: None stands for it."""
        best = self.readings[0]
        return {
            "decided": self.decided,
            "reason": self.reason,
            "output": best.target,
            "time": best.clock_text,
            "latent_scale": best.latent_scale,
            "latent_shift": best.latent_shift,
            "path": type(best.path).__name__,
            "margin": finite(self.margin),
            "margins": {name: finite(margin) for name, margin in self.margins.items()},
            "error": self.losses[0],
            "error of a linear estimate": self.linear,
            "data": self.n,
            "readings": [{name: finite(value) for name, value in row.items()} for row in self.rows()],
        }


def finite(value: Any) -> Any:
    """The value, or None for an infinite number."""
    return None if isinstance(value, float) and math.isinf(value) else value


def candidates(
    latents: Iterable[tuple[float, float]] = ((1.0, 0.0),),
    paths: Iterable[AffinePath] = (Linear(), VariancePreserving()),
    time_scales: Iterable[float] = (1.0, 1000.0),
) -> list[Convention]:
    """Every combination of prediction, sign, direction and scale of time with the given latents and paths."""
    clocks = [(clock, scale) for clock in CLOCKS for scale in time_scales]
    outputs = [(prediction, sign) for prediction in PREDICTIONS for sign in (1.0, -1.0)]
    return [
        Convention(prediction, sign, clock, time_scale, scale, shift, path)
        for path, (scale, shift), (clock, time_scale), (prediction, sign) in itertools.product(
            paths, latents, clocks, outputs
        )
    ]


def probe(
    network: Any,
    data: Any = None,
    cond: Cond = None,
    *,
    latents: Sequence[tuple[float, float]] = (),
    paths: Sequence[AffinePath] = (),
    among: Sequence[Convention] | None = None,
    n: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    device: Device = AUTO,
) -> Finding:
    """The convention of a network, by its error under every candidate on ``data``, which it was not trained on.

    ``network``: a bundle, a function or module called as network(x [B,*S], time [B]) or network(x, time, cond), or a
    directory with a bundle or a component of diffusers.
    ``data``: a tensor or array [N,*S], a Batch, or a file (.npy, or .npz with the data as x1 and conditions by name);
    for a bundle also data in its own form, by default the held-out part of its training data.
    ``latents``: pairs (scale, shift) to try in addition to the data themselves, the data at unit variance, and the
    autoencoder beside a component; the network's data are scale (x1 - shift).
    ``paths``: affine paths to try in addition to Linear and VariancePreserving.
    ``among``: candidates in place of all of these.

    Every candidate turns the output into a velocity x1 - x0 on the straight path of the data.  All of them see the same
    states, so that the error of the true reading is the least possible.  The finding is undecided where the two best
    differ by less than 3 standard errors of their paired difference, or where the best is not better than the linear
    estimate of every coordinate from itself, as it is for random weights.
    """
    opened = unknown(network, data, cond)
    require(
        batch_size >= 1 and len(opened.batch.x1) >= FEWEST and n >= FEWEST,
        f"n={n} data in batches of {batch_size} were requested of {len(opened.batch.x1)}; the errors of readings are "
        f"compared on at least {FEWEST} data: give more",
    )
    where = place_for(device, opened.call)
    batch = chosen(opened.batch, n, Rng(seed))
    tried = list(among or candidates(scales(opened, batch.x1, latents), every(opened.paths, paths)))
    require(
        len(tried) >= 2,
        f"{len(tried)} candidates were given; a verdict needs two or more: give more, or leave among out",
    )
    t = torch.linspace(*TIMES, len(batch.x1), dtype=batch.x1.dtype)
    x0 = Rng(seed).fork("probe", "noise").normal(batch.x1)
    errors, linear = [], []
    with eval_mode(opened.call):
        call = opened.moved(where)
        for i in range(0, len(t), batch_size):
            rows = slice(i, i + batch_size)
            here = map_cond(lambda leaf, rows=rows: leaf[rows].to(where), batch.cond)
            x1, noise, now = batch.x1[rows].to(where), x0[rows].to(where), t[rows].to(where)
            errors.append(errors_of(call, tried, x1, noise, now, here).cpu())
            linear.append(linear_error(x1, noise, now, batch.x1).cpu())
    return finding(tried, torch.cat(errors, 1), torch.cat(linear))


def chosen(batch: Batch, n: int, rng: Rng) -> Batch:
    """``n`` rows at random, or all in random order, in float32 at least."""
    order = rng.fork("probe", "rows").uniform(len(batch.x1), torch.empty(0)).argsort()[:n]
    batch = take(batch, order.to(batch.x1.device))
    x1 = batch.x1.to(torch.promote_types(batch.x1.dtype, torch.float32))
    spread = float(x1.std())
    require(
        math.isfinite(spread) and spread > 0,
        f"the data have a standard deviation of {spread}; readings are told apart by how well they predict data that "
        "differ: give other data",
    )
    return Batch(x1, cond=batch.cond)


def scales(opened: Unknown, x1: Tensor, more: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Scales and shifts to try: given ones, as they are, at unit variance; near ones only once."""
    mean, std = float(x1.mean()), float(x1.std())
    found: list[tuple[float, float]] = []
    for scale, shift in [*more, *opened.latents, (1.0, 0.0), (1 / std, 0.0), (1 / std, mean)]:
        require(
            math.isfinite(scale) and math.isfinite(shift) and scale > 0,
            f"the latents ({scale}, {shift}) were given; a scale is above 0: give pairs such as (0.18215, 0)",
        )
        # a reading that moves the data by less than a tenth of their spread cannot be told from the first
        near = any(abs(scale / s - 1) < 0.1 and abs(shift - m) < 0.1 * std for s, m in found)
        if not near:
            found.append((scale, shift))
    return found


def every(*groups: Sequence[AffinePath]) -> list[AffinePath]:
    return list(dict.fromkeys([Linear(), VariancePreserving(), *itertools.chain(*groups)]))


def errors_of(call: Any, tried: Sequence[Convention], x1: Tensor, x0: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Mean squared errors [candidates, B] of the velocity; the network is called once for each of its inputs."""
    x, wanted = torch.lerp(x0, x1, expand_time(t, x1)), x1 - x0
    states: dict[Any, tuple[Tensor, Tensor]] = {}
    outputs: dict[Any, Tensor] = {}
    rows = []
    for c in tried:
        data = (c.path, c.latent_scale, c.latent_shift)
        if data not in states:
            states[data] = c.inputs(x, t)
        z, u = states[data]
        clock = (data, c.clock, c.time_scale)
        if clock not in outputs:
            outputs[clock] = answer(call, z, c.network_time(u, z), cond)
        rows.append((c.velocity(outputs[clock], z, u) - wanted).square().flatten(1).mean(1).double())
    return torch.stack(rows)


def answer(call: Any, z: Tensor, tau: Tensor, cond: Cond) -> Tensor:
    """The output of a network, without a learned variance; raises ValueError for another shape."""
    try:
        out = call(z, tau) if cond is None else call(z, tau, cond)
    except BeelineError:
        raise
    except Exception as error:  # of a network that is not known
        raise BeelineError(
            f"the network failed on a state of shape {list(z.shape)} and a time of shape {list(tau.shape)} "
            f"({type(error).__name__}: {str(error)[:300]}); give data in its layout, and the conditions that it needs"
        ) from error
    require(
        isinstance(out, Tensor) and out.shape[:1] == z.shape[:1],
        f"the network returned {list(out.shape) if isinstance(out, Tensor) else type(out).__name__} for a state of "
        f"shape {list(z.shape)}; a reading needs an output of the shape of the state: wrap it in a function",
    )
    if z.ndim > 2 and out.shape[1] == 2 * z.shape[1]:
        out = out[:, : z.shape[1]]  # the second half is a learned variance
    require(
        out.shape == z.shape,
        f"the network returned {list(out.shape)} for a state of shape {list(z.shape)}; a reading needs an output of "
        "the shape of the state: wrap it in a function",
    )
    return out.to(z)


def linear_error(x1: Tensor, x0: Tensor, t: Tensor, data: Tensor) -> Tensor:
    """Errors [B] of the velocity from the best linear estimate of every coordinate: m + g (x - t m)."""
    mean, variance = data.mean(0).to(x1), data.var(0).to(x1)
    time = expand_time(t, x1)
    x = torch.lerp(x0, x1, time)
    guess = mean + time * variance / (time**2 * variance + (1 - time) ** 2) * (x - time * mean)
    return ((guess - x) / (1 - time) - (x1 - x0)).square().flatten(1).mean(1).double()


def finding(tried: Sequence[Convention], errors: Tensor, linear: Tensor) -> Finding:
    """The candidates in the order of their errors [candidates, N], compared row by row with the best."""
    errors = torch.where(errors.isfinite(), errors, math.inf)
    means = errors.mean(1)
    order = means.argsort().tolist()
    require(
        math.isfinite(means[order[0]]),
        "the network returned NaN or infinite values under every reading; check its weights, and the range of the data",
    )
    best = errors[order[0]]
    leads = [0.0, *(standard_errors(errors[i] - best) for i in order[1:])]
    ranked = tuple(tried[i] for i in order)
    losses = tuple(means[order].tolist())
    return Finding(ranked, losses, tuple(leads), float(linear.mean()), standard_errors(linear - best), len(best))


def standard_errors(difference: Tensor) -> float:
    """The mean of paired differences [N] in its standard errors."""
    mean = float(difference.mean())
    if not math.isfinite(mean):
        return math.inf
    error = float(difference.std()) / math.sqrt(len(difference))
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def write_entry(found: Finding, path: Path) -> None:
    """Write the convention as Python; raises ValueError if it is undecided."""
    from beeline.core.files import write_text

    text = found.convention.entry()
    write_text(path, f'"""The convention of a network: velocity fields by CONVENTION.field(network)."""\n\n{text}')
