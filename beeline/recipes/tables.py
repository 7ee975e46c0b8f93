"""Recipes for tables."""

from __future__ import annotations

from beeline.data.tables.files import TableFile
from beeline.objectives.tables import RowMatching
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import AdamsBashforth
from beeline.training.config import Training
from beeline.training.early_stopping import EarlyStopping
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def table(path: str = "table.csv") -> Run:
    """Rows of a CSV or Parquet file with columns of any kind, which sampling can condition on.

    Source: Zhang et al. 2025, "RecTable" (arXiv 2503.20731), with the changes measured in docs/tables.md.

    >>> table("adult.csv").data.path
    'adult.csv'
    """
    lr = WarmupConstantCooldown(peak=1.5e-3, warmup=200, cooldown=0.3)
    return Run(
        data=TableFile(path),
        network={"is": "networks.TabularMLP", "half": None},  # size by the number of rows
        objective=RowMatching(),
        training=Training(
            steps=4000, batch_size=1024, lr=lr, ema=EMA(250.0, 0.05), early_stopping=EarlyStopping(5, every=200)
        ),
        sampler=Sampler(16, solver=AdamsBashforth(2)),
    )
