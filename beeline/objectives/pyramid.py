"""Flow matching over a pyramid of resolutions."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, take
from beeline.couplings.basic import Independent
from beeline.fields.flow import evaluate_field
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase
from beeline.paths.affine import Linear
from beeline.spaces.pyramid import Pyramid
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class PyramidMatching(ObjectiveBase):
    """Flow matching over the stages of a pyramid of resolutions.

    a stage k for the whole batch, u ~ times:  E |v(x, clock_k(u)) - (end_k - start_k)|^2
    Assumes images [B,C,H,W] and one network for all resolutions, such as UNet.
    Source: Jin et al. 2024 (arXiv 2410.05954).

    >>> PyramidMatching()(lambda x, t: x, Batch(torch.zeros(2, 1, 8, 8)), Rng(0)).per_sample.shape
    torch.Size([2])
    """

    pyramid: Pyramid = field(default_factory=Pyramid)
    times: TimeSampler = field(default_factory=Uniform)  # within a stage
    distance: Distance = squared
    drop: Drop | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        path: Any = self.pyramid  # its states change size, so it is a path for sampling alone
        return replace(super().spec, path=path, coupling=Independent(), drop=self.drop, wrap=self.wrap)

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network, after a check that it takes images of the first stage."""
        few = take(batch, torch.arange(1))
        self.pyramid.check(few.x1)
        try:
            with eval_mode(network):
                evaluate_field(network, self.pyramid.coarse(few.x1, 0), torch.zeros(1), few.cond)
        except ValueError as error:
            raise BeelineError(
                f"PyramidMatching got {type(network.backbone).__name__}, which does not take images of the first stage "
                f"({error}); one network serves all resolutions: use networks.UNet with few levels, or fewer stages"
            ) from None
        return network  # type: ignore[no-any-return]

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        plain = FlowMatching(Linear(), Independent(), distance=self.distance, drop=self.drop)
        batch = plain.pairs(batch, rng, field)
        assert batch.x0 is not None
        stage = int(rng.fork("stage").integers(self.pyramid.stages, 1))
        u = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        x, v = self.pyramid.point(batch.x0, batch.x1, stage, u)
        t = self.pyramid.clock(stage, u)
        return plain.reduce(evaluate_field(field, x, t, batch.cond), v, t, batch)
