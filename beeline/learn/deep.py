"""Deep supervision: velocities inside the network, refined by accelerations."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from beeline.core.declared import Holding
from beeline.core.field import bind
from beeline.core.path import Linear
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, over, require
from beeline.learn.heads import Head, place, width_at
from beeline.learn.objective import Around, FlowMatching, squared
from beeline.learn.regularise import captured, joined


class Deep(Holding):
    """A network with a velocity and an acceleration read off inside, whose acceleration feeds the blocks after it.

    at each named module: h -> v_i = velocity_i(h), A_i = acceleration_i(h), and h goes on as h + refine_i(h)
    Assumes heads that turn the module's output into the shape of the data, and a refiner that starts at zero.  The
    paper's small time gap between branches is left out: it needs a backbone whose blocks have times of their own.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 2))
    >>> deep = Deep(nn.ModuleList([net]), [], [], [], [])
    >>> deep.names
    ()
    """

    parts = ("network", "velocities", "accelerations", "refiners")

    def __init__(
        self,
        network: nn.Module,
        names: Sequence[str],
        velocities: Sequence[nn.Module],
        accelerations: Sequence[nn.Module],
        refiners: Sequence[nn.Module],
    ):
        super().__init__()
        require(
            len(names) == len(velocities) == len(accelerations) == len(refiners),
            f"Deep got {len(names)} places, {len(velocities)} velocity heads, {len(accelerations)} acceleration heads "
            f"and {len(refiners)} refiners; every place needs one of each",
        )
        modules = dict(network.named_modules())
        for name in names:
            with captured(network, name):
                pass  # refuses an unknown place
            assert name in modules
        self.network, self.names = network, tuple(names)
        self.velocities, self.accelerations = nn.ModuleList(velocities), nn.ModuleList(accelerations)
        self.refiners = nn.ModuleList(refiners)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        heads = {"velocities": self.velocities, "accelerations": self.accelerations, "refiners": self.refiners}
        return {"network": self.network, "names": list(self.names)} | {name: list(part) for name, part in heads.items()}

    def branches(self, x: Tensor, t: Tensor, cond: Cond = None) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """(velocities inside, accelerations inside, the velocity)."""
        inside: list[Tensor] = []
        modules = dict(self.network.named_modules())
        with contextlib.ExitStack() as hooks:
            for name, refine in zip(self.names, self.refiners, strict=True):

                def look(_: Any, __: Any, h: Tensor, refine: nn.Module = refine) -> Tensor:
                    inside.append(h)
                    made: Tensor = h + refine(h)
                    return made

                hooks.callback(modules[name].register_forward_hook(look).remove)
            v = bind(self.network, cond)(x, t)
        early = [head(h) for head, h in zip(self.velocities, inside, strict=True)]
        bends = [head(h) for head, h in zip(self.accelerations, inside, strict=True)]
        return early, bends, v

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.branches(x, t, cond)[2]


@dataclass(frozen=True)
class DeepSupervision(Around):
    """Every velocity inside the network is regressed too, and each with its acceleration has to reach the datum.

    loss(v) + early sum_i loss(v_i) + bend sum_i |x_t + (1-t) sg v_i + (1-t)^2/2 A_i - x1|^2
    Assumes the straight path and a Deep network.  Where v_i is exact and the pair certain the best A_i is zero.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> DeepSupervision().early
    0.2
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    early: float = 0.2  # weight of the velocities inside
    bend: float = 1.0  # weight of the accelerations
    baselines: ClassVar[bool] = False  # they have no heads inside

    def __post_init__(self) -> None:
        require(
            isinstance(self.objective.path, Linear),
            f"DeepSupervision got an objective on {type(self.objective.path).__name__}; its accelerations reach the "
            "datum along the straight path only: use Linear()",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with heads and a refiner at its middle block."""
        name = place(network)
        width, shape = width_at(network, name, batch, 2, self), batch.x1.shape[1:]
        with rng.ambient():
            velocity, bend = Head(width, shape), Head(width, shape, still=True)
            refine = Head(width, (width,), width=width, still=True)
        return Deep(network, [name], [velocity], [bend], [refine])

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, Deep),
            f"DeepSupervision was given {type(field).__name__}; it learns heads inside a network: wrap it in Deep(...)",
        )
        example = self.inner.examples(batch, rng)
        early, bends, made = field.branches(example.x, example.t, example.batch.cond)
        loss = self.inner.compare(made, example)
        left = over(1 - example.t, made)
        for i, (v, a) in enumerate(zip(early, bends, strict=True)):
            inner = self.inner.compare(v, example)
            loss = joined(loss, inner.value, self.early, f"velocity {i}")
            reached = example.x + left * v.detach() + left**2 / 2 * a
            loss = joined(loss, squared(reached, example.batch.x1).mean(), self.bend, f"acceleration {i}")
        return loss
