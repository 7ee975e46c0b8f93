"""One network for several views of a scene, of which any may be given."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Traits
from beeline.core.errors import require
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.fields.flow import evaluate_field
from beeline.objectives.heads import Beside
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.times.composed import Frames
from beeline.times.samplers import Uniform


class ViewField(Beside):
    """A velocity field of several views [B,V,*S], each with its own time, by one network.

    v = network(the views beside each other along their first axis, the mean time, {..., times: t [B,V]})
    A view at time 1 is given, one at time 0 is noise.  Train it with ``Frames(count=V, clean=0.3)`` and sample with
    ``GivenFrames``.
    Assumes a network for data whose first dimension is V times as long, with the condition {"times": {"size": V}}.
    Source: Le et al. 2024, "One Diffusion to Generate Them All" (arXiv 2411.16318), whose views are tokens of one
    sequence.

    >>> ViewField(lambda x, t, cond: x, "times")(torch.ones(1, 2, 3), torch.zeros(1)).shape
    torch.Size([1, 2, 3])
    """

    @property
    def traits(self) -> Traits:
        return Traits()

    def forward(self, y: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        require(
            y.ndim > 2,
            f"views of shape {tuple(y.shape[1:])} were given; they are [V,C,...]: stack them along the second axis",
        )
        times = t if t.ndim == 2 else t[:, None].expand(y.shape[:2])
        given: dict[str, Any] = dict(cond) if isinstance(cond, dict) else {} if cond is None else {"cond": cond}
        flat = y.flatten(1, 2)
        output: Tensor = self.network(flat, times.mean(1), {**given, self.name: times.to(y)})
        return output.view_as(y)


@dataclass(frozen=True)
class Recomposed(ObjectiveWrapper):
    """Flow matching of a picture and its layers, with the error of the picture that the predicted layers make.

    loss + strength E t^2 |a f + (1 - a) b - picture|^2,  a, f, b the predictions of opacity, foreground, background
    Views are (picture, background, foreground, opacity), the opacity from -1 (none) to 1.  A product of means is not
    the mean of the product, so that the second term has its minimum elsewhere where layers are uncertain: it counts
    with t^2.
    Assumes views [B,4,*S] and times for every view, as in ViewField.
    Source: Yang et al. 2024, "Generative Image Layer Decomposition with Visual Effects" (arXiv 2411.17864), there for
    pairs whose layers are not known.

    >>> Recomposed().strength
    0.1
    """

    strength: NonNegative = 0.1
    objective: FlowMatching = field(default_factory=lambda: FlowMatching(times=Frames(Uniform(), 4, 0.3)))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            batch.x1.ndim > 2 and batch.x1.shape[1] == 4,
            f"Recomposed got data of shape {tuple(batch.x1.shape[1:])}; give (picture, background, foreground, "
            "opacity) as views [4,C,...]",
        )
        example = self.inner.examples(batch, rng, field)
        v = evaluate_field(field, example.x, example.t, example.batch.cond)
        loss = self.inner.compare(v, example)
        times = expand_time(example.t, example.x)
        layers = example.x + (1 - times) * v
        gap = recomposed(layers) - example.batch.x1[:, 0]
        error = (example.t[:, 1:].mean(1).square() * gap.square().flatten(1).mean(1)).mean()
        return loss._replace(
            value=loss.value + self.strength * error, terms={**loss.terms, "recomposition": error.detach()}
        )


def recomposed(views: Tensor) -> Tensor:
    """The picture [B,*S] that the layers of views (picture, background, foreground, opacity) [B,4,*S] make."""
    _, background, front, opacity = views.unbind(1)
    return torch.lerp(background, front, (opacity + 1) / 2)
