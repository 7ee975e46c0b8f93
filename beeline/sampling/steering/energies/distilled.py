"""Score distillation: a flow as an energy for anything that renders data."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Reference
from beeline.core.ranges import Count, Inside, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, expand_time, map_cond
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.guidance.guide import Extrapolate, Guide, Unconditional, guidance_for_flow


@dataclass(frozen=True)
class ScoreDistillation:
    """The score-distillation gradient of a flow as an energy: low where the flow has data with the condition.

    gradient in x1 = mean over (t, e) of d,  E = |gradient|^2 / 2,  at x_t = a x1 + b e
    plain:       d = a (E_guided(x_t) - e),  E the expected noise, guided with ``scale``
    noise_free:  d = a (scale (E(c) - E(null)) + domain),  domain = E(null) for t >= clean, E(null) - E(negative) before
    Without the noise e a usual guidance scale is enough.  The energy is differentiable once: its gradient is that of
    the definition, and no derivative of the network is taken.
    Assumes an affine path from Gaussian noise, and conditions with a null.  The noises are those of ``rng``: replace it
    in every step of an optimisation.
    Source: Katzir et al. 2023, "Noise-Free Score Distillation" (arXiv 2310.17590); Poole et al. 2022, DreamFusion
    (arXiv 2209.14988).

    >>> flow = Flow(lambda x, t, cond: -x, null={"label": 1})
    >>> ScoreDistillation(flow)(torch.ones(4, 2), torch.ones(4), {"label": torch.zeros(4, dtype=torch.long)}).shape
    torch.Size([4])
    """

    flow: Flow
    scale: NonNegative = 7.5  # of the guidance; plain gradients need about 100
    noise_free: bool = True
    negative: Reference | None = None  # of poor data, such as OtherCondition; None leaves the term out
    clean: Inside = 0.8  # the time from which the expected noise itself shows what is no datum
    samples: Count = 4  # pairs of time and noise
    rng: Rng = Rng(0)
    times: tuple[float, float] = (0.02, 0.98)
    null: Reference = field(default_factory=Unconditional)

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        gradient = self.gradient(x1.detach(), cond)
        shift = (x1 - (x1.detach() - gradient)).flatten(1)
        return shift.square().sum(1) / 2

    def gradient(self, x1: Tensor, cond: Cond = None) -> Tensor:
        """The gradient [B,*S] at data [B,*S], without a graph."""
        n, path = self.samples, self.flow.require_score()
        many = x1.repeat(n, *[1] * (x1.ndim - 1))
        low, high = self.times
        part = torch.arange(n, device=x1.device, dtype=x1.dtype)[:, None]
        u = (part + self.rng.fork("times").fill(x1.new_empty(n, len(x1)))) / n
        t = (low + (high - low) * u).flatten()
        noise = self.rng.fork("noise").normal(many)
        a, b = (expand_time(c, many) for c in path.coefficients(t)[:2])
        x = a * many + b * noise
        given = map_cond(lambda leaf: leaf.repeat(n, *[1] * (leaf.ndim - 1)), cond)
        with eval_mode(self.flow.field, self.null, self.negative):
            strong, weak = self._noises(self.null, path, x, t, given)
            if not self.noise_free:
                d = weak + self.scale * (strong - weak) - noise
            else:
                late = expand_time(t >= self.clean, x)
                early = torch.zeros_like(weak)
                if self.negative is not None:
                    early = weak - self._noises(self.negative, path, x, t, given)[1]
                d = self.scale * (strong - weak) + torch.where(late, weak, early)
        found: Tensor = (a * d).reshape(n, *x1.shape).mean(0)
        return found

    def _noises(
        self, reference: Reference, path: AffinePath, x: Tensor, t: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        """The expected noise under the condition and under a reference."""
        guide = guidance_for_flow(Guide(reference, Extrapolate(0.0)), self.flow)
        assert isinstance(guide, Guide)
        strong, weak = guide.predictions(self.flow.field, cond)[1](x, t)
        return path.noise(x, strong, t), path.noise(x, weak, t)
