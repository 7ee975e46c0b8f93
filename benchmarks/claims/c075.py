"""Round trips of the ring in 8 Euler steps each way, with the exact velocities.  The rectifier here is a small network
that corrects the velocity from the residual of the data after a plain round trip, trained step by step on states of
inversions with 4 to 16 steps.  It stands for the modulated weights of the authors, which are not built; the package has
no rectifier, since a better solver does more.  It takes 24 evaluations: two runs and that of the residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import beeline as bl
from benchmarks.claims.ring import FLOW, LAW, rmse
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Rectifier: corrections from the residual of an inversion"
CLAIM = "Reconstructions of high fidelity with different numbers of steps."
TRAINED = (4, 6, 8, 12, 16)


class Rectifier(nn.Module):
    """The correction [B,2] of a velocity from the state, its time and the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor, residual: Tensor) -> Tensor:
        made: Tensor = self.net(torch.cat([x, residual, t[:, None]], 1).float())
        return made.to(x)


def euler(n: int) -> bl.Sampler:
    return bl.Sampler(n, solver=bl.solvers.EULER)


def rows(x: Tensor, n: int) -> tuple[Tensor, ...]:
    """Inputs of the rectifier and wanted corrections at the states of an inversion in ``n`` steps."""
    states: list[Tensor] = []
    noise = euler(n).invert(FLOW, x, watch=lambda y, t: states.append(y))
    residual = x - euler(n)(FLOW, noise)
    states.reverse()
    times = torch.linspace(0, 1, n + 1).double()
    parts = []
    for k in range(n):
        t = times[k].expand(len(x))
        wanted = (states[k + 1] - states[k]) / (times[k + 1] - times[k]) - FLOW.field(states[k], t)
        parts.append((states[k], t, residual, wanted))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def trained(rng: bl.Rng, steps: int = 1500) -> Rectifier:
    x = LAW.sample(2000, rng.fork("data")).double()
    with rng.fork("network").ambient():
        net = Rectifier()
    columns = tuple(torch.cat(column) for column in zip(*(rows(x, n) for n in TRAINED), strict=True))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for i in range(steps):
        pick = rng.fork("batch", i).integers(len(columns[0]), 512)
        y, t, residual, wanted = (column[pick] for column in columns)
        loss = (net(y, t, residual) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def rectified(net: Rectifier, x: Tensor, n: int) -> float:
    """Error of a round trip with a rectifier."""
    with torch.no_grad():
        noise = euler(n).invert(FLOW, x)
        residual = x - euler(n)(FLOW, noise)
        flow = bl.Flow(lambda y, t: FLOW.field(y, t) + net(y, t, residual))
        return rmse(euler(n)(flow, noise), x)


def plain(x: Tensor, sampler: bl.Sampler) -> float:
    return rmse(sampler(FLOW, sampler.invert(FLOW, x)), x)


def measure(rng: bl.Rng) -> list[Finding]:
    x = LAW.sample(512, rng.fork("test")).double()
    net = trained(rng)
    with rng.fork("other").ambient():
        other = Rectifier()
    control = rectified(other, x, 8), "untrained rectifier"
    made = rectified(net, x, 8)
    return [
        finding("8 steps: rectifier (figure) against none", plain(x, euler(8)), made, *control),
        finding("10 steps, not trained: rectifier (figure) against none", plain(x, euler(10)), rectified(net, x, 10),
                rectified(other, x, 10), "untrained rectifier"),
        finding("24 evaluations: rectifier (figure) against 12 Euler steps", plain(x, euler(12)), made, *control),
        finding("24 evaluations: rectifier (figure) against MidpointReuse",
                plain(x, bl.Sampler(11, solver=bl.solvers.MidpointReuse())), made, *control),
    ]  # fmt: skip
