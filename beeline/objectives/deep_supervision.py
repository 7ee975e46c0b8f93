"""Deep supervision: velocities inside the network, refined by accelerations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Declaring, Holding, Wrapping, stacks_of
from beeline.core.errors import require
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.fields.flow import bind
from beeline.networks.hooks import block_features, block_name, block_width, captured_outputs
from beeline.networks.patches import from_patches, to_patches
from beeline.objectives.alignment import joined
from beeline.objectives.heads import Head, settings_of
from beeline.objectives.losses.basic import squared
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.paths.affine import Linear


class Refiner(nn.Module):
    """The block between two branches of DeepFlow: acceleration features, the time gap, and the input tokens (VeRA).

    a = MLP4(h);  m = MLP(norm([h, a]) (1 + scale(gap)) + shift(gap));  c = q + attention(norm(q), norm(m)),
    q = W tokens(x_t);  h goes on as h + V c, with V zero at first, and the acceleration is read off a
    Assumes vectors [B,size], or tokens [B,N,size] of the patches of a picture.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494); the paper's branch goes on from c alone, which no trained
    network could be wrapped in.

    >>> Refiner(4, (2,))(torch.ones(1, 4), torch.ones(1, 2), torch.zeros(1))[0].detach()
    tensor([[1., 1., 1., 1.]])
    """

    def __init__(
        self,
        size: int,  # features, per sample or token
        shape: Sequence[int],  # of a datum
        patch: int = 0,  # side of a patch in pixels; 0 for vectors
        width: int = 0,  # inside; 0 is the number of features
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "patch": patch, "width": width}
        wide, self.patch = width or size, patch
        count = shape[0] * patch * patch if patch else math.prod(shape)
        sizes = (size, wide, 2 * wide, wide, size)
        layers = [part for pair in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(*pair), nn.SiLU())]
        self.accelerate = nn.Sequential(*layers[:-1])
        self.gap = nn.Sequential(nn.Linear(2, wide), nn.SiLU(), still(nn.Linear(wide, 4 * size)))
        self.mix = nn.Sequential(nn.Linear(2 * size, wide), nn.SiLU(), nn.Linear(wide, size))
        self.query, self.keys, self.values = nn.Linear(count, size), nn.Linear(size, size), nn.Linear(size, size)
        self.ask, self.out = nn.Linear(size, size), still(nn.Linear(size, size))

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor, x: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """(the features that go on, those of the acceleration), from features, state [B,*S] and time gap [B]."""
        tokens = h if h.ndim == 3 else h[:, None]
        a = self.accelerate(tokens)
        told = self.gap(torch.stack([100 * gap, (100 * gap).square()], 1).to(h.dtype))[:, None]
        scale, shift = told.chunk(2, -1)
        both = torch.cat([tokens, a], -1)
        m = self.mix(F.layer_norm(both, both.shape[-1:]) * (1 + scale) + shift)
        q = self.query((to_patches(x, self.patch) if self.patch else x.flatten(1)[:, None]).to(h.dtype))
        asked, told = F.layer_norm(q, q.shape[-1:]), F.layer_norm(m, m.shape[-1:])
        c = q + attend(self.ask(asked), self.keys(told), self.values(told))
        return h + self.out(c).reshape(h.shape), a.reshape(h.shape)


class PatchHead(nn.Module):
    """A linear layer from the tokens of a picture to the picture.

    output = unpatch(W norm(tokens))
    Assumes tokens [B,N,size], one for every patch.
    Source: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> PatchHead(4, (1, 4, 4), 2)(torch.zeros(3, 4, 4)).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(self, size: int, shape: Sequence[int], patch: int, zero: bool = False):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "patch": patch, "zero": zero}
        layer = nn.Linear(size, shape[0] * patch * patch)
        self.layer = still(layer) if zero else layer

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor) -> Tensor:
        return from_patches(self.layer(F.layer_norm(h, h.shape[-1:])), self.settings["shape"], self.settings["patch"])


