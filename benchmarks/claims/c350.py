"""Pairs with y = x^2 - 1 + noise. One model with a time for every part, against two models for one direction each, all
three trained jointly for 1,600 steps per direction. W2 distance between the pairs (given, sampled) and (given,
true)."""

from __future__ import annotations

import functools
from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import finding, learn, network, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "One diffusion: any part may be given"
CLAIM = "A single model does every direction as well as specialised ones."
SEEDS = 4


def pairs(x: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    """(x, y) of shape [n,2,1]."""
    return torch.stack([x, x**2 - 1 + 0.3 * blur], 1)


def part(net: Any, own: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The velocity of one part, while the other is given."""
    made: torch.Tensor = net(x, 1 - own * (1 - t[:, None])) * own[:, None]
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    like = torch.empty(20_000, 1)
    data, known = bl.Batch(pairs(rng.fork("x").normal(like), rng.fork("y").normal(like))), noise(rng)
    test, start = pairs(known[:, :1], known[:, 1:]), noise(rng.fork("start"), size=1)
    any_part = bl.objectives.FlowMatching(times=bl.times.Frames(bl.times.Uniform(), 2, clean=0.3))
    new = lambda: network(rng, None, shape=(2, 1), frames=2)  # noqa: E731
    one, raw, rows = learn(new(), any_part, data, rng.fork("one"), steps=1600), new(), []
    for want, name in ((1, "y given x"), (0, "x given y")):
        told = bl.Batch(data.x1[:, want], cond={"given": data.x1[:, 1 - want]})
        special = network(rng, 1, conditions={"given": {"size": 1}})
        special = learn(special, bl.objectives.FlowMatching(), told, rng.fork("special", want), steps=800)
        own = torch.nn.functional.one_hot(torch.tensor(want), 2).float()  # 1 for the part to draw

        def drawn(net: Any, own: torch.Tensor = own, want: int = want) -> torch.Tensor:
            forced = functools.partial(part, net, own)
            first = torch.where(own[:, None] > 0, start[:, None], test)
            return bl.integrate(forced, first, torch.linspace(0, 1, 31))[:, want]

        given = test[:, 1 - want]
        with torch.no_grad():
            alone = bl.integrate(lambda x, t, s=special, g=given: s(x, t, {"given": g}), start,
                                 torch.linspace(0, 1, 31))  # fmt: skip
            made = alone, drawn(one), drawn(raw)
        real = torch.cat([given, test[:, want]], 1)
        rows.append(finding(f"{name}: one model (figure) against a special one",
                            *(w2(torch.cat([given, x], 1), real) for x in made)))  # fmt: skip
    return rows
