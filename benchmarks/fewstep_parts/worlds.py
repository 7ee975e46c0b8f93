"""The worlds of the few-step benchmark: a teacher, its data, fixed noise, and the scores of samples."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import beeline as bl
from beeline.core.errors import require
from beeline.core.files import replacing
from beeline.core.modes import device_of
from beeline.core.types import Cond, take
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.evaluation.features import SmallClassifier
from beeline.evaluation.metrics import Energy, Frechet
from beeline.evaluation.neighbours import Coverage, Recall
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.solvers.runge_kutta import HEUN, RK4
from beeline.training import checkpoint
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine

FINE = 32  # Heun steps of the teacher for the ends that pairings are measured by
CHUNK = 500  # samples at a time


@dataclass(frozen=True)
class Size:
    """How long a world is trained, and how it is measured."""

    teacher_steps: int
    batch: int
    lr: float  # peak, of teacher and students
    budget: int  # passes of networks for a student, with its pairs
    samples: int  # for every figure
    classifier: int = 1500  # training steps of the classifier of images
    features: int = 64  # of the classifier


@dataclass(frozen=True, eq=False)
class World:
    """One teacher and all that its students are trained on and measured by; tensors are on the CPU."""

    name: str
    size: Size
    teacher: bl.Flow
    data: bl.Batch
    x0: Tensor  # fixed noise [N,*S]
    cond: Cond
    ends: Tensor  # of the fixed noise, by the teacher in fine steps
    score: Callable[[Tensor], dict[str, float]]
    half: Callable[[], nn.Module]  # a new network of half the width

    def narrow(self, rng: bl.Rng) -> nn.Module:
        """A new network of half the width of the teacher's."""
        with rng.fork("narrow").ambient():
            return self.half()

    @property
    def described(self) -> dict[str, float]:
        """What the figures of a student depend on."""
        return {"batch": self.size.batch, "budget": self.size.budget, "samples": self.size.samples}

    def pairing(self, made: Tensor) -> float:
        """RMSE of samples to the teacher's ends of their noise, over that to the ends of other noise."""
        other = torch.roll(self.ends, 1, 0)
        if isinstance(self.cond, Mapping):  # among those with the same label
            other = self.ends.clone()
            labels = self.cond["label"]
            assert isinstance(labels, Tensor)
            for label in labels.unique():
                rows = torch.nonzero(labels == label)[:, 0]
                other[rows] = self.ends[rows.roll(1)]
        return _rmse(made, self.ends) / _rmse(made, other)

    def sample(self, sampler: bl.Sampler, flow: bl.Flow) -> Tensor:
        """Samples of the fixed noise."""
        return ends_of(sampler, flow, self.x0, self.cond)

    def figures(self, made: Tensor) -> dict[str, Any]:
        """Quality, diversity and pairing of samples of the fixed noise; no figures where a sample is not finite."""
        if not bool(torch.isfinite(made).all()):
            return {"refused": "samples are not finite"}
        found = {**self.score(made), "pairing": self.pairing(made)}
        return {name: float(f"{value:.5g}") for name, value in found.items()}


def ends_of(sampler: bl.Sampler, flow: bl.Flow, x0: Tensor, cond: Cond) -> Tensor:
    """The ends of noise on the CPU, computed on the device of the flow."""
    parts = [torch.arange(len(x0))[i : i + CHUNK] for i in range(0, len(x0), CHUNK)]
    device = device_of(flow) or x0.device
    return torch.cat([sampler(flow, x0[p].to(device), take(bl.Batch(x0, cond=cond), p).cond).cpu() for p in parts])


def _rmse(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().square().flatten(1).sum(1).mean().sqrt())


RING = Size(teacher_steps=5000, batch=256, lr=1e-3, budget=800_000, samples=4000)
MODES, SPREAD = GaussianMixture.ring(8, 2.0, 0.15), 0.15


def ring(seed: int, folder: Path, size: Size = RING, device: str = "cpu") -> World:
    """Eight modes on a ring, known exactly, and a network that has learned their flow."""
    rng = bl.Rng(seed).fork("law")
    data = MODES.batch(20_000, rng.fork("data"), dtype=torch.float32)

    def network(width: int = 128) -> nn.Module:
        return bl.Network(MLP(2, width=width))

    teacher = _teacher(folder / f"teacher-{seed}", network, data, size, rng, 0.0, device)
    x0 = rng.fork("noise").normal(torch.empty(size.samples, 2))
    exact = ends_of(bl.Sampler(60, solver=RK4), bl.Flow(MODES.field()), x0.double(), None).float()
    real = MODES.sample(size.samples, rng.fork("real")).float()
    means = torch.tensor(MODES.means)

    def score(made: Tensor) -> dict[str, float]:
        distance, mode = torch.cdist(made, means).min(1)
        on = distance < 4 * SPREAD
        counts = torch.bincount(mode[on], minlength=len(means))
        return {
            "distance": Energy()(real, made, rng),
            "exact": _rmse(made, exact),
            "on_modes": float(on.double().mean()),
            "modes": float((counts > 0.5 * len(made) / len(means)).double().mean()),
            **_diversity(real.double(), made.double()),
        }

    ends = _ends(folder / f"ends-{seed}-{size.samples}-{FINE}.npy", teacher, x0, None)
    return World("ring", size, teacher, data, x0, None, ends, score, lambda: network(64))


MNIST = Size(teacher_steps=3600, batch=64, lr=2e-3, budget=150_000, samples=1000)
LONG = replace(MNIST, budget=1_200_000, samples=10_000)  # about 15 minutes of two processor cores for a student
DIGITS = Size(teacher_steps=1000, batch=64, lr=2e-3, budget=100_000, samples=360)
CIFAR = Size(teacher_steps=3600, batch=64, lr=2e-3, budget=150_000, samples=1000)


