"""The adversarial term of a score game: a critic on features of the teacher or of the fake network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring
from beeline.core.errors import nearest, require
from beeline.core.modes import eval_mode, wide
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.games import AdversarialLoss, RealSamples
from beeline.core.ranges import Count, Inside, NonNegative, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, expand_time
from beeline.fields.flow import Flow, bind, evaluate_field
from beeline.networks.hooks import block_name
from beeline.objectives.games import formulas
from beeline.objectives.games.generation import affine
from beeline.objectives.heads import settings_of
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class Softplus:
    """The non-saturating adversarial loss, whose critic learns the log ratio of the densities.

    critic: softplus(-d(real)) + softplus(d(made));  student: softplus(-d(made))
    Source: Goodfellow et al. 2014, "Generative Adversarial Nets" (arXiv 1406.2661).

    >>> Softplus().student(torch.zeros(1))
    tensor([0.6931])
    """

    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        return formulas.softplus_critic(real, made)

    def student(self, made: Tensor) -> Tensor:
        return formulas.softplus_student(made)


@dataclass(frozen=True)
class Hinge:
    """The hinge loss, which ignores samples that the critic tells apart by a margin.

    critic: relu(1 - d(real)) + relu(1 + d(made));  student: -d(made)
    Its critic is no density ratio.
    Source: Lim and Ye 2017, "Geometric GAN" (arXiv 1705.02894).

    >>> Hinge().critic(torch.zeros(1), torch.zeros(1))
    tensor([2.])
    """

    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        return formulas.hinge_critic(real, made)

    def student(self, made: Tensor) -> Tensor:
        return formulas.hinge_student(made)


@dataclass(frozen=True)
class GivenData:
    """The data of the run as the real samples of a critic.

    real = x1

    >>> GivenData()(None, Flow(None), Batch(torch.ones(1, 1)), Rng(0))[0]
    tensor([[1.]])
    """

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> tuple[Tensor, Cond]:
        return batch.x1, batch.cond


@dataclass(frozen=True)
class OwnCleaner:
    """The student's own predictions from less noisy states as the real samples of a critic (self-cooperation).

    real = D(x_s),  s = 1 - (1 - u) gap,  u ~ U(0, 1);  the datum itself at s = 1
    Source: Luo et al. 2024, "You Only Sample Once" (arXiv 2403.12931).

    >>> OwnCleaner().gap
    0.5
    """

    gap: Inside = 0.5  # largest distance of s from the data

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> tuple[Tensor, Cond]:
        path, x1 = affine(teacher), batch.x1
        s = 1 - (1 - rng.fork("cleaner").uniform(len(x1), x1)) * self.gap
        s = s.clamp(max=0.999)  # a data prediction is singular at the datum on some paths
        x = path.point(teacher.source.sample(x1, rng.fork("noise")), x1, s).x
        with eval_mode(field):
            return path.data(x, bind(field, batch.cond)(x, s), s), batch.cond


@dataclass(frozen=True)
class Adversarial:
    """An adversarial term of the student: a critic on features of a frozen network at noised samples.

    loss of the student: weight loss(d(x_t));  d = the sum of small heads on the outputs of named blocks
    critic: its loss + r1 (d(x_t of x1) - d(x_t of x1 + deviation n))^2 / deviation^2 on real data
    Features are those of the teacher, or of the fake network with ``on_fake``; blocks are named as in the network
    ("backbone.block.1"), by default the middle one.  The heads are trained, the network below is not.
    Source: Yin et al. 2024, DMD2 (arXiv 2405.14867); Sauer et al. 2024, LADD (arXiv 2403.12015); R1 by differences:
    Lin et al. 2025 (arXiv 2501.08316).

    >>> Adversarial(weight=0.01).blocks
    ()
    """

    weight: NonNegative = 1e-3  # of the student's loss
    loss: AdversarialLoss = field(default_factory=Softplus)
    real: RealSamples = field(default_factory=GivenData)
    blocks: tuple[str, ...] = ()
    on_fake: bool = False  # features of the fake network, not of the teacher
    r1: NonNegative = 0.0  # weight of the penalty; 0 leaves it out, 0.1 to 1 on features, more on pixels
    deviation: Positive = 0.1  # of the noise in the penalty, in data units
    times: TimeSampler = field(default_factory=Uniform)  # of the noised samples
    same_noise: bool = True  # real samples and those of the student get the same noise and times
    width: Count = 64  # of the hidden layer of a head

    def heads(self, network: nn.Module) -> Heads:
        """The critic for the features of a network."""
        names = self.names(network)
        return Heads([channels_of(network, name) for name in names], self.width)

    def names(self, network: Any) -> tuple[str, ...]:
        """The blocks whose outputs are taken."""
        return self.blocks or (block_name(network),)


class Heads(Declaring):
    """The heads of a critic: one number per sample from the features of several blocks.

    d = sum over blocks of mean over positions of W2 silu(W1 h)
    """

    def __init__(self, channels: Sequence[int], width: int = 64):
        super().__init__()
        self.settings: dict[str, Any] = {"channels": list(channels), "width": width}
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(n, width), nn.SiLU(), nn.Linear(width, 1)) for n in channels)

    def describe(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return self.settings

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        values = []
        for part, h in zip(self.parts, features, strict=True):
            h = channels_last(h).to(next(part.parameters()).dtype)
            values.append(part(h).flatten(1).mean(1))
        return torch.stack(values).sum(0)


def channels_last(h: Tensor) -> Tensor:
    """Features with their channels in the last dimension: [B,C], [B,N,C], or [B,C,*S] of a convolution."""
    return h.movedim(1, -1) if h.ndim > 3 else h


def logits(critic: Any, network: Any, names: Sequence[str], x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The logits [B] of states by the features of a network, with a graph to ``x`` and no gradient in its weights."""
    with captured(network, names) as seen:
        evaluate_field(network, x, t, cond)
    found: Tensor = critic([seen[name] for name in names])
    return wide(found)


