"""Ablation: quality at 2, 4, 8 and 32 evaluations of choices in training, at equal training cost.

    python -m benchmarks.ablation                       the ring of eight Gaussians
    python -m benchmarks.ablation --mnist mnist.npz     MNIST, unconditional

Every choice changes one component of plain flow matching.  Training cost is counted in network passes, including those
that generate reflow pairs, and is the same for all choices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.students import Reflow
from beeline.evaluation.features import SmallClassifier
from beeline.evaluation.metrics import Frechet
from beeline.fields.prediction import Boundary
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import report
from benchmarks.claims.toys import w2

EVALUATIONS = (2, 4, 8, 32)
FM = bl.objectives.FlowMatching


@dataclass(frozen=True)
class Choice:
    """One change to plain flow matching."""

    objective: Any = field(default_factory=FM)
    path: Any = field(default_factory=bl.paths.Linear)
    prediction: Any = None
    ema: Any = None
    passes: float = 1.0  # network passes of a step, in forward and backward passes
    reflow: bool = False  # half of the cost for a teacher, the rest for its pairs and the student


CHOICES: dict[str, Choice] = {
    "plain": Choice(),
    "logit-normal times": Choice(FM(times=bl.times.LogitNormal())),
    "stratified times": Choice(FM(times=bl.times.Stratified(bl.times.Uniform()))),
    "cosine path": Choice(FM(bl.paths.Cosine()), bl.paths.Cosine()),
    "error of the datum": Choice(FM(prediction=bl.predictions.Data())),
    "pseudo-Huber distance": Choice(FM(distance=bl.objectives.Huber(0.1))),
    "network gives the datum": Choice(prediction=bl.predictions.Data(0.02)),
    "boundary mask": Choice(prediction=Boundary()),
    "batch transport": Choice(FM(coupling=bl.couplings.MinibatchOT())),
    "entropic transport": Choice(FM(coupling=bl.couplings.Sinkhorn())),
    "immiscible": Choice(FM(coupling=bl.couplings.Immiscible())),
    "solver error penalty": Choice(bl.objectives.SmoothSteps(strength=0.1), passes=2.0),
    "averaged weights": Choice(ema=EMA()),
    "reflow": Choice(reflow=True),
    "transport, logit-normal, averaged": Choice(
        FM(coupling=bl.couplings.MinibatchOT(), times=bl.times.LogitNormal()), ema=EMA()
    ),
}


@dataclass(frozen=True)
class Task:
    """Data, a network, and a distance to the data."""

    data: Tensor
    network: Callable[[Any, Any], Any]  # (path, prediction) -> network
    distance: Callable[[Tensor], float]
    samples: int  # for one figure
    steps: int  # of plain training
    batch_size: int
    pairs: int  # of reflow


def ring(steps: int) -> Task:
    """Eight Gaussians on a circle; exact W2 distance to 1000 new samples."""
    target = GaussianMixture.ring()
    real = target.sample(1000, bl.Rng(1).fork("real"), dtype=torch.float32)
    data = target.sample(20_000, bl.Rng(1).fork("data"), dtype=torch.float32)
    net = lambda path, prediction: bl.Network(MLP(2, width=64, depth=3), path, prediction)  # noqa: E731
    return Task(data, net, lambda x: w2(x, real), 1000, steps, 256, 4000)


def mnist(path: Path, steps: int) -> Task:
    """MNIST; Frechet distance of 1000 samples in the features of a classifier trained on it."""
    with np.load(path) as arrays:
        pixels, labels = arrays["x_train"], arrays["y_train"]
    x = torch.from_numpy(pixels).float()[:, None] / 127.5 - 1
    order = bl.Rng(1).permutation(len(x))
    x, cond = x[order], {"label": torch.from_numpy(labels).long()[order]}
    features = SmallClassifier(steps=400).fit(x[:20_000], {"label": cond["label"][:20_000]})
    real, metric = x[20_000:24_000], Frechet(features)
    net = lambda p, prediction: bl.Network(UNet((1, 28, 28), width=16), p, prediction)  # noqa: E731
    return Task(x[24_000:], net, lambda made: metric(real, made, bl.Rng(0)), 1000, steps, 64, 1500)


def train(task: Task, choice: Choice, rng: bl.Rng) -> tuple[Any, float]:
    """The network, and the training cost in passes of a plain step."""
    with rng.fork("network").ambient():
        net = task.network(choice.path, choice.prediction)
    silent = lambda entry: None  # noqa: E731

    def run(net: Any, objective: Any, data: Any, steps: int, name: str) -> Any:
        training = Training(steps=steps, batch_size=task.batch_size, lr=WarmupCosine(2e-3, 50), ema=choice.ema)
        return fit(net, objective, data, training, rng=rng.fork(name), log=silent).eval()

    if not choice.reflow:
        steps = int(task.steps / choice.passes)
        return run(net, choice.objective, bl.Batch(task.data), steps, "fit"), steps * choice.passes
    # a forward pass costs a third of a training pass: pairs cost evaluations x pairs / batch_size / 3 steps
    evaluations = 16
    cost = evaluations * task.pairs / task.batch_size / 3
    half = int((task.steps - cost) / 2)
    teacher = bl.Flow(run(net, choice.objective, bl.Batch(task.data), half, "teacher"))
    reflow = Reflow(bl.Sampler(evaluations // 2), count=task.pairs)
    pairs = reflow.data(teacher, bl.Batch(task.data), rng.fork("pairs"))
    student = run(reflow.networks(teacher)["student"], reflow.objective(teacher), pairs, half, "student")
    return student, 2 * half + cost


def figures(task: Task, seeds: int, only: list[str] | None, made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``made``, updated by each choice: distance at every number of evaluations, and standard deviation over seeds."""
    for name in only or CHOICES:
        choice = CHOICES[name]
        rows, start = [], time.process_time()
        for seed in range(seeds):
            rng = bl.Rng(seed).fork("ablation")
            net, spent = train(task, choice, rng)
            x0 = rng.fork("x0").normal(task.data.new_empty(task.samples, *task.data.shape[1:]))
            with torch.no_grad():
                flow = bl.Flow(net, choice.path)
                samples = [bl.Sampler(n, solver=bl.solvers.EULER)(flow, x0) for n in EVALUATIONS]
            rows.append([task.distance(x) for x in samples])
        table = np.array(rows)
        made[name] = {
            "mean": [round(float(v), 4) for v in table.mean(0)],
            "deviation": [round(float(v), 4) for v in table.std(0, ddof=1)] if seeds > 1 else None,
            "passes": round(spent, 1),
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        print(f"{name:36s}", *(f"{v:9.3f}" for v in made[name]["mean"]), flush=True)
        yield made


def main() -> None:
    parser = report.parser("ablation", __doc__)
    parser.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as an .npz file; default: the ring")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings of each choice")
    parser.add_argument("--steps", type=int, nargs=2, default=(1500, 500), metavar=("RING", "MNIST"))
    parser.add_argument(
        "--only", nargs="*", choices=list(CHOICES), help="measure these choices and update them in the result file"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    task = ring(chosen.steps[0]) if chosen.mnist is None else mnist(chosen.mnist, chosen.steps[1])
    title, name = ("ring: W2", "ablation-ring") if chosen.mnist is None else ("mnist: Frechet", "ablation-mnist")
    out = chosen.output or report.RESULTS / f"{name}.json"
    settings = {"evaluations": list(EVALUATIONS), "steps": list(chosen.steps)}
    old = report.read(out) if chosen.only else {}
    known = old["figures"].get(title, {}) if old.get("settings") == settings else {}
    for made in figures(task, chosen.seeds, chosen.only, known):
        report.write(name, {title: made}, list(range(chosen.seeds)), out, **settings)


if __name__ == "__main__":
    main()
