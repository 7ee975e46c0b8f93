"""Sequences that stay near one of eight overlapping modes; a model of windows of four frames with a time for every
frame extends them by two frames at a time. History guidance is v(no history) + w (v(history) - v(no history)).
Fidelity is the mean posterior probability of the mode of the first frame, ten windows later."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import RING, UNTRAINED, finding, learn, network, noise
from benchmarks.claims.verdict import Finding

METHOD = "History guidance with a time for every frame"
CLAIM = "Guidance by the history improves consistency, and stably rolls out very long sequences."
FRAMES, GIVEN, WINDOWS, SPREAD = 4, 2, 10, 1.0
MEANS = torch.tensor(RING.means)


def history(rng: bl.Rng, n: int, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences [n,frames,2] around one mode each, and the modes."""
    k = torch.arange(n) % len(MEANS)
    blur = rng.normal(torch.empty(n, frames, 2))
    return MEANS[k][:, None].to(blur) + SPREAD * blur, k


def faithful(x: torch.Tensor, k: torch.Tensor) -> float:
    """The mean posterior probability of the modes ``k`` given single frames."""
    posterior = torch.softmax(-torch.cdist(x, MEANS.to(x)).square() / (2 * SPREAD**2), 1)
    return float(posterior[torch.arange(len(x)), k].mean())


def rolled(net: Any, first: torch.Tensor, weight: float, rng: bl.Rng) -> torch.Tensor:
    """The last two frames after ``WINDOWS`` windows."""
    free = (torch.arange(FRAMES) >= GIVEN)[None]
    known = first
    for window in range(WINDOWS):
        start = noise(rng.fork("window", window), len(first), 2 * FRAMES).reshape(-1, FRAMES, 2)
        x = torch.cat([known, start[:, GIVEN:]], 1)

        def guided(x: torch.Tensor, t: torch.Tensor, other: torch.Tensor = start) -> torch.Tensor:
            conditional = net(x, torch.where(free, t[:, None], 1.0))
            blind = net(torch.where(free[..., None], x, other), torch.where(free, t[:, None], 0.0))
            return (blind + weight * (conditional - blind)) * free[..., None]

        with torch.no_grad():
            known = bl.integrate(guided, x, torch.linspace(0, 1, 17), bl.solvers.HEUN)[:, GIVEN:]
    return known


def measure(rng: bl.Rng) -> list[Finding]:
    data, (first, k) = bl.Batch(history(rng.fork("data"), 20_000)[0]), history(rng.fork("test"), 512, GIVEN)
    objective = bl.objectives.FlowMatching(times=bl.times.Frames(bl.times.Uniform(), FRAMES, clean=0.2))
    new = lambda: network(rng, None, shape=(FRAMES, 2), frames=FRAMES)  # noqa: E731
    net = learn(new(), objective, data, rng.fork("own"), steps=900)
    ends = {w: rolled(net, first, w, rng.fork("roll")) for w in (0.0, 1.0, 1.5)}
    raw = rolled(new(), first, 1.5, rng.fork("roll"))
    fidelity = {w: faithful(x[:, -1], k) for w, x in ends.items()}
    lost = {w: abs(float((x[:, -1] - MEANS[k].to(x)).square().sum(1).mean().sqrt()) - SPREAD * 2**0.5)
            for w, x in {**ends, -1.0: raw}.items()}  # fmt: skip
    return [
        finding("fidelity after ten windows: guidance 1.5 (figure) against the history without guidance", fidelity[1.0],
                fidelity[1.5], fidelity[0.0], "no history", "higher"),
        finding("fidelity after ten windows: with the history (figure) against without", fidelity[0.0], fidelity[1.0],
                faithful(raw[:, -1], k), UNTRAINED, "higher"),
        finding("error of the distance to the mode after ten windows: guidance 1.5 (figure) against without guidance",
                lost[1.0], lost[1.5], lost[-1.0], UNTRAINED),
    ]  # fmt: skip