@dataclass(frozen=True)
class Pictures:
    """Images in [-1, 1] with labels, for training and for testing."""

    x: Tensor
    label: Tensor
    test: Tensor
    test_label: Tensor


def images(name: str, pictures: Pictures, seed: int, folder: Path, size: Size, device: str = "cpu") -> World:
    """A small conditional transformer on images, and a classifier of the training set for the distance."""
    rng, shape = bl.Rng(0), tuple(pictures.x.shape[1:])
    patch = shape[-1] // 7 if shape[-1] % 7 == 0 else shape[-1] // 4

    def network(width: int = 64) -> nn.Module:
        conditions = {"label": {"classes": 10}}
        net = DiT(shape, patch=patch, width=width, depth=4, heads=4, conditions=conditions, scale=30.0)
        return bl.Network(net)

    data = bl.Batch(pictures.x, cond={"label": pictures.label})
    teacher = _teacher(folder / "teacher", network, data, size, rng, 0.1, device)
    features = SmallClassifier(steps=size.classifier, size=size.features).fit(data.x1, data.cond, cache=folder)
    x0 = bl.Rng(seed).fork(name, "noise").normal(torch.empty(size.samples, *shape))
    cond = {"label": torch.arange(size.samples) % 10}
    real = features(pictures.test)

    def score(made: Tensor) -> dict[str, float]:
        agreement = (features.classify(made) == cond["label"]).double().mean()
        seen = features(made)
        found = {"distance": Frechet().compare(real, seen, rng), "agreement": float(agreement)}
        return {**found, **_diversity(real[: size.samples], seen)}

    ends = _ends(folder / f"ends-{seed}-{size.samples}-{FINE}.npy", teacher, x0, cond)
    return World(name, size, teacher, data, x0, cond, ends, score, lambda: network(32))


def mnist(path: Path) -> Pictures:
    """MNIST from an .npz file with x_train, y_train, x_test and y_test."""
    require(
        path.exists(),
        f"the file {path} of MNIST does not exist; give --mnist the .npz file with x_train, y_train, x_test and y_test",
    )
    with np.load(path) as arrays:
        x, test = (torch.as_tensor(arrays[name]).float()[:, None] / 127.5 - 1 for name in ("x_train", "x_test"))
        label, test_label = (torch.as_tensor(arrays[name]).long() for name in ("y_train", "y_test"))
    return Pictures(x, label, test, test_label)


def cifar10(folder: Path, side: int = 14) -> Pictures:
    """CIFAR-10 from parquet files, in grey and reduced to ``side`` pixels."""
    parts = []
    for part in ("train", "test"):
        files = sorted(folder.glob(f"{part}-*.parquet"))
        require(files, f"the folder {folder} has no {part}-*.parquet; give --cifar10 the folder with both parts")
        parts.append(_parquet(files, side))
    return Pictures(*parts[0], *parts[1])


def digits() -> Pictures:
    """The small digits of scikit-learn, for tests."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, label = torch.as_tensor(found.images).float()[:, None] / 8 - 1, torch.as_tensor(found.target).long()
    return Pictures(x[:1400], label[:1400], x[1400:], label[1400:])


def _parquet(files: list[Path], side: int) -> tuple[Tensor, Tensor]:
    import pandas as pd
    from PIL import Image

    frame = pd.concat([pd.read_parquet(file) for file in files])
    column = next(name for name in ("img", "image") if name in frame)
    grey = [Image.open(io.BytesIO(cell["bytes"])).convert("L").resize((side, side)) for cell in frame[column]]
    x = torch.stack([torch.as_tensor(np.asarray(one)) for one in grey]).float()[:, None] / 127.5 - 1
    return x, torch.as_tensor(frame["label"].to_numpy()).long()


def _teacher(
    folder: Path, network: Callable[[], nn.Module], data: bl.Batch, size: Size, rng: bl.Rng, drop: float, device: str
) -> bl.Flow:
    """The teacher from ``folder``, or trained and saved there; a stopped training continues."""
    if (folder / "flow.json").exists():
        return bl.load(folder, device=device).flow
    with rng.fork("teacher").ambient():
        net = network()
    training = bl.Training(steps=size.teacher_steps, batch_size=size.batch, lr=WarmupCosine(size.lr, 100), ema=EMA())
    places = folder.parent / f"{folder.name}-checkpoints"
    net = bl.fit(
        net,
        bl.objectives.FlowMatching(drop=bl.Drop(drop)),
        data,
        training,
        rng=rng.fork("training"),
        checkpoint_dir=places,
        resume=places if checkpoint.steps(places) else None,
        device=device,
    )
    null = {"label": 10} if drop else {}
    bl.Bundle(bl.Flow(net, null=null), bl.Sampler(FINE)).save(folder)
    return bl.load(folder, device=device).flow


def _ends(file: Path, teacher: bl.Flow, x0: Tensor, cond: Cond) -> Tensor:
    """The ends of the teacher in fine steps, from the file if it is there."""
    if not file.exists():
        ends = ends_of(bl.Sampler(FINE, solver=HEUN), teacher, x0, cond).numpy()
        with replacing(file) as draft, draft.open("wb") as opened:
            np.save(opened, ends)
    return torch.as_tensor(np.load(file))


def _diversity(real: Tensor, made: Tensor) -> dict[str, float]:
    """Recall and coverage of features [N,d]."""
    rng = bl.Rng(0)
    return {"recall": Recall().compare(real, made, rng), "coverage": Coverage().compare(real, made, rng)}
