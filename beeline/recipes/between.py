"""Recipes from one data set to another."""

from __future__ import annotations

from beeline.between import Between
from beeline.core.coupling import MinibatchOT
from beeline.data.imagefile import ImageFile
from beeline.data.laws import GaussianMixture, TwoMoons
from beeline.data.pointfile import LawData
from beeline.learn.augmented import Augmented
from beeline.learn.objective import FlowMatching
from beeline.learn.rate import WarmupConstantCooldown
from beeline.learn.trainer import Training
from beeline.run import Run
from beeline.use.sampler import Sampler


def transfer() -> Run:
    """Two moons into eight Gaussians: one domain into another, without pairs, along short ways.

    Source: Tong et al. 2024 (arXiv 2302.00482), whose figures show this transfer.

    >>> transfer().data.aligned
    False
    """
    return Run(
        data=Between(LawData(TwoMoons()), LawData(GaussianMixture.ring())),
        network={"is": "networks.MLP", "width": 128, "depth": 3},
        objective=FlowMatching(coupling=MinibatchOT()),
        training=Training(steps=3000, lot=256, rate=WarmupConstantCooldown(peak=2e-3, warmup=50)),
        sampler=Sampler(20),
    )


def translation(source: str = "before", target: str = "after") -> Run:
    """Pictures of one folder into those of another, of which each has its partner there, by the order of their names.

    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003); a place to start from.

    >>> translation("maps", "photos").data.target.path
    'photos'
    """
    return Run(
        data=Between(ImageFile(source), ImageFile(target), aligned=True),
        network={"is": "networks.UNet", "width": 64, "multipliers": [1, 2, 2, 2], "blocks": 2},
        objective=Augmented(),
        training=Training(steps=50_000, lot=64, rate=WarmupConstantCooldown(peak=3e-4, warmup=1000)),
        sampler=Sampler(25),
    )
