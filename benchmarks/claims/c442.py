"""Small calorimeter showers: the energy fractions of four layers given the incident energy, modelled as logits by a
conditional flow. W2 distance between the pairs (energy, fractions) sampled and true, and the error against 40 Heun
steps. The cascade: showers of four layers with 2 x 4 voxels, a Gamma profile in depth and exponentials in radius, both
with fluctuations; an autoregressive flow of the layers, then a flow of the voxels given layers and energy, against one
flow of all voxels with as many training steps; separation power of the histograms of the energies of the layers, and
their W2 distance to true showers, of 512 showers in 10 steps each."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.data.showers import EncodedShowers, ShowerCodec
from beeline.distillation.fit_solver import Bespoke, Problem
from beeline.sampling.cascade import Autoregressive, Cascade, Stage
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import MIDPOINT
from beeline.times.composed import Continued
from benchmarks.claims.toys import finding, learn, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "CaloDREAM: cascade and bespoke non-stationary solver"
CLAIM = "A cascade is faithful to showers, and bespoke solvers cut its evaluations strongly."
LAYERS = 4


def showers(rng: bl.Rng, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log energy [n,1], logits of u_i = E_i / sum_{j>=i} E_j [n,3]); deeper where the energy is high."""
    energy = 2 * rng.fork("energy").uniform(n, torch.empty(0))[:, None] - 1
    depth = torch.tensor([1.0, 3.0, 3.0, 1.0]) + energy * torch.tensor([-0.6, -0.8, 1.2, 0.6])
    deposit = depth * torch.exp(0.4 * rng.fork("deposit").normal(torch.empty(n, LAYERS)))
    rest = deposit.flip(1).cumsum(1).flip(1)
    return energy, torch.logit((deposit / rest)[:, :-1], 1e-6)


