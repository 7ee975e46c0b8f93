"""Privacy metrics: whether generated rows copy training rows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from beeline.core.protocols.data import Better
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.metrics.pairs import closest, features
from beeline.data.tables.schema import Identifier, Schema


@dataclass(frozen=True, eq=False)
class ClosestRecord:
    """Privacy: fraction of generated rows that are closer to training rows than to as many held-out rows, minus 1/2.

    |P(min |y - train| < min |y - holdout|) - 1/2|, ties counted half; 0 if nothing is copied
    Assumes that ``real`` are the training rows and the holdout has the same distribution; the larger is truncated.
    Source: Platzer and Reutterer 2021 (arXiv 2104.00635).
    """

    holdout: Any  # data frame of real rows that were not trained on
    name: ClassVar[str] = "closest record error"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        return abs(self.share(schema, real, made, rng) - 0.5)

    def share(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        """The fraction: near 1 for copies of training rows, near 0 for copies of the holdout."""
        every = pandas().concat([real, self.holdout])
        train, hold = (features(schema, every, part)[1] for part in (real, self.holdout))
        rows = features(schema, every, made)[1]
        n = min(len(train), len(hold))
        train = train[rng.fork("train").permutation(len(train)).numpy()[:n]]
        hold = hold[rng.fork("holdout").permutation(len(hold)).numpy()[:n]]
        a, b = closest(rows, train), closest(rows, hold)
        same = np.isclose(a, b, rtol=1e-6, atol=1e-7)
        return float(((a < b) & ~same).mean() + same.mean() / 2)


@dataclass(frozen=True)
class Duplicates:
    """Fraction of generated rows that occur in the real table.

    P(y in real)
    A table of few levels has duplicates by chance; compare the real-vs-real baseline.

    >>> import pandas as pd
    >>> from beeline.data.tables.schema import Number
    >>> frame = pd.DataFrame({"a": [1, 2]})
    >>> Duplicates()(Schema((Number("a"),)), frame, pd.DataFrame({"a": [2, 3]}), Rng(0))
    0.5
    """

    name: ClassVar[str] = "duplicates"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        names = [c.name for c in schema.columns if not isinstance(c, Identifier)]
        known = set(real[names].astype(str).itertuples(index=False, name=None))
        return float(np.mean([row in known for row in made[names].astype(str).itertuples(index=False, name=None)]))
