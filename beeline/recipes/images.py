"""Recipes for images."""

from __future__ import annotations

from dataclasses import replace

from beeline.data.described.descriptions import TEXT
from beeline.data.described.hub_text import HubText
from beeline.data.image_files import Digits, ImageFile
from beeline.objectives.alignment import Noted
from beeline.objectives.matching import Drop, FlowMatching
from beeline.objectives.regression import Reconstruction
from beeline.runs.latents.encoding import Latents
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown

FROM_TEXT = {"is": "networks.MMDiT", "patch": 2, "width": 256, "depth": 6, "heads": 8}
CLIP = "hub:openai/clip-vit-large-patch14"  # the text encoder where none is given


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


def captions(path: str = "captions", encoder: str = CLIP) -> Run:
    """Images of a folder with captions, conditioned on the text by a frozen text encoder, with a transformer.

    ``encoder`` is a folder or hub:owner/name.  Captions are text files beside the images, or a column of metadata.csv
    or metadata.jsonl.
    Source: Esser et al. 2024 (arXiv 2403.03206).

    >>> captions("photos").data.conditions["text"].length
    77
    """
    return replace(images(path), data=ImageFile(path, conditions={TEXT: HubText(encoder)}), network=FROM_TEXT)


def autoencoder(path: str = "images") -> Run:
    """A small variational autoencoder of images, for ``beeline encode``: set data.path, and data.resize if needed.

    The network has four levels less one, so that latents have an eighth of the sides.  A perceptual term is one of the
    distance: Combined((squared, Perceptual(HubVision(...))), (one, one)); network.variational=false with
    objective=Reconstruction() leaves the divergence out.
    Source: Rombach et al. 2022 (arXiv 2112.10752).

    >>> autoencoder("photos").objective.weights
    {'kl': 1e-06}
    """
    return replace(
        images(path),
        network={"is": "networks.Autoencoder", "width": 64, "multipliers": [1, 2, 4, 4]},
        objective=Noted(Reconstruction(), {"kl": 1e-6}),
        training=Training(steps=20_000, batch_size=32, lr=WarmupConstantCooldown(peak=3e-4, warmup=500)),
        sampler=Sampler(1, solver=EULER),  # one step: the reconstruction of noise
    )


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
