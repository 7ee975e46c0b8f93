"""Deep supervision: intermediate velocities, refined by accelerations."""

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
from beeline.objectives.alignment import with_term
from beeline.objectives.heads import Head, settings_of
from beeline.objectives.losses.basic import squared
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.paths.affine import Linear


class Refiner(nn.Module):
    """The block between two branches of DeepFlow: acceleration features, the time gap, and the input tokens (VeRA).

    a = MLP4(h);  m = MLP(norm([h, a]) (1 + scale(gap)) + shift(gap));  c = q + attention(norm(q), norm(m)),
    q = W tokens(x_t);  the next block takes h + V c, with V initialised to zero, and the acceleration head takes a
    Assumes vectors [B,size], or tokens [B,N,size] of the patches of an image.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494); the next block of the paper takes c alone, which does not
    preserve a trained network.

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
        """(features of the next block, features of the acceleration), from features, state [B,*S] and time gap [B]."""
        tokens = h if h.ndim == 3 else h[:, None]
        a = self.accelerate(tokens)
        modulation = self.gap(torch.stack([100 * gap, (100 * gap).square()], 1).to(h.dtype))[:, None]
        scale, shift = modulation.chunk(2, -1)
        both = torch.cat([tokens, a], -1)
        m = self.mix(F.layer_norm(both, both.shape[-1:]) * (1 + scale) + shift)
        q = self.query((to_patches(x, self.patch) if self.patch else x.flatten(1)[:, None]).to(h.dtype))
        queries, context = F.layer_norm(q, q.shape[-1:]), F.layer_norm(m, m.shape[-1:])
        c = q + attend(self.ask(queries), self.keys(context), self.values(context))
        return h + self.out(c).reshape(h.shape), a.reshape(h.shape)


class PatchHead(nn.Module):
    """A linear layer from the tokens of an image to the image.

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
    """A network with velocity and acceleration heads inside, whose refined features feed the blocks after them.

    at each named module: h -> v_i = velocity_i(h);  (h, a) = refine_i(h, x_t, gap_i);  A_i = acceleration_i(a);
    the blocks after it are modulated by the time t + gap_1 + ... + gap_i, where blocks are modulated (MLP, DiT)
    Assumes heads from the module's output to the shape of the data, and a Refiner.  Other refiners take h alone: the
    next block takes h + refine_i(h), and A_i = acceleration_i(h).  Without gaps, as in sampling, all times are t.
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
            f"Deep got {len(names)} names, {len(velocities)} velocity heads, {len(accelerations)} acceleration heads "
            f"and {len(refiners)} refiners; every named module has one of each: give equal numbers",
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
        """(intermediate velocities, intermediate accelerations, velocity); ``gaps`` [B] are the times between "
        "branches."""
        steps = [torch.zeros_like(t) for _ in self.names] if gaps is None else list(gaps)
        inside: list[Tensor] = []
        accelerated: list[Tensor] = []
        modulation: list[Sequence[tuple[Tensor, ...]]] = []  # of the blocks of the newest branch
        modules, backbone = dict(self.network.named_modules()), self.network
        while isinstance(backbone, Wrapping):
            backbone = backbone.wrapped
        blocks = [block for stack in stacks_of(self.network).values() for block in stack]
        with contextlib.ExitStack() as hooks:
            for i, (name, refine) in enumerate(zip(self.names, self.refiners, strict=True)):

                def refined(_: Any, __: Any, h: Tensor, i: int = i, refine: nn.Module = refine) -> Tensor:
                    inside.append(h)
                    features, a = refine(h, x, steps[i]) if isinstance(refine, Refiner) else (h + refine(h), h)
                    accelerated.append(a)
                    if gaps is not None and isinstance(backbone, Declaring):
                        later = backbone.modulation(t + torch.stack(steps[: i + 1]).sum(0), cond)
                        modulation[:] = [] if later is None else [later]
                    return features  # type: ignore[no-any-return]

                hooks.callback(modules[name].register_forward_hook(refined).remove)
            for k, block in enumerate(blocks if gaps is not None else []):

                def modulated(_: Any, given: tuple[Any, ...], k: int = k) -> tuple[Any, ...]:
                    return (given[0], *modulation[0][k]) if modulation else given

                hooks.callback(block.register_forward_pre_hook(modulated).remove)
            v = bind(self.network, cond)(x, t)
        early = [head(h) for head, h in zip(self.velocities, inside, strict=True)]
        bends = [head(a) for head, a in zip(self.accelerations, accelerated, strict=True)]
        return early, bends, v

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.branches(x, t, cond)[2]

    def early(self, place: int, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The intermediate velocity of module number ``place``, without the blocks after it."""
        with contextlib.ExitStack() as hooks:
            modules = dict(self.network.named_modules())
            for i, (name, refine) in enumerate(zip(self.names[: place + 1], self.refiners, strict=False)):

                def refined(_: Any, __: Any, h: Tensor, i: int = i, refine: nn.Module = refine) -> Tensor:
                    if i == place:
                        raise Exited(h)
                    full = isinstance(refine, Refiner)
                    features = refine(h, x, torch.zeros_like(t))[0] if full else h + refine(h)
                    return features  # type: ignore[no-any-return]

                hooks.callback(modules[name].register_forward_hook(refined).remove)
            try:
                v = bind(self.network, cond)(x, t)
            except Exited as found:
                v = self.velocities[place](found.features)
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


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v for tokens [B,N,D], as products that are differentiable in forward and reverse mode."""
    output: Tensor = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v
    return output


def still(layer: nn.Linear) -> nn.Linear:
    """The layer, initialised to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class DeepSupervision(ObjectiveWrapper):
    """Regression of intermediate velocities too, whose accelerations have to reach the datum.

    loss(v) + early sum_i loss(v_i) + bend sum_i |x_{t_i} + (1-t_i) sg v_i + (1-t_i)^2/2 A_i - x1|^2,
    t_{i+1} = t_i +- U(0, gap) with one sign a batch, x_{t_i} on the same pair
    Assumes the straight path and a Deep network.  Where v_i is exact and the pair certain the best A_i is zero.
    Source: Shin et al. 2025, DeepFlow (arXiv 2503.14494).

    >>> DeepSupervision().early
    0.2
    """

    objective: FlowMatching = field(default_factory=FlowMatching)
    early: NonNegative = 0.2  # weight of the intermediate velocities
    bend: NonNegative = 1.0  # weight of the accelerations
    gap: float = 0.01  # largest time between branches; 0 for none
    pieces: int = 3  # branches of equal depth

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines have no heads inside

    def __post_init__(self) -> None:
        require(
            0 <= self.gap <= 1 and self.pieces >= 2,
            f"DeepSupervision got gap={self.gap}, pieces={self.pieces}; a time gap lies between 0 and 1, and there are "
            "at least two branches: 0.01 and 3 are usual",
        )
        require(
            isinstance(self.inner.path, Linear),
            f"DeepSupervision got an objective on {type(self.inner.path).__name__}; its accelerations reach the datum "
            "on the straight path only: use Linear()",
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
            f"DeepSupervision got {names[0]!r} of {type(network.backbone).__name__}, whose features are tokens without "
            "patches; it supports vectors and patches: use networks.MLP or networks.DiT",
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
            f"DeepSupervision got a {type(field).__name__}, which has no heads; wrap the network in Deep(...)",
        )
        example = self.inner.examples(batch, rng, field)
        t, pairs, gaps, times = example.t, example.batch, [], [example.t]
        if self.gap and field.names:
            sign = 1.0 if float(rng.fork("sign").uniform(1, t)) < 0.5 else -1.0
            for i in range(len(field.names)):
                step = sign * self.gap * rng.fork("gap", i).uniform(len(t), t)
                times.append((times[-1] + step).clamp(0, 1))
                gaps.append(times[-1] - times[-2])
        early, bends, v_last = field.branches(example.x, t, pairs.cond, gaps or None)
        loss = self.inner.compare(v_last, example)
        assert pairs.x0 is not None
        for i, (v, a) in enumerate(zip(early, bends, strict=True)):
            inner = self.inner.compare(v, example)
            loss = with_term(loss, inner.value, self.early, f"velocity {i}")
            at = times[i] if gaps else t
            left = expand_time(1 - at, v_last)
            reached = self.inner.path.point(pairs.x0, pairs.x1, at).x + left * v.detach() + left**2 / 2 * a
            loss = with_term(loss, squared(reached, pairs.x1).mean(), self.bend, f"acceleration {i}")
        return loss
