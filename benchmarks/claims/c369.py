"""Pictures of 8 x 8 pixels whose distribution is known: an object before one of four backgrounds. The general field
makes the background that is asked for, with an object of one of three brightnesses; the personalised field knows the
brightness of one person, before the background of its only photograph. 20 Heun steps with the exact velocities. The
figure is the share of samples with the background that is asked for and the brightness of the person; the object is at
a known place. The control merges with exchanged regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.guidance.composition.merged import Merged
from beeline.sampling.guidance.guide import Weak
from benchmarks.claims import scenes
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "PersonaHOI: merged branches"
CLAIM = "Velocities of a personalised field in the region of the face and of the general one elsewhere keep both."
COUNT, AT, SIZE = 192, 3, 3
FACE = torch.zeros(8, 8)
FACE[AT : AT + SIZE, AT : AT + SIZE] = 1
LOOKS = torch.tensor([2.0, 1.0, -2.0])  # the first is the person


def pictures(backgrounds: Tensor, looks: Tensor) -> Tensor:
    return torch.stack([b * (1 - FACE) + look * FACE for b in backgrounds for look in looks])


def field(means: Tensor, choose: Any) -> Any:
    """The exact velocity of the mixture of some means [K,8,8]; ``choose`` [B] -> allowed means [B,K]."""

    def v(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        flat, at, t = x.flatten(1), means.flatten(1), t.view(-1, 1)
        spread = t**2 * scenes.STD**2 + (1 - t) ** 2
        logits = -(flat[:, None] - t[:, None] * at).square().sum(2) / (2 * spread)
        mean = logits.masked_fill(~choose(cond), -torch.inf).softmax(1) @ at
        return (mean + (t * scenes.STD**2 - (1 - t)) / spread * (flat - t * mean)).view_as(x)

    return v


def measure(rng: bl.Rng) -> list[Finding]:
    every = pictures(scenes.backgrounds(), LOOKS)
    general = field(every, lambda cond: torch.arange(len(every)) // len(LOOKS) == cond[:, None])
    photo = pictures(scenes.backgrounds()[:1], LOOKS[:1])
    person = field(photo, lambda cond: torch.ones(len(cond), 1, dtype=torch.bool))
    wanted = torch.arange(COUNT) % 3 + 1  # other backgrounds than that of the photograph
    x0 = rng.fork("start").normal(torch.empty(COUNT, 1, 8, 8))

    def right(guidance: Any, of: Any = general) -> float:
        made = bl.Sampler(20, guidance=guidance)(bl.Flow(of), x0, wanted)
        nearest = torch.cdist(made.flatten(1), every.flatten(1)).argmin(1)
        return float((nearest == wanted * len(LOOKS)).float().mean())

    plain = bl.guidance.Plain()
    merged = right(Merged((Weak(person),), (FACE,)))
    exchanged = right(Merged((Weak(person),), (1 - FACE,)))
    half = right(bl.guidance.Conjunction((Weak(person),), (0.5, 0.5)))
    early = right(Merged((Weak(person),), (FACE,), window=(0.0, 0.5)))
    trivial = "exchanged regions"
    return [
        finding("share right: merged (figure) against the general field", right(plain), merged, exchanged, trivial,
                "higher"),
        finding("share right: merged (figure) against the personalised field", right(plain, person), merged,
                right(plain, person), "personalised field", "higher"),
        finding("share right: merged (figure) against the mean of both velocities", half, merged, exchanged, trivial,
                "higher"),
        finding("share right: merged at all times (figure) against up to t = 0.5", early, merged, exchanged, trivial,
                "higher"),
    ]  # fmt: skip
