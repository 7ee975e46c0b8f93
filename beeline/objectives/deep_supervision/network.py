"""Networks with velocities and accelerations inside, and early exits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Holding, Wrapping, modulation_of, stacks_of
from beeline.core.errors import require
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Network, bind
from beeline.networks.hooks import captured_outputs
from beeline.objectives.deep_supervision.heads import Refiner, TimedHead


class Deep(Holding):
    """A network with velocity and acceleration heads inside, whose refined features feed the blocks after them.

    at each named module: h -> v_i = velocity_i(h);  (h, a) = refine_i(h, x_t, gap_i);  A_i = acceleration_i(a);
    the blocks after it are modulated by the time t + gap_1 + ... + gap_i, where blocks are modulated (MLP, DiT)
    Assumes heads from the module's output to the shape of the data, and a Refiner.  A TimedHead takes the time of its
    branch too; one velocity head serves all branches.  Other refiners take h alone: the next block takes
    h + refine_i(h), and A_i = acceleration_i(h).  Without gaps, as in sampling, all times are t.
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
            len(names) == len(accelerations) == len(refiners) and len(velocities) in (len(names), 1),
            f"Deep got {len(names)} names, {len(velocities)} velocity heads, {len(accelerations)} acceleration heads "
            f"and {len(refiners)} refiners; every named module has one of each, except that one "
            "velocity head may serve all: give equal numbers",
        )
        modules = dict(network.named_modules())
        for name in names:
            with captured_outputs(network, name):
                pass  # refuses an unknown name
            assert name in modules
        self.network, self.names = network, tuple(names)
        self.velocities, self.accelerations = nn.ModuleList(velocities), nn.ModuleList(accelerations)
        self.refiners = nn.ModuleList(refiners)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        heads = {"velocities": self.velocities, "accelerations": self.accelerations, "refiners": self.refiners}
        return {"network": self.network, "names": list(self.names)} | {name: list(part) for name, part in heads.items()}

    def branches(
        self, x: Tensor, t: Tensor, cond: Cond = None, gaps: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """(intermediate velocities, intermediate accelerations, velocity); ``gaps`` [B] are times between branches."""
        steps = [torch.zeros_like(t) for _ in self.names] if gaps is None else list(gaps)
        inside: list[Tensor] = []
        accelerated: list[Tensor] = []
        modulation: list[Sequence[tuple[Tensor, ...]]] = []  # of the blocks of the newest branch
        modules, backbone = dict(self.network.named_modules()), self.network
        while isinstance(backbone, Wrapping):
            backbone = backbone.wrapped
        blocks = [block for stack in stacks_of(self.network).values() for block in stack]
        with contextlib.ExitStack() as hooks:
            for i, name in enumerate(self.names):

                def refined(_: Any, __: Any, h: Tensor, i: int = i) -> Tensor:
                    inside.append(h)
                    features, a = self.refined(i, h, x, steps[i])
                    accelerated.append(a)
                    if gaps is not None and isinstance(backbone, Declaring):
                        later = backbone.modulation(t + torch.stack(steps[: i + 1]).sum(0), cond)
                        modulation[:] = [] if later is None else [later]
                    return features

                hooks.callback(modules[name].register_forward_hook(refined).remove)
            for k, block in enumerate(blocks if gaps is not None else []):

                def modulated(_: Any, given: tuple[Any, ...], k: int = k) -> tuple[Any, ...]:
                    told = modulation[0][k] if modulation else ()
                    return (given[0], *told, *given[1 + len(told) :])

                hooks.callback(block.register_forward_pre_hook(modulated).remove)
            v = bind(self.network, cond)(x, t)
        at = [t + sum(steps[:i], torch.zeros_like(t)) for i in range(len(inside))]
        early = [self.velocity(i, h, at[i]) for i, h in enumerate(inside)]
        bends = [head(a) for head, a in zip(self.accelerations, accelerated, strict=True)]
        return early, bends, v

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.branches(x, t, cond)[2]

    def velocity(self, place: int, h: Tensor, t: Tensor) -> Tensor:
        """The velocity [B,*S] of branch number ``place``, from its features and its time [B]."""
        head = self.velocities[min(place, len(self.velocities) - 1)]
        v: Tensor = head(h, t) if isinstance(head, TimedHead) else head(h)
        return v

    def refined(self, place: int, h: Tensor, x: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """(features of the next block, features of the acceleration) of branch number ``place``."""
        refine = self.refiners[place]
        return refine(h, x, gap) if isinstance(refine, Refiner) else (h + refine(h), h)

    def early(self, place: int, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The intermediate velocity of module number ``place``, without the blocks after it."""
        with contextlib.ExitStack() as hooks:
            modules = dict(self.network.named_modules())
            for i, name in enumerate(self.names[: place + 1]):

                def refined(_: Any, __: Any, h: Tensor, i: int = i) -> Tensor:
                    if i == place:
                        raise Exited(h)
                    return self.refined(i, h, x, torch.zeros_like(t))[0]

                hooks.callback(modules[name].register_forward_hook(refined).remove)
            try:
                v = bind(self.network, cond)(x, t)
            except Exited as found:
                v = self.velocity(place, found.features, t)
        return v


class Exited(Exception):  # noqa: N818 - not an error: it skips the rest of a network
    """Ends a forward pass early, with the features of that place."""

    def __init__(self, features: Tensor):
        super().__init__("early exit")
        self.features = features


class EarlyExit(Wrapping):
    """Early exit: an intermediate velocity of a Deep network, without the blocks after it.

    v = v_i(x, t, cond)
    Assumes a Deep network trained with DeepSupervision.  The exit is the same for all samples and times, so the field
    is one function.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494), intermediate velocities.

    >>> deep = Deep(nn.Sequential(nn.Linear(2, 2)), ["0"], [nn.Linear(2, 2)], [nn.Identity()], [nn.Identity()])
    >>> EarlyExit(deep).place
    0
    """

    def __init__(self, field: Deep, place: int = 0):
        super().__init__()
        require(
            isinstance(field, Deep) and 0 <= place < len(field.names),
            f"EarlyExit got {type(field).__name__} and place={place}; the exits are the named modules of a Deep "
            "network: give a Deep network, and 0 for its first one",
        )
        self.field, self.place = field, place

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "place": self.place}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.field.early(self.place, x, t, cond)


class TimedExit(Wrapping):
    """Early exit by a plan: one of the intermediate velocities at every time.

    v = v_i(x, t, cond) for the last entry (time, i) of the plan with time <= t;  that of the whole network for i = -1
    Samples with different exits are evaluated apart, so that a sample does not depend on its batch.  The velocity jumps
    where the exit changes: let steps end there.
    Assumes a Deep network trained with DeepSupervision.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494), intermediate velocities.

    >>> deep = Deep(nn.Sequential(nn.Linear(2, 2)), ["0"], [nn.Linear(2, 2)], [nn.Identity()], [nn.Identity()])
    >>> TimedExit(deep, [(0.0, 0), (0.5, -1)]).plan
    ((0.0, 0), (0.5, -1))
    """

    def __init__(self, field: Deep, plan: Sequence[tuple[float, int]]):
        super().__init__()
        places = len(field.names) if isinstance(field, Deep) else 0
        self.plan = tuple(sorted((float(time), int(place)) for time, place in plan))
        require(
            bool(self.plan) and self.plan[0][0] == 0 and all(-1 <= place < places for _, place in self.plan),
            f"TimedExit got {type(field).__name__} with {places} exits and plan={tuple(plan)}; every entry is a time, "
            "the first one 0, and the number of an exit, or -1 for the whole network: give ((0.0, 0), (0.5, -1))",
        )
        self.field = field

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "plan": [list(entry) for entry in self.plan]}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        times = t.new_tensor([time for time, _ in self.plan])
        which = torch.searchsorted(times, t.detach().contiguous(), right=True) - 1
        v = torch.empty_like(x)
        for k in which.unique().tolist():
            rows, place = (which == k).nonzero()[:, 0], self.plan[k][1]
            some = map_cond(lambda leaf, rows=rows: leaf[rows] if leaf.ndim else leaf, cond)
            found = self.field(x[rows], t[rows], some) if place < 0 else self.field.early(place, x[rows], t[rows], some)
            v = v.index_copy(0, rows, found)
        return v


class SampleExit(Wrapping):
    """Early exit of each sample where two successive velocities agree.

    v = v_i(x, t, cond) for the first i with |v_i - v_{i-1}| < tolerance |v_i|, else that of the whole network
    Assumes a Deep network around an MLP or a DiT with two or more named blocks, trained with DeepSupervision.  Samples
    that have stopped leave the batch, so a sample does not depend on its batch.  The velocity jumps where the exit
    changes: use solvers of one step, not adaptive or multistep ones.  With tolerance 0 it is the whole network.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494); the rule of agreement: Zhou et al. 2020 (arXiv 2006.04152).

    >>> SampleExit(Deep(Network(nn.Identity()), [], [], [], []), 0.1).tolerance
    0.1
    """

    def __init__(self, field: Deep, tolerance: float = 0.05):
        super().__init__()
        require(
            isinstance(field, Deep) and isinstance(field.network, Network),
            f"SampleExit got {type(field).__name__}; it stops between the blocks of a Deep network around a Network: "
            "give the network of a run with DeepSupervision",
        )
        require(
            tolerance >= 0, f"SampleExit got tolerance={tolerance}; give a relative difference from 0, such as 0.05"
        )
        self.field, self.tolerance = field, tolerance

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "tolerance": self.tolerance}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        deep: Deep = self.field
        network: Any = deep.network
        weight, backbone = next(network.parameters(), x), network.backbone
        stages = backbone.stages(x.to(weight.dtype), t, cond) if isinstance(backbone, Declaring) else None
        require(
            stages is not None,
            f"SampleExit got the backbone {type(backbone).__name__}, whose forward pass is not divided; use "
            "networks.MLP or networks.DiT, or EarlyExit",
        )
        assert stages is not None
        blocks = [block for stack in stacks_of(network).values() for block in stack]
        modules = dict(network.named_modules())
        places = {next(k for k, b in enumerate(blocks) if b is modules[name]): i for i, name in enumerate(deep.names)}
        v, rows, h, last = torch.empty_like(x), torch.arange(len(x), device=x.device), stages.h, None
        for k, block in enumerate(blocks):
            h = block(h, *modulation_of(stages.told[k], rows))
            if k not in places:
                continue
            found = deep.velocity(places[k], h, t[rows]).to(x.dtype)
            if last is not None:
                change, size = ((part.flatten(1).norm(dim=1)) for part in (found - last, found))
                on = ~(change < self.tolerance * size)
                v[rows[~on]] = found[~on]
                rows, h, found = rows[on], h[on], found[on]
                if not len(rows):
                    return v
            h, last = deep.refined(places[k], h, x[rows], torch.zeros_like(t[rows]))[0], found
        output = stages.out(h, *modulation_of(stages.told[-1], rows)).to(x.dtype)
        v[rows] = network.prediction.velocity(output, x[rows], t[rows], network.path)
        return v
