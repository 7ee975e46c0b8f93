"""Inverse problems on MNIST: PSNR at equal passes of the network, and seconds over counted passes.

    python -m benchmarks.inverse --mnist mnist.npz [--bundle DIR] [--samples 12] [--draws 3] [--output FILE]

An unconditional flow is trained for about three minutes on one core, or loaded from --bundle.  Test images get a hole
of 12 x 12 pixels (inpainting) or are reduced to 14 x 14 or 7 x 7 means of blocks (super-resolution), and are sampled
given the rest by Euler steps.  A pass is an evaluation of the network; a backward pass counts as two.

``psnr``: of the samples, and of their means over draws, peak 1, with as many evaluations for each controller
``psnr_at_equal_passes``: of the samples, with the steps that the passes allow
``gain``: PSNR of the best controller over that of naive replacement; aim: at least 3 dB
``seconds``: processor time over that of the counted passes in plain sampling; aim: at most 1.05 without gradients, 1.1
with
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import beeline as bl
from beeline.core.protocols.steering import Controller, Operator
from beeline.data.images import Image, Images
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.moments import MomentMatching
from beeline.sampling.steering.inverse.pulls import PseudoInverse, Pull, Replacement
from beeline.sampling.steering.operators.axes import BlockMean
from beeline.sampling.steering.operators.masks import Mask
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import report

SHAPE, NOISE, DEVIATION, REPEATS = (1, 28, 28), 0.05, 0.6, 3
KINDS = ("sample", "mean")  # of PSNR
Make = Callable[[Measured], Controller]
# passes of one evaluation of the drift, and the controller
CONTROLLERS: dict[str, tuple[int, Make]] = {
    "Replacement": (1, Replacement),
    "Pull": (1, functools.partial(Pull, deviation=DEVIATION)),
    "PseudoInverse": (3, functools.partial(PseudoInverse, deviation=DEVIATION)),
    "MomentMatching, 3 iterations": (7, functools.partial(MomentMatching, iterations=3)),
}


def train(pixels: Any, steps: int) -> bl.Bundle:
    """An unconditional flow of MNIST."""
    modality = Image().fit(Images(pixels[:1]))
    x = modality.encode(Images(pixels[:20_000])).x1
    with bl.Rng(0).ambient():
        net = bl.Network(bl.networks.UNet(SHAPE, width=16))
    training = bl.Training(steps=steps, batch_size=64, lr=WarmupCosine(3e-3, 50), ema=EMA(0.98))
    net = bl.fit(net, bl.objectives.FlowMatching(), bl.Batch(x), training, rng=bl.Rng(0), log=lambda entry: None)
    return bl.Bundle(bl.Flow(net), bl.Sampler(16), modality)


def tasks() -> dict[str, Operator]:
    """The operators of the tasks."""
    known = torch.ones(28, 28)
    known[8:20, 8:20] = 0
    return {"inpainting 12x12": Mask(known), "super-resolution 2x": BlockMean(2), "super-resolution 4x": BlockMean(4)}


def euler(steps: int, *controllers: Controller) -> bl.Sampler:
    return bl.Sampler(steps, solver=bl.solvers.EULER, controllers=controllers)


def psnr(made: Tensor, truth: Tensor) -> float:
    error = ((made.clamp(-1, 1) - truth) / 2).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def quality(flow: bl.Flow, truth: Tensor, draws: int, evaluations: int, passes: int = 0) -> dict[str, Any]:
    """PSNR of every controller on every task with ``evaluations`` steps, or with those that ``passes`` allow."""
    found: dict[str, Any] = {}
    many = truth.repeat_interleave(draws, 0)
    x0 = bl.Rng(1).normal(many)
    for task, operator in tasks().items():
        y = operator.apply(truth)
        y = (y + NOISE * bl.Rng(2).normal(y)).repeat_interleave(draws, 0)
        rows = {}
        for name, (cost, make) in CONTROLLERS.items():
            steps = passes // cost if passes else evaluations
            made = euler(steps, make(Measured(operator, y, NOISE)))(flow, x0)
            row = {"steps": steps, "sample": round(psnr(made, many), 2)}
            if draws > 1:
                mean = made.clamp(-1, 1).reshape(len(truth), draws, *SHAPE).mean(1)
                row["mean"] = round(psnr(mean, truth), 2)
            print(f"{task:20s} {name:30s}", row, flush=True)
            rows[name] = row
        naive = rows["Replacement"]
        gains = {
            kind: round(max(row[kind] for row in rows.values()) - naive[kind], 2) for kind in naive if kind in KINDS
        }
        found[task] = {"controllers": rows, "gain": gains}
    return found


def speed(flow: bl.Flow, truth: Tensor, steps: int = 6) -> dict[str, float]:
    """Processor seconds of each controller over those of its passes in plain sampling, of ``truth`` at once."""
    x0, problem = bl.Rng(1).normal(truth), Measured(BlockMean(2), BlockMean(2).apply(truth), NOISE)

    def seconds(sampler: bl.Sampler) -> float:
        start = time.process_time()
        sampler(flow, x0, start=0.1)  # later than the times at which covariances take another evaluation
        return time.process_time() - start

    found: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        plain = seconds(euler(steps)) / steps
        for name, (cost, make) in CONTROLLERS.items():
            found.setdefault(name, []).append(seconds(euler(steps, make(problem))) / (cost * steps * plain))
    return {name: round(sorted(values)[REPEATS // 2], 3) for name, values in found.items()}


def main() -> None:
    parser = report.parser("inverse", __doc__)
    parser.add_argument("--mnist", type=Path, metavar="FILE", required=True, help="MNIST as an .npz file")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a trained flow; default: train one")
    parser.add_argument("--steps", type=int, default=450, help="training steps")
    parser.add_argument("--samples", type=int, default=12, help="test images")
    parser.add_argument("--draws", type=int, default=3, help="samples for each image")
    parser.add_argument("--evaluations", type=int, default=20, help="evaluations of the network for one sample")
    parser.add_argument(
        "--passes", type=int, default=96, help="passes of the network for one sample, where they are equal"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.mnist) as arrays:
        learned, held = arrays["x_train"], arrays["x_test"]
    start = time.process_time()
    bundle = train(learned, options.steps) if options.bundle is None else bl.load(options.bundle, device="cpu")
    trained = time.process_time() - start if options.bundle is None else None
    truth = bundle.modality.encode(Images(held[: options.samples])).x1
    found = {
        "psnr": quality(bundle.flow, truth, options.draws, options.evaluations),
        "psnr_at_equal_passes": quality(bundle.flow, truth, 1, 0, options.passes),
        "seconds": speed(bundle.flow, truth),
        "training_seconds": trained,
    }
    print(found["seconds"])
    report.write(
        "inverse",
        found,
        [0],
        options.output,
        samples=options.samples,
        draws=options.draws,
        evaluations=options.evaluations,
        passes=options.passes,
        training_steps=options.steps,
        noise=NOISE,
        deviation=DEVIATION,
    )


if __name__ == "__main__":
    main()
