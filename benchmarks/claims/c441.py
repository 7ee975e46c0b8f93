"""rmse of the velocity on the ring after equal training, and the held-out loss of digits of 8 x 8 pixels with a
diffusion transformer of six blocks in three branches after 100 steps. Refiners, accelerations and the velocity head of
the branches are those of the paper. The network without the inner losses has the same size. Early exits: each sample
stops at the second branch where its velocity differs by less than 5 percent from that of the first; a share of blocks
counts where the held-out loss is at most 2 percent worse."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT
from beeline.objectives.deep_supervision.network import SampleExit
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "DeepFlow: deep supervision"
CLAIM = "Velocities inside the network, refined by accelerations, make training converge several times faster."
SEEDS = 3
PLAIN = bl.objectives.FlowMatching()
DEEP = bl.objectives.DeepSupervision(PLAIN)


def measure(rng: bl.Rng) -> list[Finding]:
    return [*ring(rng), *digits(rng.fork("digits"))]


def three(plain: Any, data: bl.Batch, rng: bl.Rng, **more: Any) -> list[Any]:
    """The plain network, the deep one with the plain loss, and the deep one with its own, after equal training."""
    deep = [DEEP.wrap(plain(), data, rng.fork("heads")) for _ in range(2)]
    return [
        learn(net, loss, data, rng.fork("net"), **more)
        for net, loss in zip((plain(), *deep), (PLAIN, PLAIN, DEEP), strict=True)
    ]


def ring(rng: bl.Rng) -> list[Finding]:
    data, rows = points(rng), []
    first = velocity_error(network(rng), RING, rng)
    for steps in (250,):
        plain, same, figure = (
            velocity_error(net, RING, rng) for net in three(lambda: network(rng), data, rng, steps=steps)
        )
        rows += [
            finding(f"{steps} steps: deep supervision (figure) against plain", plain, figure, first),
            finding(f"{steps} steps: with the inner losses (figure) against the same network without", same, figure,
                    first),
        ]  # fmt: skip
    return rows


def transformer(rng: bl.Rng) -> bl.Network:
    with rng.fork("network").ambient():
        return bl.Network(DiT((1, 8, 8), width=32, depth=6, heads=2))


def digits(rng: bl.Rng) -> list[Finding]:
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    data, test = (bl.Batch(modality.encode(part).x1.float()) for part in (raw, held))
    nets = three(lambda: transformer(rng), data, rng, steps=100, batch_size=64)

    def loss(net: Any) -> float:
        with torch.no_grad():
            return float(PLAIN(net, test, rng.fork("test")).value)

    plain, same, figure = map(loss, nets)
    exits, ran = SampleExit(nets[2], 0.05), []
    hook = nets[2].network.backbone.block[-1].register_forward_hook(lambda m, given, out: ran.append(len(out)))
    stopped = loss(exits)
    hook.remove()
    share = (4 + 2 * sum(ran) / len(test.x1)) / 6
    first = loss(transformer(rng))
    return [
        finding("digits: deep supervision (figure) against plain", plain, figure, first),
        finding("digits: with the inner losses (figure) against the same network without", same, figure, first),
        finding("digits, early exits: share of the blocks run (figure) against all", 1.0,
                share if stopped <= 1.02 * figure else 1.0, 1.0),
    ]  # fmt: skip
