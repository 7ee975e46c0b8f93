"""Regression without times: heads on features, inverse dynamics, autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from beeline.core.errors import require
from beeline.core.modes import wide_batch
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Data, evaluate_field
from beeline.objectives.losses.basic import Context, Distance, distance_at, squared
from beeline.objectives.matching import ObjectiveBase
from beeline.paths.affine import Linear


@dataclass(frozen=True)
class Regression(ObjectiveBase):
    """Regression of a target on an input, for networks that are no fields.

    E distance(f(input), x1),  input = cond[name]
    Assumes a network of one argument, the condition ``name`` [B,...], and targets x1 of the shape of its output.

    >>> batch = Batch(torch.ones(4, 2), cond={"input": torch.zeros(4, 3)})
    >>> Regression()(lambda h: h[:, :2], batch, Rng(0)).value
    tensor(1.)
    """

    name: str = "input"  # the condition that holds the input
    distance: Distance = squared

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False, static_graph=True)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        given = batch.cond if isinstance(batch.cond, Mapping) else {}
        require(
            self.name in given,
            f"Regression got data with the conditions {sorted(given)}; its input is the condition {self.name!r}: give "
            f"Batch(target, cond={{{self.name!r}: input}})",
        )
        made = field(given[self.name])
        require(
            made.shape == batch.x1.shape,
            f"the network returned shape {tuple(made.shape)} for targets of shape {tuple(batch.x1.shape)}; a "
            "prediction has the shape of its target: check the network's output",
        )
        each = self.distance(made, batch.x1)
        per_sample = each if batch.weight is None else each * batch.weight
        value = per_sample.mean()
        terms = {"loss": value.detach(), "error": each.detach().mean()}
        return Loss(value, terms, per_sample.detach(), torch.zeros_like(each.detach()))


@dataclass(frozen=True)
class Reconstruction(ObjectiveBase):
    """Reconstruction of data by an autoencoder.

    E distance(x_hat, x1),  x_hat = x1 + v(x1, 0) the data that the field predicts from x1 itself
    Around it, Noted({"kl": 1e-6}) adds the divergence of a variational autoencoder; a distance such as
    Combined((squared, Perceptual(...)), (one, one)) adds a perceptual term.
    Assumes the network Autoencoder, or another one that predicts data.  Its flow is no generative model: it is for
    latents, on which a flow is trained.
    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752).

    >>> Reconstruction()(lambda x, t, cond=None: -x / 2, Batch(torch.ones(4, 2)), Rng(0)).value
    tensor(0.2500)
    """

    distance: Distance = squared
    noise: bool = True  # give noise as the condition "noise", for the latents of a variational autoencoder

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, prediction=Data(), baselines=False, static_graph=True)

    def heldout(self, times: TimeSampler) -> Any:
        """The same without noise."""
        return replace(self, noise=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(len(batch.x1) > 0, "the batch is empty; a loss is a mean over data: give at least one datum")
        batch = wide_batch(batch)
        t = torch.zeros(len(batch.x1), device=batch.x1.device)
        cond = {"noise": rng.fork("noise").normal(batch.x1)} if self.noise else None
        made = batch.x1 + evaluate_field(field, batch.x1, t, cond)
        each = distance_at(self.distance, Context(batch.x1, t, Linear(), Data()))(made, batch.x1)
        per_sample = each if batch.weight is None else each * batch.weight
        value = per_sample.mean()
        return Loss(value, {"loss": value.detach(), "error": each.detach().mean()}, per_sample.detach(), t)
