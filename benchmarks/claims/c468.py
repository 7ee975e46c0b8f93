"""A linear map [12,12] with singular values from 4 down: factors U V trained with a random number of their first
columns in every step, against training of all columns; errors of their parts over those of singular values, and
distances of sizes |u_k||v_k| to the singular values. Velocities of a small flow of the ring whose inner layers are
factors of half rank: first columns that are kept without further training, after ordered training, against the
singular values of the flow's weights and of factors that were trained whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.factors import split
from benchmarks.claims.storing import ring
from benchmarks.claims.taught import STEPS, Computed, Taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Maestro: ordered dropout of the columns of factors"
CLAIM = "It finds the singular vectors of linear maps, and smaller networks need no training of their own."
SPECTRUM = torch.tensor([4.0, 3.0, 2.2, 1.6, 1.2, 0.9, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05])
RANK = 6


def trained_map(wanted: Tensor, rng: bl.Rng, ordered: bool, steps: int = 3000) -> tuple[Tensor, Tensor]:
    """Factors [12,6], [6,12] of a linear map, trained on random inputs."""
    n = len(wanted)
    u, v = (nn.Parameter(0.3 * rng.fork(name).normal(torch.empty(n, RANK))) for name in "uv")
    optimizer = torch.optim.Adam([u, v], 0.03)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    prefixes = rng.fork("prefix").integers(RANK, steps).tolist()
    for prefix in prefixes:
        k = prefix + 1 if ordered else RANK
        optimizer.zero_grad()
        (u[:, :k] @ v[:, :k].mT - wanted).square().sum().backward()  # of inputs with unit covariance
        optimizer.step()
        falling.step()
    return u.detach(), v.detach()


def over_best(wanted: Tensor, u: Tensor, v: Tensor) -> float:
    """The largest error of first columns over that of as many singular values."""
    tails = [torch.linalg.svdvals(wanted)[k:].norm() for k in range(1, RANK + 1)]
    errors = [(u[:, :k] @ v[:, :k].mT - wanted).norm() for k in range(1, RANK + 1)]
    return max(float(e / t) for e, t in zip(errors, tails, strict=True))


def off(wanted: Tensor, u: Tensor, v: Tensor) -> float:
    """The largest relative difference of sizes of columns and singular values."""
    return float((u.norm(dim=0) * v.norm(dim=0) / torch.linalg.svdvals(wanted)[:RANK] - 1).abs().max())


class Factored(Computed):
    """A weight as factors, of which the first columns count."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        up, down = split(layer.weight.detach(), min(layer.weight.shape) // 2)
        self.up, self.down, self.kept = nn.Parameter(up), nn.Parameter(down), up.shape[1]

    def weight(self) -> Tensor:
        return self.up[:, : self.kept] @ self.down[: self.kept]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down[: self.kept]), self.up[:, : self.kept], self.bias)

    def sorted(self) -> None:
        up, down = split((self.up @ self.down).detach(), self.up.shape[1])
        self.up.data, self.down.data = up, down


def factored(rng: bl.Rng, ordered: bool, steps: int = STEPS) -> Taught:
    made = Taught(ring(rng.seed), Factored, rng)

    def before(step: int) -> None:
        draw = rng.fork("draw", step)
        for layer in made.layers:
            layer.kept = layer.up.shape[1]
        if ordered:
            layer = made.layers[int(draw.fork("layer").integers(len(made.layers), 1))]
            layer.kept = 1 + int(draw.fork("rank").integers(layer.up.shape[1], 1))

    if steps:
        made.train(steps, before=before)
        if not ordered:
            for layer in made.layers:
                layer.sorted()
    return made


def kept(made: Taught, share: float) -> float:
    """The error of velocities with a share of the columns of every layer."""
    for layer in made.layers:
        layer.kept = max(1, round(share * layer.up.shape[1]))
    return made.error()


def measure(rng: bl.Rng) -> list[Finding]:
    left, right = (torch.linalg.qr(rng.fork(name).normal(torch.empty(12, 12)))[0] for name in ("left", "right"))
    wanted = left * SPECTRUM @ right.mT
    first, whole, no = (
        trained_map(wanted, rng, kind, steps) for kind, steps in ((True, 3000), (False, 3000), (True, 0))
    )
    ordered, plain, singular = factored(rng, True), factored(rng, False), factored(rng, False, 0)
    found = [
        finding("linear map: largest error of first columns over that of singular values, ordered (figure) and not",
                over_best(wanted, *whole), over_best(wanted, *first), over_best(wanted, *no), "no training"),
        finding("the same: ordered (figure) against 1.01", 1.01, over_best(wanted, *first), over_best(wanted, *whole),
                "training of all columns"),
        finding("sizes of columns: largest difference to singular values (figure) against 0.01", 0.01,
                off(wanted, *first), off(wanted, *whole), "training of all columns"),
    ]  # fmt: skip
    for share in (0.75, 0.5):
        made, large, values = (kept(net, share) for net in (ordered, plain, singular))
        less = kept(singular, share / 4)
        found += [
            finding(f"ring, {share:.0%} of the columns: ordered training (figure) against singular values of the flow",
                    values, made, less, "a quarter of these columns"),
            finding(f"ring, {share:.0%} of the columns: ordered training (figure) against singular values of trained "
                    "factors", large, made, less, "a quarter of these columns"),
        ]  # fmt: skip
    return [*found, finding("ring, all columns: ordered training (figure) against training of all", kept(plain, 1.0),
                            kept(ordered, 1.0), kept(singular, 0.25), "a quarter of the singular values")]  # fmt: skip
