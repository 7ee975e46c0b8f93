"""Guidance on MNIST at 16 evaluations: agreement with the label against distance, for all pairs of reference and rule.

    python -m benchmarks.guidance [--mnist mnist.npz] [--models DIR] [--samples 500] [--only REFERENCE ...]

Without --mnist the digits of scikit-learn are used.  A conditional DiT and a smaller one with a quarter of the training
steps are trained once and stored in DIR.  Agreement is the share of samples that a classifier gives the label
of their condition; distance is the Frechet distance in its features, over that of the conditional model without
guidance at 16 evaluations.  Every pair has the steps of Euler's method that 16 evaluations allow.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import beeline as bl
from beeline.core.protocols.flows import Reference, Rule
from beeline.evaluation.features import SmallClassifier, Trained
from beeline.evaluation.metrics import Frechet
from beeline.networks.dit import DiT
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Extrapolate, Guide, Plain, Unconditional, Weak
from beeline.sampling.guidance.references.attention import PerturbedAttention, SmoothedAttention
from beeline.sampling.guidance.references.history import History
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.references.random_condition import RandomCondition
from beeline.sampling.guidance.references.skipped_layers import SkippedLayers
from beeline.sampling.guidance.rules.frequencies import PerFrequency
from beeline.sampling.guidance.rules.norms import NormRestored, PerRow
from beeline.sampling.guidance.rules.projections import Projected, Rescaled, ZeroStar
from beeline.sampling.guidance.rules.scales import OverTime, RaisedCosine, Rising
from beeline.sampling.guidance.rules.steps import CFGPlusPlus
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import report

EVALUATIONS = 16
WINDOWS = {"unconditional": ((0.0, 1.0), (0.15, 0.8)), "weak network": ((0.0, 1.0), (0.15, 0.8))}  # others: the run


@dataclass(frozen=True)
class Data:
    """Images in [-1, 1] and labels for the flows, and those on which the classifier and the distance rest."""

    x: Tensor
    label: Tensor
    real: Tensor
    real_label: Tensor


def digits(path: Path | None) -> Data:
    """MNIST, with a third of the training images for the classifier; or the digits of scikit-learn."""
    if path is None:
        from sklearn.datasets import load_digits

        found = load_digits()
        x, label, part = torch.as_tensor(found.images).float()[:, None] / 8 - 1, torch.as_tensor(found.target), 600
    else:
        with np.load(path) as arrays:
            x = torch.as_tensor(arrays["x_train"]).float()[:, None] / 127.5 - 1
            label, part = torch.as_tensor(arrays["y_train"]), 20_000
    order = bl.Rng(1).permutation(len(x))
    x, label = x[order], label[order].long()
    return Data(x[part:], label[part:], x[:part], label[:part])


def trained(data: Data, folder: Path, width: int, depth: int, steps: int) -> Bundle:
    """A conditional flow, from ``folder`` if it is there."""
    if (folder / "bundle.json").exists() or any(folder.glob("*.safetensors")):
        return bl.load(folder, device="cpu")
    with bl.Rng(0).fork("network", width).ambient():
        conditions = {"label": {"classes": 10}}
        net = bl.Network(
            DiT(tuple(data.x.shape[1:]), patch=data.x.shape[-1] // 7, width=width, depth=depth, conditions=conditions)
        )
    objective = bl.objectives.FlowMatching(drop=bl.Drop(0.1))
    training = Training(steps=steps, batch_size=64, lr=WarmupCosine(2e-3, 100), ema=EMA())
    net = fit(net, objective, bl.Batch(data.x, cond={"label": data.label}), training, rng=bl.Rng(0))
    bundle = Bundle(bl.Flow(net, null={"label": 10}), bl.Sampler(EVALUATIONS))
    bundle.save(folder)
    return bundle


def references(weak: Bundle) -> Mapping[str, Reference]:
    return {
        "unconditional": Unconditional(),
        "weak network": Weak(weak.flow.field),
        "random condition": RandomCondition(),
        "perturbed time": PerturbedTime(0.2),
        "skipped block": SkippedLayers(),
        "perturbed attention": PerturbedAttention(),
        "smoothed attention": SmoothedAttention(),
        "earlier prediction": History(),
    }


def rules(scale: float) -> Mapping[str, Rule]:
    return {
        "extrapolation": Extrapolate(scale),
        "rising": OverTime(scale, Rising()),
        "raised cosine": OverTime(scale, RaisedCosine()),
        "CFG++": CFGPlusPlus(scale / 3),
        "optimised scale": ZeroStar(scale),
        "projected": Projected(scale),
        "norm restored": NormRestored(scale, PerRow()),
        "rescaled": Rescaled(Extrapolate(scale)),
        "half for low frequencies": PerFrequency(((1 + scale) / 2, scale)),
    }


def sampler(guidance: Any, solver: Any = EULER) -> bl.Sampler:
    """The sampler with the most steps that ``EVALUATIONS`` allow."""
    fitting = [bl.Sampler(n, solver=solver, guidance=guidance) for n in range(1, EVALUATIONS + 1)]
    return [one for one in fitting if one.evaluations is not None and one.evaluations <= EVALUATIONS][-1]


class Measured:
    """Figures of samplers on the same noise and labels."""

    def __init__(self, data: Data, bundle: Bundle, features: Trained, count: int):
        self.bundle, self.features, self.real = bundle, features, data.real
        self.label = torch.arange(count) % 10
        self.x0 = bl.Rng(2).normal(torch.empty(count, *data.x.shape[1:]))
        self.metric = Frechet(features)
        self.base = 1.0

    def __call__(self, how: bl.Sampler) -> dict[str, Any]:
        start, parts = time.process_time(), []
        for rows in torch.arange(len(self.x0)).split(250):
            parts.append(how(self.bundle.flow, self.x0[rows], {"label": self.label[rows]}))
        made = torch.cat(parts)
        agreement = float((self.features.classify(made).cpu() == self.label).double().mean())
        distance = self.metric(self.real, made, bl.Rng(0)) / self.base
        return {
            "steps": how.steps,
            "evaluations": how.evaluations,
            "agreement": round(agreement, 4),
            "distance": round(distance, 4),
            "cpu_seconds": round(time.process_time() - start, 2),
        }


def main() -> None:
    parser = report.parser("guidance", __doc__)
    parser.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as an .npz file; default: small digits")
    parser.add_argument("--models", type=Path, default=Path("models/guidance"), metavar="DIR", help="trained flows")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of the larger flow")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--scales", type=float, nargs="+", default=[2.5])
    parser.add_argument("--only", nargs="*", metavar="REFERENCE", help="measure these and update the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits(options.mnist)
    strong = trained(data, options.models / "strong", 96, 5, options.steps)
    weak = trained(data, options.models / "weak", 48, 2, options.steps // 4)
    features = SmallClassifier(steps=1500 if options.mnist else 600).fit(
        data.real, {"label": data.real_label}, cache=options.models
    )
    measured = Measured(data, strong, features, options.samples)
    settings = {"data": "MNIST" if options.mnist else "scikit-learn digits", "steps": options.steps}
    settings |= {"samples": options.samples, "evaluations": EVALUATIONS, "scales": options.scales}
    out = options.output or report.RESULTS / "guidance.json"
    found: dict[str, Any] = report.read(out)["figures"] if options.only and out.exists() else {}

    unguided = measured(sampler(Plain()))
    measured.base = unguided["distance"]
    heun = measured(sampler(Plain(), HEUN))
    found["no guidance"] = {"absolute_distance": measured.base, "Euler": unguided | {"distance": 1.0}, "Heun": heun}
    real = measured.features.classify(data.x[:2000]).cpu() == data.label[:2000]
    found["held-out images"] = {"agreement": round(float(real.double().mean()), 4)}
    for name, reference in references(weak).items():
        if options.only and name not in options.only:
            continue
        rows = []
        for scale in options.scales:
            for rule_name, rule in rules(scale).items():
                for window in WINDOWS.get(name, ((0.0, 1.0),)):
                    figures = measured(sampler(Guide(reference, rule, window)))
                    rows.append({"rule": rule_name, "scale": scale, "window": list(window), **figures})
                    print(f"{name:16s} {rule_name:16s} {scale:4g} {window!s:12s} {figures}", flush=True)
        found[name] = rows
        report.write("guidance", found, [0, 1, 2], out, **settings)


if __name__ == "__main__":
    main()
