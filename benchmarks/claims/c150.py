"""The ring with overlapping classes, its exact field without labels, 50 Euler steps of classifier guidance on predicted
data, strength 1. The classifier is a small ReLU network, trained too long on 200 clean points, so that it is too sure.
W2 is the distance to data within the labels. The temperature is fitted on 1000 points, clean or predicted."""

from __future__ import annotations

import torch
from torch import nn

import beeline as bl
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.labels import Label, calibrated, calibration_error, softened
from benchmarks.claims.labelled import labelled_w2
from benchmarks.claims.toys import CLASSES, even, finding, noise, points, sample
from benchmarks.claims.verdict import Finding

METHOD = "Classifier guidance with calibration"
CLAIM = "An off-the-shelf classifier guides better once it is calibrated and its activations are smooth."
UNLABELLED = bl.distributions.GaussianMixture(CLASSES.means, 0.6)


def classifier(rng: bl.Rng) -> nn.Module:
    """A classifier that knows 200 points by heart."""
    data = points(rng.fork("few"), CLASSES, 200)
    with rng.fork("classifier").ambient():
        net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(1500):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(data.x1), data.cond["label"]))
        optimizer.step()
    return net.eval()


def measure(rng: bl.Rng) -> list[Finding]:
    net, x0 = classifier(rng), noise(rng)
    real, label = even(CLASSES, rng)
    field, held = UNLABELLED.field(), points(rng.fork("held"), CLASSES, 1000)
    truth = held.cond["label"]
    t = rng.fork("at").uniform(1000, held.x1)
    x = bl.paths.Linear().point(rng.fork("from").normal(held.x1), held.x1, t).x
    predicted = bl.paths.Linear().data(x, field(x, t), t)
    raw = Label(net)
    clean, blurred = calibrated(raw, held.x1, truth), calibrated(raw, predicted, truth)
    smooth = calibrated(Label(softened(net)), predicted, truth)

    def distance(energy: Label, strength: float = 1.0) -> float:
        guided = (EnergyGuidance(energy, strength, damped=False),)
        made = sample(lambda x, t, cond=None: field(x, t), x0, 50, {"label": label}, controllers=guided)
        return labelled_w2(made, real, label)

    first, before, after = distance(raw, 0.0), distance(raw), distance(blurred)
    trivial = "no guidance"
    return [
        finding("calibration error on predicted data: calibrated (figure) against not",
                calibration_error(raw, predicted, truth), calibration_error(blurred, predicted, truth), 1.0,
                "always wrong"),
        finding("W2: calibrated on clean data (figure) against not", before, distance(clean), first, trivial),
        finding("W2: calibrated on predicted data (figure) against not", before, after, first, trivial),
        finding("W2: calibrated and smooth (figure) against calibrated", after, distance(smooth), first, trivial),
    ]  # fmt: skip
