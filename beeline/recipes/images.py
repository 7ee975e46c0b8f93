"""Recipes for images."""

from __future__ import annotations

from dataclasses import replace

from beeline.data.image_files import Digits, ImageFile
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.latents.encoding import Latents
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def digits() -> Run:
    """The 8x8 handwritten digits of scikit-learn, conditioned on the label; about a minute on a laptop.

    >>> digits().training.batch_size
    128
    """
    return Run(
        data=Digits(),
        network={"is": "networks.MLP", "width": 256, "depth": 4, "dropout": 0.1},
        objective=FlowMatching(drop=Drop(0.1, null=10)),
        training=Training(steps=4000, batch_size=128, lr=WarmupConstantCooldown(peak=2e-3, warmup=100, cooldown=0.4)),
        sampler=Sampler(16),
    )


def mnist(path: str = "mnist.npz") -> Run:
    """MNIST from its .npz file (x_train, y_train, x_test, y_test), conditioned on the label, with a small U-Net.

    Source: LeCun, Cortes and Burges, the MNIST database.

    >>> mnist().data.path
    'mnist.npz'
    """
    return Run(
        data=ImageFile(path),
        network={"is": "networks.UNet", "width": 32},
        objective=FlowMatching(drop=Drop(0.1, null=10)),
        training=Training(steps=10_000, batch_size=128, lr=WarmupConstantCooldown(peak=1e-3, warmup=200)),
        sampler=Sampler(20),
    )


def latents(path: str = "latents") -> Run:
    """Latents of images that ``beeline encode`` has written, with a U-Net.

    >>> latents("photos-latents").data.path
    'photos-latents'
    """
    return replace(images(path), data=Latents(path))


def images(path: str = "images") -> Run:
    """Images of a folder, Parquet or .npz file, with or without labels, with a U-Net.

    >>> images("photos").data.path
    'photos'
    """
    return Run(
        data=ImageFile(path),
        network={"is": "networks.UNet", "width": 64, "multipliers": [1, 2, 2, 2], "blocks": 2},
        objective=FlowMatching(drop=Drop(0.1)),  # of labels, if there are any
        training=Training(steps=50_000, batch_size=64, lr=WarmupConstantCooldown(peak=3e-4, warmup=1000)),
        sampler=Sampler(25),
    )