def deposits(rng: bl.Rng, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(showers [n,4,2,4], incident energies [n]); deeper where the energy is high."""
    like = torch.empty(n, LAYERS, 2, 4)
    energy = 10 * torch.exp(2 * rng.fork("energy").uniform(n, like))
    deep = torch.arange(LAYERS) + 0.5
    shape = (1.5 + energy.log() / 2)[:, None]
    profile = deep ** (shape - 1) * torch.exp(-deep) * torch.exp(0.3 * rng.fork("layers").normal(like[:, :, 0, 0]))
    radial = torch.exp(-torch.arange(4) / (0.7 + 0.3 * deep[:, None, None])).expand(LAYERS, 2, 4)
    voxels = radial * torch.exp(0.5 * rng.fork("voxels").normal(like))
    parts = profile[:, :, None, None] * voxels / voxels.sum((2, 3), keepdim=True)
    total = (0.95 + 0.03 * rng.fork("total").normal(energy)).clamp(0.5, 1.4) * energy
    return parts / parts.sum((1, 2, 3), keepdim=True) * total[:, None, None, None], energy


def separation(made: torch.Tensor, real: torch.Tensor) -> float:
    """Mean over columns [N,L] of sum (p - q)^2 / (p + q) / 2 of histograms with 16 bins of equal probability."""
    found = []
    for a, b in zip(made.T.contiguous(), real.T.contiguous(), strict=True):
        edges = b.quantile(torch.linspace(0, 1, 17)[1:-1])
        p, q = (torch.bucketize(c, edges).bincount(minlength=16) / len(c) for c in (a, b))
        found.append(float(((p - q).square() / (p + q).clamp(min=1e-9)).sum() / 2))
    return sum(found) / len(found)


def cascade(rng: bl.Rng) -> list[Finding]:
    raw, incident = deposits(rng.fork("data"), 10_000)
    codec = ShowerCodec.fit(raw, incident)
    y, layers, told = codec.encode(raw, incident), (LAYERS, 1), {"energy": {"size": 1}}
    grid = tuple(y.voxels.shape[1:])
    loss, times = bl.objectives.FlowMatching(), Continued(count=LAYERS, given=LAYERS - 1, single=True)
    whole = torch.logit((raw / (1.5 * incident[:, None, None, None])).clamp(1e-6, 1 - 1e-6))
    centre, spread = whole.mean(0), whole.std(0)

    def nets(rng: bl.Rng) -> list[bl.Network]:
        first = network(rng.fork("u"), None, 96, shape=layers, frames=LAYERS, conditions=told)
        second = network(rng.fork("v"), None, 96, shape=grid, conditions={**told, "u": {"size": LAYERS}})
        return [first, second, network(rng.fork("w"), None, 96, shape=grid, conditions=told)]

    first, second, single = nets(rng)
    cond = {"energy": y.energy}
    learn(first, bl.objectives.FlowMatching(times=times), bl.Batch(y.layers, cond=cond), rng.fork("u"), steps=600)
    learn(second, loss, bl.Batch(y.voxels, cond={**cond, "u": y.layers.flatten(1)}), rng.fork("v"), steps=600)
    learn(single, loss, bl.Batch((whole - centre) / spread, cond=cond), rng.fork("w"), steps=1200)
    real, energy = deposits(rng.fork("test"), 512)
    given = {"energy": codec.encode(real, energy).energy}
    ten = bl.Sampler(10, solver=MIDPOINT)

    def layered(first: bl.Network, second: bl.Network) -> torch.Tensor:
        stages = (Stage("u", bl.Flow(first), Autoregressive(ten), layers, ("energy",)),
                  Stage("v", bl.Flow(second), ten, grid, ("energy", "u")))  # fmt: skip
        made = Cascade(stages).sample(given, rng.fork("made"))
        return codec.decode(EncodedShowers(made["u"], made["v"], given["energy"])).sum((2, 3))

    x = ten(bl.Flow(single), rng.fork("w").normal(torch.empty(512, *grid)), given)
    plain = (torch.sigmoid(x * spread + centre) * 1.5 * energy[:, None, None, None]).sum((2, 3))
    made, raw_made, truth = layered(first, second), layered(*nets(rng.fork("raw"))[:2]), real.sum((2, 3))
    scale, rows = truth.std(0), []
    for what, figure in (("separation power", separation), ("W2 distance", lambda a, b: w2(a / scale, b / scale))):
        found = (figure(part, truth) for part in (plain, made, raw_made))
        rows.append(finding(f"energies of layers, {what}: cascade (figure) against one flow", *found))
    return rows


def measure(rng: bl.Rng) -> list[Finding]:
    return [*fractions(rng), *cascade(rng.fork("cascade"))]


def fractions(rng: bl.Rng) -> list[Finding]:
    energy, shares = showers(rng.fork("data"), 10_000)
    told = {"energy": {"size": 1}}
    net = learn(network(rng, LAYERS - 1, conditions=told), bl.objectives.FlowMatching(),
                bl.Batch(shares, cond={"energy": energy}), rng.fork("net"))  # fmt: skip
    fine = lambda x0, cond: sample(net, x0, 40, cond, solver=bl.solvers.HEUN)  # noqa: E731
    start, seen = noise(rng.fork("fit"), 512, LAYERS - 1), {"energy": energy[:512]}
    fit = Problem(bl.Flow(net), Plain(), start, fine(start, seen), seen)
    schedule, solver = Bespoke(iterations=150)(fit, 4, rng)
    given, real = showers(rng.fork("test"), 512)
    x0, cond = noise(rng, size=LAYERS - 1), {"energy": given}
    first = network(rng, LAYERS - 1, conditions=told)
    exact = fine(x0, cond)
    bespoke = sample(net, x0, 4, cond, solver=solver, schedule=schedule)
    raw = sample(first, x0, 4, cond, solver=solver, schedule=schedule)
    both = lambda x: w2(torch.cat([given, x], 1), torch.cat([given, real], 1))  # noqa: E731
    rows = []
    for n in (4, 8):
        middle = sample(net, x0, n // 2, cond, solver=MIDPOINT)
        text = f"bespoke, 4 evaluations (figure) against midpoint, {n}"
        rows += [
            finding(f"distance to true showers: {text}", both(middle), both(bespoke), both(raw)),
            finding(f"error of the end points: {text}", rmse(middle, exact), rmse(bespoke, exact), rmse(raw, exact)),
        ]
    return rows