class Deep(Holding):
    """A network with a velocity and an acceleration read off inside, whose refined features feed the blocks after it.

    at each named module: h -> v_i = velocity_i(h);  (h, a) = refine_i(h, x_t, gap_i);  A_i = acceleration_i(a);
    the blocks after it are told the time t + gap_1 + ... + gap_i, where the network's blocks are told times (MLP, DiT)
    Assumes heads that turn the module's output into the shape of the data, and a Refiner; another refiner sees h alone:
    h goes on as h + refine_i(h), and A_i = acceleration_i(h).  Without gaps, as when drawing, all times are t.
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
            with captured_outputs(network, name):
                pass  # refuses an unknown place
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
        """(velocities inside, accelerations inside, the velocity); ``gaps`` [B]: the steps of time between branches."""
        steps = [torch.zeros_like(t) for _ in self.names] if gaps is None else list(gaps)
        inside: list[Tensor] = []
        bent: list[Tensor] = []
        told: list[Sequence[tuple[Tensor, ...]]] = []  # what the blocks of the newest branch are told
        modules, backbone = dict(self.network.named_modules()), self.network
        while isinstance(backbone, Wrapping):
            backbone = backbone.wrapped
        blocks = [block for stack in stacks_of(self.network).values() for block in stack]
        with contextlib.ExitStack() as hooks:
            for i, (name, refine) in enumerate(zip(self.names, self.refiners, strict=True)):

                def look(_: Any, __: Any, h: Tensor, i: int = i, refine: nn.Module = refine) -> Tensor:
                    inside.append(h)
                    made, a = refine(h, x, steps[i]) if isinstance(refine, Refiner) else (h + refine(h), h)
                    bent.append(a)
                    if gaps is not None and isinstance(backbone, Declaring):
                        later = backbone.modulation(t + torch.stack(steps[: i + 1]).sum(0), cond)
                        told[:] = [] if later is None else [later]
                    return made  # type: ignore[no-any-return]

                hooks.callback(modules[name].register_forward_hook(look).remove)
            for k, block in enumerate(blocks if gaps is not None else []):

                def retold(_: Any, given: tuple[Any, ...], k: int = k) -> tuple[Any, ...]:
                    return (given[0], *told[0][k]) if told else given

                hooks.callback(block.register_forward_pre_hook(retold).remove)
            v = bind(self.network, cond)(x, t)
        early = [head(h) for head, h in zip(self.velocities, inside, strict=True)]
        bends = [head(a) for head, a in zip(self.accelerations, bent, strict=True)]
        return early, bends, v

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.branches(x, t, cond)[2]

    def early(self, place: int, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The velocity inside at a place, without the blocks after it."""
        with contextlib.ExitStack() as hooks:
            modules = dict(self.network.named_modules())
            for i, (name, refine) in enumerate(zip(self.names[: place + 1], self.refiners, strict=False)):

                def look(_: Any, __: Any, h: Tensor, i: int = i, refine: nn.Module = refine) -> Tensor:
                    if i == place:
                        raise Exited(h)
                    made = refine(h, x, torch.zeros_like(t))[0] if isinstance(refine, Refiner) else h + refine(h)
                    return made  # type: ignore[no-any-return]

                hooks.callback(modules[name].register_forward_hook(look).remove)
            try:
                v = bind(self.network, cond)(x, t)
            except Exited as found:
                v = self.velocities[place](found.features)
        return v


class Exited(Exception):  # noqa: N818 - no error: the rest of a network is not run
    """The features at which a network was left."""

    def __init__(self, features: Tensor):
        super().__init__("the network was left at an early exit")
        self.features = features


