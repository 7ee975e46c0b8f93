"""Recipes from one data set to another."""

from __future__ import annotations

from beeline.couplings.basic import MinibatchOT
from beeline.data.distributions.mixtures import GaussianMixture, TwoMoons
from beeline.data.image_files import Digits, ImageFile
from beeline.data.point_files import DistributionData
from beeline.data.translation import PairedDataset
from beeline.objectives.coupled import Augmented
from beeline.objectives.editing.instructed import Instructed
from beeline.objectives.editing.pairs import Inverted, Mirrored, Pasted, Shifted
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def transfer() -> Run:
    """Two moons to eight Gaussians: unpaired translation by optimal transport.

    Source: Tong et al. 2024 (arXiv 2302.00482).

    >>> transfer().data.aligned
    False
    """
    return Run(
        data=PairedDataset(DistributionData(TwoMoons()), DistributionData(GaussianMixture.ring())),
        network={"is": "networks.MLP", "width": 128, "depth": 3},
        objective=FlowMatching(coupling=MinibatchOT()),
        training=Training(steps=3000, batch_size=256, lr=WarmupConstantCooldown(peak=2e-3, warmup=50)),
        sampler=Sampler(20),
    )


def translation(source: str = "before", target: str = "after") -> Run:
    """Paired image translation between two folders, paired by the order of file names.

    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> translation("maps", "photos").data.target.path
    'photos'
    """
    return Run(
        data=PairedDataset(ImageFile(source), ImageFile(target), aligned=True),
        network={"is": "networks.UNet", "width": 64, "multipliers": [1, 2, 2, 2], "blocks": 2},
        objective=Augmented(),
        training=Training(steps=50_000, batch_size=64, lr=WarmupConstantCooldown(peak=3e-4, warmup=1000)),
        sampler=Sampler(25),
    )


def editor() -> Run:
    """An editor of the digits: it inverts, moves, mirrors and pastes the left half of another digit, and generates.

    The operations are those of the objective, by number; edit by ``TrainedEditor(k)``.  About a minute on a laptop.
    Source: Brooks et al. 2023 (arXiv 2211.09800).

    >>> len(editor().objective.operations)
    4
    """
    operations = (Inverted(), Shifted(right=2), Mirrored(), Pasted(((1.0,) * 4 + (0.0,) * 4,)))
    return Run(
        data=Digits(),
        network={"is": "networks.MLP", "width": 256, "depth": 4},
        objective=Instructed(operations, objective=FlowMatching(drop=Drop(0.1, null={"label": 10}))),
        training=Training(steps=4000, batch_size=128, lr=WarmupConstantCooldown(peak=2e-3, warmup=100, cooldown=0.4)),
        sampler=Sampler(16),
    )
