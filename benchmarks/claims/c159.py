"""Ten digits of 8 x 8 pixels, one of every class, drawn again in rounds with the mean style of all as a reference,
of which a part lambda from 0.3 to 0.5 acts: the flow knows class and style, the ink over that usual for the class.
Standard deviation of this ink over the ten, and share of the wanted class, over 30 stories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.mlp import MLP
from benchmarks.claims.contexts import CLASSES, MATCHING, SIZE, STEPS, TABLE, digits, drawn, labels, share
from benchmarks.claims.toys import learn
from benchmarks.claims.verdict import Finding

METHOD = "Story-Adapter: pictures of a story drawn again with all of them as references"
CLAIM = "Rounds of references make the pictures of a story consistent, without training."
STORIES, ROUNDS = 30, 5


def paler(rng: bl.Rng) -> Tensor:
    """Training digits, of each of which a share between 0.3 and 1 of the ink is left."""
    x = digits()[0].x1
    return (x + 1) * (0.3 + 0.7 * rng.fork("left").uniform(len(x), x))[:, None, None, None] - 1


def style(x: Tensor, label: Tensor) -> Tensor:
    """The ink over that of the mean digit of the class, 0 for the mean of paler digits, deviation about 1 [B,1]."""
    ink = (digits()[0].x1 + 1).flatten(1).mean(1)
    mean = torch.stack([ink[labels(digits()[0]) == k].mean() for k in range(CLASSES)])
    return (((x + 1).flatten(1).mean(1) / mean[label] - 0.65) / 0.2)[:, None]


def trained(rng: bl.Rng) -> Any:
    """A flow of digits under class and style; both numbers of the style are zero where it is unknown."""
    with rng.fork("network").ambient():
        conditions = {"context": {"size": SIZE}, "style": {"size": 2}}
        net = bl.Network(MLP(shape=(1, 8, 8), width=128, depth=3, conditions=conditions))
    x = paler(rng)
    known = (rng.fork("known").uniform(len(x), x) < 0.5).float()[:, None]
    said = torch.cat([style(x, labels(digits()[0])), torch.ones_like(known)], 1) * known
    return learn(
        net, MATCHING, bl.Batch(x, cond={"context": TABLE[labels(digits()[0])], "style": said}), rng, steps=STEPS
    )


def measure(rng: bl.Rng) -> list[Finding]:
    flow = trained(rng)
    label = torch.arange(CLASSES).repeat(STORIES)
    context = TABLE[label]

    def led(weight: float, reference: Tensor) -> Tensor:
        """Samples with a part of what the reference changes in the velocity, at the noise of every round."""
        said = torch.cat([reference, torch.ones_like(reference)], 1)

        def field(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            free = flow(x, t, {"context": context, "style": torch.zeros_like(said)})
            out: Tensor = torch.lerp(free, flow(x, t, {"context": context, "style": said}), weight)
            return out

        return drawn(field, None, rng, len(label))

    def story(shared: bool, most: float) -> Tensor:
        x = led(0.0, torch.zeros(len(label), 1))
        for k in range(ROUNDS):
            own = style(x, label).view(STORIES, CLASSES)
            mean = own.mean(1, keepdim=True).expand_as(own) if shared else own
            x = led(0.0 if most == 0 else 0.3 + (most - 0.3) * k / (ROUNDS - 1), mean.reshape(-1, 1))
        return x

    def deviation(x: Tensor) -> float:
        return float(style(x, label).view(STORIES, CLASSES).std(1).mean())

    first, last, off, alone = (
        led(0.0, torch.zeros(len(label), 1)),
        story(True, 0.5),
        story(True, 0.0),
        story(False, 0.5),
    )
    strong, untaught = story(True, 1.0), bl.Rng(rng.seed).fork("none").normal(first)
    return [
        Finding("deviation of the ink within a story: five rounds with references (figure) against the first drawing",
                deviation(first), deviation(last), deviation(alone), "every picture its own reference"),
        Finding("deviation of the ink: five rounds (figure) against half of that of the first drawing",
                deviation(first) / 2, deviation(last), deviation(alone), "every picture its own reference"),
        Finding("deviation of the ink: lambda up to 1 (figure) against up to 0.5",
                deviation(last), deviation(strong), deviation(alone), "every picture its own reference"),
        Finding("largest difference of samples with lambda = 0 from the first drawing, against rounding",
                1e-6, float((off - first).abs().max()), float((last - first).abs().max()), "references"),
        Finding("share of the wanted class: five rounds (figure) against 95% of that of the first drawing",
                0.95 * share(first, label), share(last, label), share(untaught, label), "noise", "higher"),
    ]  # fmt: skip
