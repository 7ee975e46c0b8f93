"""Metrics of generated tables against real ones, on data frames."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar

import numpy as np
from torch import Tensor

from beeline.core.errors import extra, require
from beeline.core.protocols.data import Better, TableMetric
from beeline.core.ranges import Count, Range, dataclass
from beeline.core.rng import Rng
from beeline.data.metric import MetricBase
from beeline.data.tables.codec import columns as cells
from beeline.data.tables.codec.codes import Array
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.metrics.pairs import (
    bins,
    closest,
    columns_of,
    correlation,
    features,
    numbers_of,
    ordinal,
    variation,
)
from beeline.data.tables.metrics.privacy import Duplicates
from beeline.data.tables.rules import holds
from beeline.data.tables.schema import Boolean, Category, Constant, Datetime, Identifier, Number, Schema


@dataclass(frozen=True)
class OnTable(MetricBase):
    """A table metric as a metric of coordinates, which are decoded first.

    value = metric(schema, decode(x), decode(y))
    Assumes a fitted table.
    """

    metric: Any  # a TableMetric
    table: Any  # the fitted Table
    resampled: ClassVar[bool] = False  # table metrics are too slow for the replicates of an interval

    @property
    def name(self) -> str:
        return str(self.metric.name)

    @property
    def better(self) -> Better:
        found: Better = self.metric.better
        return found

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float:
        return float(self.metric(self.table.columns, self.table.decode(real), self.table.decode(made), rng))


@dataclass(frozen=True)
class ShapeError:
    """Mean distance between the marginal distributions of columns.

    mean over columns of sup |F - G| for numbers and dates, of sum |p - q| / 2 for categories; an empty cell is a
    value of its own, above all numbers
    Without empty cells in numbers it is 1 minus the "Column Shapes" score of sdmetrics, which leaves them out.
    Source: Kolmogorov and Smirnov; SDMetrics (DataCebo), Quality Report.

    >>> import pandas as pd
    >>> ShapeError()(Schema((Category("c", levels=("a", "b")),)), pd.DataFrame({"c": ["a", "b"]}),
    ...              pd.DataFrame({"c": ["a", "a"]}), Rng(0))
    0.5
    """

    name: ClassVar[str] = "shape error"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        return float(np.mean(list(self.each(schema, real, made).values())))

    def each(self, schema: Schema, real: Any, made: Any) -> dict[str, float]:
        """The error of every column."""
        found = {}
        for name, (a, b, continuous) in columns_of(schema, real, made).items():
            if continuous:
                at = np.concatenate([a, b])
                at = at[~np.isnan(at)]
                # sort() puts NaN last, so that empty cells are above every number
                share = [np.searchsorted(np.sort(part), at, "right") / len(part) for part in (a, b)]
                found[name] = float(np.abs(share[0] - share[1]).max(initial=0.0))
            else:
                found[name] = variation(a, b)
        return found


@dataclass(frozen=True)
class MissingError:
    """Mean difference of the frequencies of empty cells.

    mean over columns of |P(empty, real) - P(empty, generated)|
    Assumes cells that pandas reads as missing, or the na_token that stands for them in the schema.
    Source: SDMetrics (DataCebo), "Missing Value Similarity", of which it is 1 minus the mean.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"a": [1.0, None]})
    >>> MissingError()(Schema((Number("a", missing=True),)), frame, frame.fillna(0), Rng(0))
    0.5
    """

    name: ClassVar[str] = "missing rate error"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        return float(np.mean(list(self.each(schema, real, made).values())))

    def each(self, schema: Schema, real: Any, made: Any) -> dict[str, float]:
        """The difference of every column."""

        def rate(column: Any, frame: Any) -> float:
            return float(cells.full_cells(column, frame[column.name])[1].mean())

        return {c.name: abs(rate(c, real) - rate(c, made)) for c in schema.columns}


@dataclass(frozen=True)
class TrendError:
    """Mean distance between the joint distributions of pairs of columns.

    mean over pairs of |correlation difference| / 2 for two numbers, of sum |p - q| / 2 over the joint table otherwise;
    with a category, numbers are counted in ten equal bins of their sample's range
    It is 1 minus the "Column Pair Trends" score of sdmetrics, without its thresholds.
    Source: SDMetrics (DataCebo), Quality Report.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]})
    >>> TrendError()(Schema((Number("a"), Number("b"))), frame, frame.assign(b=-frame.b), Rng(0))
    1.0
    """

    name: ClassVar[str] = "trend error"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        found = [v for v in self.each(schema, real, made).values() if not np.isnan(v)]
        return float(np.mean(found)) if found else 0.0

    def each(self, schema: Schema, real: Any, made: Any) -> dict[tuple[str, str], float]:
        """The error of every pair of columns."""
        columns = columns_of(schema, real, made)
        binned = {n: (bins(a), bins(b)) if cont else (a, b) for n, (a, b, cont) in columns.items()}
        found = {}
        for one, other in itertools.combinations(columns, 2):
            (a, b, first), (c, d, second) = columns[one], columns[other]
            if first and second:
                found[one, other] = abs(correlation(a, c) - correlation(b, d)) / 2
            else:
                (p, q), (r, s) = binned[one], binned[other]
                wide = int(max(r.max(initial=0), s.max(initial=0))) + 1
                found[one, other] = variation(p * wide + r, q * wide + s)
        return found


@dataclass(frozen=True)
class TwoSample:
    """Classifier two-sample test: 1 if a logistic classifier cannot distinguish generated from real rows.

    1 - (2 max(AUC, 1/2) - 1), mean over three cross-validation folds; categories one-hot, numbers scaled by quartiles
    Assumes enough rows of both.  The same form as "LogisticDetection" in sdmetrics.
    Source: Lopez-Paz and Oquab 2017 (arXiv 1610.06545).

    >>> TwoSample().better
    'higher'
    """

    name: ClassVar[str] = "c2st score"
    better: ClassVar[Better] = "higher"
    folds: Annotated[int, Range(least=2)] = 3  # cross-validation folds

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        linear, metrics = extra("sklearn.linear_model", "tables"), extra("sklearn.metrics", "tables")
        pipeline, scale = extra("sklearn.pipeline", "tables"), extra("sklearn.preprocessing", "tables")
        select = extra("sklearn.model_selection", "tables")
        x = np.concatenate(features(schema, real, made, scaled=False))
        y = np.concatenate([np.ones(len(real)), np.zeros(len(made))])
        parts = select.StratifiedKFold(self.folds, shuffle=True, random_state=rng.key() % 2**32)
        found = []
        for train, test in parts.split(x, y):
            model = pipeline.make_pipeline(scale.RobustScaler(), linear.LogisticRegression(max_iter=100))
            with _quiet():
                model.fit(x[train], y[train])
            found.append(metrics.roc_auc_score(y[test], model.predict_proba(x[test])[:, 1]))
        return float(1 - np.mean([2 * max(auc, 0.5) - 1 for auc in found]))


@dataclass(frozen=True, eq=False)
class Downstream:
    """Train on synthetic, test on real (TSTR): score of gradient-boosted trees that predict a column.

    AUC of a category (mean over levels, one against the rest), R^2 of a number, on held-out rows
    Assumes a holdout; the baseline is the same after training on real rows.
    Source: Esteban, Hyland and Raetsch 2017 (arXiv 1706.02633); trees: scikit-learn's histogram boosting.
    """

    target: str  # the column to predict
    holdout: Any  # data frame of real rows that were not trained on
    name: ClassVar[str] = "downstream"
    better: ClassVar[Better] = "higher"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        ensemble, metrics = extra("sklearn.ensemble", "tables"), extra("sklearn.metrics", "tables")
        column = schema[self.target]
        inputs = [c for c in schema.columns if c.name != self.target and not isinstance(c, Constant | Identifier)]
        reference = pandas().concat([real, self.holdout])
        rows = [ordinal(Schema(tuple(inputs)), reference, part) for part in (made, self.holdout)]
        coarse = [
            isinstance(c, Category | Boolean) and (isinstance(c, Boolean) or len(c.levels) <= 255) for c in inputs
        ]
        seed = rng.key() % 2**32
        if isinstance(column, Number | Datetime):
            y, z = (numbers_of(column, part[self.target]) for part in (made, self.holdout))
            model = ensemble.HistGradientBoostingRegressor(random_state=seed, categorical_features=coarse)
            use = ~np.isnan(y)
            return float(metrics.r2_score(z, model.fit(rows[0][use], y[use]).predict(rows[1])))
        levels = pandas().factorize(reference[self.target])[1]
        y, z = (np.asarray(levels.get_indexer(part[self.target])) for part in (made, self.holdout))
        if len(np.unique(y)) < 2:
            return 0.5  # a single class cannot be learned
        model = ensemble.HistGradientBoostingClassifier(random_state=seed, categorical_features=coarse).fit(rows[0], y)
        sure = np.zeros((len(z), len(levels)))
        sure[:, model.classes_] = model.predict_proba(rows[1])
        scores = [metrics.roc_auc_score(z == k, sure[:, k]) for k in range(len(levels)) if 0 < (z == k).sum() < len(z)]
        return float(scores[0] if len(levels) == 2 else np.mean(scores))


@dataclass(frozen=True)
class Precision:
    """Integrated alpha-precision: whether generated rows are as typical as real ones; 1 at best.

    1 - 2 integral |P(|y - c| <= r_alpha) - alpha| d alpha,  r_alpha the radius of the share alpha of real rows
    Assumes that typical rows are close to the mean c of the scaled rows.
    Source: Alaa et al. 2022, "How faithful is your synthetic data?" (arXiv 2102.08921), in data space.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0, 4.0]})
    >>> Precision()(Schema((Number("a"),)), frame, frame + 100, Rng(0)) < 0.1
    True
    """

    name: ClassVar[str] = "alpha-precision"
    better: ClassVar[Better] = "higher"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        x, y = features(schema, real, made)
        centre = x.mean(0)
        inside, outside = (np.sort(np.linalg.norm(part - centre, axis=1)) for part in (x, y))
        grid = np.linspace(0, 1, 101)[1:-1]
        share = np.searchsorted(outside, np.quantile(inside, grid), "right") / len(outside)
        return float(1 - 2 * np.abs(share - grid).mean())


@dataclass(frozen=True)
class Recall:
    """Integrated beta-recall: whether generated rows cover the real ones; 1 at best.

    1 - 2 integral |P(a typical generated row is closer to x than its k-th real neighbour) - c beta| d beta,  c = the
    same of real rows Both samples are truncated to equal size, at most ``rows``.
    Source: Alaa et al. 2022 (arXiv 2102.08921), in data space, calibrated with real rows.

    >>> Recall(rows=1000).near
    5
    """

    rows: Annotated[int, Range(least=2)] = 4000  # largest number of rows of each sample
    near: Count = 5  # neighbours that define the radius of a real row
    name: ClassVar[str] = "beta-recall"
    better: ClassVar[Better] = "higher"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        x, y = features(schema, real, made)
        n = min(self.rows, len(x) // 2, len(y))
        order = rng.fork("real").permutation(len(x)).numpy()
        x, other = x[order[:n]], x[order[n : 2 * n]]
        y = y[rng.fork("made").permutation(len(y)).numpy()[:n]]
        require(n > self.near, f"{n} rows are too few for the {self.near} neighbours of beta-recall; give more rows")
        radius = closest(x, x, self.near + 1)
        grid = np.linspace(0, 1, 21)[1:]

        def covered(rows: Array) -> Array:
            away = np.linalg.norm(rows - rows.mean(0), axis=1)
            return np.array([(closest(x, rows[away <= np.quantile(away, b)]) <= radius).mean() for b in grid])

        return float(1 - 2 * np.abs(covered(y) - covered(other)).mean())


@dataclass(frozen=True)
class Violations:
    """Fraction of generated rows that violate the bounds, integers and levels of the schema, or further rules.

    P(a cell lies outside its schema, or a rule is false)
    Assumes rules of comparisons and arithmetic, such as "capital_gain == 0 or capital_loss == 0".

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"a": [1.0, 9.0]})
    >>> Violations()(Schema((Number("a", low=0.0, high=5.0),)), frame, frame, Rng(0))
    0.5
    """

    rules: tuple[str, ...] = field(default=())  # each is true for valid rows
    name: ClassVar[str] = "violations"
    better: ClassVar[Better] = "lower"

    def __call__(self, schema: Schema, real: Any, made: Any, rng: Rng) -> float:
        wrong = np.zeros(len(made), dtype=bool)
        for column in schema.columns:
            full, empty = cells.full_cells(column, made[column.name])
            at = np.flatnonzero(~empty)
            if isinstance(column, Number):
                v = cells.plain(column, full)
                low, high = column.low, column.high
                wrong[at] |= (v < (-np.inf if low is None else low)) | (v > (np.inf if high is None else high))
                wrong[at] |= column.integer & (v != np.round(v))
            elif isinstance(column, Category):
                wrong[at] |= ~full.isin(column.levels).to_numpy()
            wrong |= empty & (not column.missing and not isinstance(column, Constant))
        for rule in self.rules:
            wrong |= ~holds(rule, made)
        return float(wrong.mean())


def usual(table: Any) -> Sequence[TableMetric]:
    """The metrics that need only the real and the generated table."""
    return (ShapeError(), TrendError(), MissingError(), TwoSample(), Precision(), Recall(), Duplicates(), Violations())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress convergence warnings of the classifier."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
