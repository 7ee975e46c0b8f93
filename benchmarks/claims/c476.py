"""Small depth estimation: a point of the ring stands for an image, its depth is a smooth function of its position
within its mode, plus noise. 200 points have a known depth, 10,000 have none. A frozen flow of the points gives the
features of its blocks in one evaluation (t = 0.9), and a refiner of two layers predicts the depth. The small version
of Marigold is a flow of the depth given the point, trained on the same 200 points: the mean of 10 samples of 10
steps, which takes 100 evaluations."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.hooks import block_hooks
from benchmarks.claims.toys import RING, finding, learn, network, noise, points, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "PrimeDepth: features of one step"
CLAIM = "One evaluation of a frozen flow and a refiner is a hundred times cheaper than Marigold, at similar accuracy."
SEEDS, KNOWN = 4, 200


def depth(x: Tensor) -> Tensor:
    """[N,1] depth of points [N,2]: nearer outside, with a slope of its own around the circle."""
    angle = torch.atan2(x[:, 1], x[:, 0])
    return (x.norm(dim=1) - 4 + torch.sin(3 * angle))[:, None]


def preimage(net: bl.Network, x: Tensor) -> Tensor:
    """What all blocks of a network put out for points, in one evaluation."""
    seen: list[Tensor] = []
    names = ("block.0", "block.1", "block.2")
    with torch.no_grad(), block_hooks(net.backbone, dict.fromkeys(names, seen.append)):
        net(x, torch.full((len(x),), 0.9))
    made = torch.cat(seen, 1)
    return made


def refined(h: Tensor, y: Tensor, test: Tensor, rng: bl.Rng) -> Tensor:
    """The depth of ``test`` by a refiner that has learned from features and depths."""
    centre, spread = h.mean(0), h.std(0) + 1e-3
    with rng.fork("refiner").ambient():
        head = bl.networks.Head(h.shape[1], (1,), width=64)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (head((h - centre) / spread) - y).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        made: Tensor = head((test - centre) / spread)
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    data = points(rng)
    known, test = data.x1[:KNOWN], RING.batch(512, rng.fork("new"), dtype=torch.float32).x1
    y = depth(known) + 0.1 * rng.fork("noise").normal(known[:, :1])
    flow = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("net"), steps=500)
    given = {"given": {"size": 2}}
    marigold = learn(network(rng, 1, conditions=given), bl.objectives.FlowMatching(),
                     bl.Batch(y, cond={"given": known}), rng.fork("depth"), steps=500)  # fmt: skip
    x0 = noise(rng.fork("x0"), 10 * len(test), 1)
    drawn = sample(marigold, x0, 10, {"given": test.repeat(10, 1)}).reshape(10, -1, 1).mean(0)
    error = lambda made: rmse(made, depth(test))  # noqa: E731
    read = lambda net: refined(preimage(net, known), y, preimage(net, test), rng)  # noqa: E731
    mine, mean = error(read(flow)), error(y.mean().expand(len(test), 1))
    return [
        finding("1 evaluation: features of the flow (figure) against a flow of the depth, 100", error(drawn), mine,
                mean, "the mean depth"),
        finding("features of the flow (figure) against those of an untrained network", error(read(network(rng))),
                mine, mean, "the mean depth"),
        finding("features of the flow (figure) against the point itself", error(refined(known, y, test, rng)), mine,
                mean, "the mean depth"),
    ]  # fmt: skip
