"""Small depth estimation: a point of the ring stands for an image, its depth is a smooth function of its position
within its mode, plus noise. 200 points have a known depth, 10,000 have none. A frozen flow of the points gives the
features of its blocks in one evaluation (t = 0.9), and a refiner of two layers predicts the depth. The small version
of Marigold is a flow of the depth given the point, trained on the same 200 points: the mean of 10 samples of 10
steps, which takes 100 evaluations. Dense: scenes of 12 x 12 pixels with three discs, which are larger where they are
nearer and hide those behind; 4,000 scenes without depths for the flow (a transformer of three blocks, 300 steps), 100
with depths for a head of three convolutions on the features of its blocks and their attention; mean relative error."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.dense import DenseHead, dense_features
from beeline.networks.dit import DiT
from beeline.networks.hooks import block_hooks
from beeline.objectives.regression import Regression
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


def scenes(rng: bl.Rng, n: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Images [n,1,side,side] of three discs before a plane, and their depths, from 0.2 to 1."""
    far = 0.2 + 0.6 * rng.fork("depth").uniform(3 * n, torch.empty(0)).reshape(n, 3).sort(1, descending=True).values
    bright, centre = rng.fork("bright").uniform(4 * n, far).reshape(n, 4), rng.fork("centre").uniform(6 * n, far)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image, depth = (2 * bright[:, 3] - 1)[:, None, None].repeat(1, side, side), torch.ones(n, side, side)
    for k, (y, x) in enumerate(side * centre.reshape(3, 2, n)):
        inside = (row - y[:, None, None]).square() + (column - x[:, None, None]).square() < far[
            :, k, None, None
        ] ** -2.0
        image = torch.where(inside, (2 * bright[:, k] - 1)[:, None, None], image)
        depth = torch.where(inside, far[:, k, None, None], depth)
    return image[:, None] + 0.05 * rng.fork("noise").normal(image[:, None]), depth[:, None]


def dense(rng: bl.Rng) -> list[Finding]:
    """Depth maps from dense features of the flow, from pixels, and from an untrained flow."""
    free, _ = scenes(rng.fork("free"), 4000)
    (x, y), (new, wanted) = scenes(rng.fork("known"), 100), scenes(rng.fork("test"), 200)
    with rng.fork("transformer").ambient():
        first = bl.Network(DiT((1, 12, 12), width=32, heads=2))
        flow = copy.deepcopy(first)
    learn(flow, bl.objectives.FlowMatching(), bl.Batch(free), rng.fork("flow"), steps=300, batch_size=64)

    def error(read: Callable[[Tensor], Tensor]) -> float:
        h, test = read(x), read(new)
        centre, spread = h.mean((0, 2, 3), keepdim=True), h.std((0, 2, 3), keepdim=True) + 1e-3
        with rng.fork("head").ambient():
            head = DenseHead(h.shape[1])
        given = bl.Batch(y - y.mean(), cond={"input": (h - centre) / spread})
        learn(head, Regression(), given, rng.fork("head"), steps=150, batch_size=32)
        with torch.no_grad():
            made = head((test - centre) / spread) + y.mean()
        return float(((made - wanted).abs() / wanted).mean())

    mine = error(lambda images: dense_features(flow, images, maps=True))
    mean = float(((y.mean() - wanted).abs() / wanted).mean())
    return [
        finding("dense depth: features of the flow (figure) against pixels", error(lambda images: images), mine, mean,
                "the mean depth"),
        finding("dense depth: features of the flow (figure) against those of an untrained network",
                error(lambda images: dense_features(first, images, maps=True)), mine, mean, "the mean depth"),
    ]  # fmt: skip


def measure(rng: bl.Rng) -> list[Finding]:
    return [*single(rng), *dense(rng.fork("dense"))]


def single(rng: bl.Rng) -> list[Finding]:
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