@contextlib.contextmanager
def captured(network: Any, names: Sequence[str]) -> Any:
    """Context manager: the last outputs of modules of a network, by their dotted names."""
    modules = dict(network.named_modules()) if isinstance(network, nn.Module) else {}
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda module, given, out: seen.__setitem__(name, out)

    with contextlib.ExitStack() as hooks:
        for name in names:
            require(
                name in modules,
                f"{type(network).__name__} has no module {name!r}, whose features the critic takes; "
                + nearest(name, sorted(filter(None, modules), key=len)[:20]),
            )
            hooks.callback(modules[name].register_forward_hook(keep(name)).remove)
        yield seen


def channels_of(network: nn.Module, name: str) -> int:
    """The number of channels of the output of a module, by one evaluation of a template."""
    template = template_of(network)
    with eval_mode(network), captured(network, [name]) as seen:
        evaluate_field(network, template.x1, template.x1.new_full((1,), 0.5), template.cond)
    require(
        name in seen and isinstance(seen[name], Tensor) and seen[name].ndim >= 2,
        f"the module {name!r} returned no features; the critic takes outputs [B,C], [B,N,C] or [B,C,H,W]: name a block "
        "that is called in every pass",
    )
    return int(channels_last(seen[name]).shape[-1])


def template_of(network: nn.Module) -> Batch:
    """One datum of zeros with null conditions, of the shape that a network declares."""
    inner = next((m for m in network.modules() if settings_of(m).get("shape")), None)
    known = settings_of(inner)
    require(
        bool(known),
        f"{type(network).__name__} does not describe the shape of its data, from which the critic's heads get their "
        "size; use a network of 'beeline list networks'",
    )
    weight = next(network.parameters())
    x = weight.new_zeros((1, *known["shape"]))
    conditions = known.get("conditions") or {}
    cond = {
        name: weight.new_full((1,), spec["classes"], dtype=torch.int64)
        if "classes" in spec
        else weight.new_zeros((1, spec["size"]))
        for name, spec in conditions.items()
    }
    return Batch(x, cond=cond or None)


def noised(
    term: Adversarial, teacher: Flow, x: Tensor, rng: Rng, which: str
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Samples with noise, their times, and the function that noises other samples equally."""
    key = rng.fork("critic") if term.same_noise else rng.fork("critic", which)
    like, path = x.detach(), affine(teacher)
    t = 0.02 + 0.96 * term.times(len(like), like, key.fork("times"))
    noise = teacher.source.sample(like, key.fork("noise"))
    a, b = (expand_time(c, like) for c in path.coefficients(t)[:2])
    return a * x + b * noise, t, lambda other: a * other + b * noise
