"""Recipes for sequences of symbols."""

from __future__ import annotations

from beeline.data.sequence_files import MarkovChain, SequenceFile
from beeline.objectives.classify import Classify
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def sequences(path: str = "") -> Run:
    """Sequences of a text file, one per line, or of a Markov chain without a file, by a classifier of every symbol.

    Source: Stark et al. 2024 (arXiv 2402.05841).

    >>> sequences().data.length, sequences("peptides.txt").data.path
    (8, 'peptides.txt')
    """
    return Run(
        data=SequenceFile(path) if path else MarkovChain(),
        network={"is": "networks.MLP", "width": 256, "depth": 3},
        objective=Classify(),
        training=Training(steps=3000, batch_size=256, lr=WarmupConstantCooldown(peak=2e-3, warmup=50)),
        sampler=Sampler(20),
    )
