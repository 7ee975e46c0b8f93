"""Recipes for tables."""

from __future__ import annotations

from beeline.core.multistep import AdamsBashforth
from beeline.data.tablefile import TableFile
from beeline.learn.early import Patience
from beeline.learn.ema import EMA
from beeline.learn.rate import WarmupConstantCooldown
from beeline.learn.rows import RowMatching
from beeline.learn.trainer import Training
from beeline.run import Run
from beeline.use.sampler import Sampler


def table(path: str = "table.csv") -> Run:
    """Rows of a CSV or Parquet file with columns of any kinds; any of them may be known when drawing.

    Source: Zhang et al. 2025, "RecTable" (arXiv 2503.20731), and what docs/tables.md measured to be better.

    >>> table("adult.csv").data.path
    'adult.csv'
    """
    rate = WarmupConstantCooldown(peak=1.5e-3, warmup=200, cooldown=0.3)
    return Run(
        data=TableFile(path),
        network={"is": "networks.TabularMLP", "half": None},  # its size by the number of rows
        objective=RowMatching(),
        training=Training(steps=4000, lot=1024, rate=rate, ema=EMA(250.0, 0.05), patience=Patience(5, every=200)),
        sampler=Sampler(16, solver=AdamsBashforth(2)),
    )