class EarlyExit(Wrapping):
    """The velocity that a Deep network reads off at one of its places: the blocks after it are not run.

    v = v_i(x, t, cond)
    Assumes a Deep network learned with DeepSupervision.  The exit is the same for all samples and times, so that
    solvers see one field.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494), velocities inside; leaving at one of them is usual for
    networks with heads inside.

    >>> deep = Deep(nn.Sequential(nn.Linear(2, 2)), ["0"], [nn.Linear(2, 2)], [nn.Identity()], [nn.Identity()])
    >>> EarlyExit(deep).place
    0
    """

    def __init__(self, field: Deep, place: int = 0):
        super().__init__()
        require(
            isinstance(field, Deep) and 0 <= place < len(field.names),
            f"EarlyExit got {type(field).__name__} and place={place}; it leaves a Deep network at one of its places: "
            "give a Deep network, and 0 for the first place",
        )
        self.field, self.place = field, place

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "place": self.place}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.field.early(self.place, x, t, cond)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v for tokens [B,N,D], in plain products, which have every derivative."""
    made: Tensor = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v
    return made


def still(layer: nn.Linear) -> nn.Linear:
    """A layer that starts at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class DeepSupervision(ObjectiveWrapper):
    """Every velocity inside the network is regressed too, and each with its acceleration has to reach the datum.

    loss(v) + early sum_i loss(v_i) + bend sum_i |x_{t_i} + (1-t_i) sg v_i + (1-t_i)^2/2 A_i - x1|^2,
    t_{i+1} = t_i +- U(0, gap) with one sign a batch, x_{t_i} on the same pair
    Assumes the straight path and a Deep network.  Where v_i is exact and the pair certain the best A_i is zero.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> DeepSupervision().early
    0.2
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    early: NonNegative = 0.2  # weight of the velocities inside
    bend: NonNegative = 1.0  # weight of the accelerations
    gap: float = 0.01  # largest step of time between branches; 0 for none
    pieces: int = 3  # branches, of equal depth, of a network from a recipe

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines have no heads inside

    def __post_init__(self) -> None:
        require(
            0 <= self.gap <= 1 and self.pieces >= 2,
            f"DeepSupervision got gap={self.gap}, pieces={self.pieces}; a step of time lies between 0 and 1, and a "
            "network has at least two branches: 0.01 and 3 are usual",
        )
        require(
            isinstance(self.inner.path, Linear),
            f"DeepSupervision got an objective on {type(self.inner.path).__name__}; its accelerations reach the "
            "datum along the straight path only: use Linear()",
        )

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network with heads and a refiner at the end of every branch but the last."""
        last = block_name(network)
        modules = dict(network.named_modules())
        stack = next(s for s in stacks_of(network).values() if any(modules[last] is block for block in s))
        ends = sorted({max(0, round(len(stack) * i / self.pieces) - 1) for i in range(1, self.pieces)})
        names = [next(name for name, m in modules.items() if m is stack[end]) for end in ends]
        width, shape = block_width(network, names[0], batch, 3, self), batch.x1.shape[1:]
        tokens = block_features(network, names[0], batch).ndim == 3
        patch = settings_of(network).get("patch", 0) if tokens else 0
        require(
            not tokens or patch,
            f"DeepSupervision was given {names[0]!r} of {type(network.backbone).__name__}, whose features are tokens "
            "of no patches; from a recipe it reads vectors or patches: use networks.MLP or networks.DiT",
        )
        with rng.ambient():
            if patch:
                heads = [(PatchHead(width, shape, patch), PatchHead(width, shape, patch, True)) for _ in names]
            else:
                heads = [(Head(width, shape), Head(width, shape, still=True)) for _ in names]  # type: ignore[misc]
            refiners = [Refiner(width, shape, patch) for _ in names]
        return Deep(network, names, [v for v, _ in heads], [a for _, a in heads], refiners)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        require(
            isinstance(field, Deep),
            f"DeepSupervision was given {type(field).__name__}; it learns heads inside a network: wrap it in Deep(...)",
        )
        example = self.inner.examples(batch, rng, field)
        t, pairs, gaps, times = example.t, example.batch, [], [example.t]
        if self.gap and field.names:
            sign = 1.0 if float(rng.fork("sign").uniform(1, t)) < 0.5 else -1.0
            for i in range(len(field.names)):
                step = sign * self.gap * rng.fork("gap", i).uniform(len(t), t)
                times.append((times[-1] + step).clamp(0, 1))
                gaps.append(times[-1] - times[-2])
        early, bends, made = field.branches(example.x, t, pairs.cond, gaps or None)
        loss = self.inner.compare(made, example)
        assert pairs.x0 is not None
        for i, (v, a) in enumerate(zip(early, bends, strict=True)):
            inner = self.inner.compare(v, example)
            loss = joined(loss, inner.value, self.early, f"velocity {i}")
            at = times[i] if gaps else t
            left = expand_time(1 - at, made)
            reached = self.inner.path.point(pairs.x0, pairs.x1, at).x + left * v.detach() + left**2 / 2 * a
            loss = joined(loss, squared(reached, pairs.x1).mean(), self.bend, f"acceleration {i}")
        return loss
