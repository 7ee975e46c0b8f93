"""Edits that sample anew under the new condition and are held at the data by a measurement or an energy."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.declared import as_map, is_map
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.editing import Inversion
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, Early, Inside, Positive, Range, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Flow
from beeline.sampling.anchored import Anchored
from beeline.sampling.editing.dynamics import noise, noise_at, noising_path
from beeline.sampling.editing.inversions import Noised
from beeline.sampling.editing.keeping import Kept
from beeline.sampling.editing.resampled import resumed
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.energies.squared import Near
from beeline.solvers.consistency import ConsistencyStep
from beeline.solvers.diffusions import White
from beeline.solvers.integrate import integrate


@dataclass(frozen=True)
class PostEdit:
    """Samples under the new condition; every predicted datum is combined with a part of the old data.

    D = E[x1 | x_t, new_cond];  D' = (D / r^2 + A x / m^2) / (1 / r^2 + A / m^2),  r = prior (1 - t),  m = ``noise``
    x_s = a(s) D' + b(s) z with new noise z, from noised data at ``start``;  A is 1 at a random share ``keep`` of the
    numbers, the same in all steps.  D' is the mean of the product of both Gaussians; ``random`` draws from it, which
    Langevin steps approximate.  With keep 1, less noise gives the data back; with keep 0, or endless noise, it is
    SDEdit with new noise in every step.  The old condition is not used.
    Also for flow maps and few steps.  Assumes an affine path and a Gaussian source.
    Source: Tian et al. 2024, "PostEdit: Posterior Sampling for Efficient Zero-Shot Image Editing"
    (arXiv 2410.04844), with the product in place of Langevin steps; the measurement and r are ours.

    >>> PostEdit().keep
    0.5
    """

    start: Inside = 0.3  # time up to which the data are noised
    keep: Share = 0.5  # of the numbers of a datum that are measured
    noise: Annotated[float, Range(above=0, inf=True)] = 0.2  # of the measurement, in units of encoded data
    prior: Positive = 1.0  # deviation of the predicted datum at t = 0
    random: bool = False  # draw from the product in place of its mean

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        path, times = noising_path(flow, "PostEdit"), sampler.times(self.start, 1.0)
        state = Noised()(flow, x, cond, sampler, rng, self.start).x
        limit = math.inf if self.keep == 1 else float(torch.special.ndtri(torch.tensor(self.keep, dtype=torch.float64)))
        measured = (noise(rng, x, "measured") < limit).to(x)
        parts, seeds = (flow, sampler.guidance, sampler.controllers), tuple(range(len(x)))
        solver = ConsistencyStep(White(rng.fork("steps"), seeds), path)
        if flow.trained is not None:
            flow.trained.check(times, sampler.steps, False)
        check_together("the data", x, *parts)
        with eval_mode(*parts), deferred():
            f = sampler.drift(flow, state, new_cond, times)

            def jump(y: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
                left = expand_time(1 - t, y)
                if is_map(flow.field):
                    data = y + left * f(y, t, s=torch.ones_like(t))
                else:
                    data = path.data(y, f(y, t), t)
                mean, deviation = product(data, x.to(data), measured.to(data), self.prior * left, self.noise)
                if self.random:
                    mean = mean + deviation * noise_at(rng, t, mean, "product")
                return (mean - y) / left

            return integrate(as_map(jump), state, times, solver)


def product(data: Tensor, x: Tensor, measured: Tensor, prior: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the product of N(data, prior^2) and, where ``measured`` is 1, N(x, deviation^2)."""
    gain = measured * prior**2 / (prior**2 + deviation**2)  # 0 for an endless deviation
    return data + gain * (x - data), prior * (1 - gain).sqrt()


@dataclass(frozen=True)
class Personalised:
    """Samples under the new condition a datum like the given one, by anchored guidance.

    The sampler ``Anchored`` with the energy weight (1 - cos(f(x1), f(x))) for features f, or weight |x1 - x|^2 / 2
    without them, from fresh noise or from an inversion.  ``strength`` anchors it to the sample without guidance.
    Inside a region the sample is put into the data at the end.  The old condition is used by inversions alone.
    Assumes an affine path, and a flow with straight trajectories that can be differentiated; all steps are in memory.
    Source: Sun et al. 2024, "RectifID: Personalizing Rectified Flow with Anchored Classifier Guidance"
    (arXiv 2405.14677).

    >>> Personalised().iterations
    20
    """

    features: Any = None  # an encoder with ``pooled``, such as DINOv2, whose features stay; None compares the data
    weight: Positive = 1.0  # of the energy; 10 is usual for features
    strength: Annotated[float, Range(above=0, inf=True)] = math.inf  # variance around the sample; inf has no anchor
    rate: Positive = 0.5  # step size; below 2 / (weight + 1 / strength) without features
    iterations: Count = 20
    inversion: Inversion = field(default_factory=Noised)
    start: Early = 0.0  # time of the state that is sampled from; later ones keep more

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        state = self.inversion(flow, x, cond, sampler, rng, self.start)
        how = Anchored(
            sampler.steps,
            sampler.schedule,
            sampler.solver,
            sampler.guidance,
            tuple(c for c in sampler.controllers if not isinstance(c, Kept)),
            energy=self._energy(x),
            strength=self.strength,
            rate=self.rate,
            iterations=self.iterations,
        )
        return resumed(how, flow, state, new_cond)

    def _energy(self, x: Tensor) -> Energy:
        if self.features is None:
            return Near(x, self.weight**-0.5)
        with torch.no_grad():
            wanted = self.features.pooled(x)

        def energy(x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            alike = torch.nn.functional.cosine_similarity(self.features.pooled(x1), wanted)
            return self.weight * (1 - alike).to(x1)

        return energy
