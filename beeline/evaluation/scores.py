"""Scores with confidence intervals, real-vs-real baselines and the settings that they depend on."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as default
from typing import Any, cast

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.data import Better, FullMetric
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.data.metric import complete_metric
from beeline.evaluation.metrics import Estimate, FeatureMetric, enough, sound
from beeline.evaluation.trajectory import rows_of


@dataclass(frozen=True)
class Score:
    """A metric's value, and what has to agree before it is compared with another.

    ``baseline`` is the real-vs-real baseline: the same metric between real data and other real data, which a perfect
    model reaches.
    """

    name: str
    value: float
    interval: tuple[float, float] | None  # 95%, at these numbers of samples; None: not computed
    baseline: float | None  # mean over splits; None: not computed
    better: Better
    n_made: int
    n_real: int
    evaluator: str  # what computed it
    evaluator_hash: str
    reference_hash: str  # of the real data
    n_baseline: int = 0  # real samples in place of generated ones; with fewer than n_made the baseline is too high
    note: str = ""  # what has to be known of the value


@dataclass(frozen=True)
class Cost:
    """What sampling cost."""

    evaluations: float  # field evaluations per sample, counted
    expected: int | None  # by the sampler; None if it depends on the field
    seconds: float  # for all samples
    samples_per_second: float
    peak_memory: int | None  # bytes
    memory_of: str  # "cuda:0", or "process" for the peak resident size since it started


@dataclass(frozen=True)
class Report:
    """Scores of a flow with one sampler."""

    scores: tuple[Score, ...]
    cost: Cost
    provenance: dict[str, Any] = default(default_factory=dict)  # plain data
    details: dict[str, Any] = default(default_factory=dict)  # plain data, such as the held-out loss by time bin
    shown: dict[str, Tensor] = default(default_factory=dict, compare=False, repr=False)  # encoded data, not stored

    def __getitem__(self, name: str) -> Score:
        found = {score.name: score for score in self.scores}
        require(name in found, f"this report has no score {name!r}; it has {', '.join(found) or 'none'}")
        return found[name]

    def as_dict(self) -> dict[str, Any]:
        """JSON data, from which ``from_dict`` restores the report."""
        scores = [{**asdict(s), "interval": None if s.interval is None else list(s.interval)} for s in self.scores]
        return {
            "scores": scores,
            "cost": asdict(self.cost),
            "provenance": dict(self.provenance),
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        missing = {"scores", "cost", "provenance"} - set(data)
        require(not missing, f"the report lacks {sorted(missing)}; give the result of as_dict()")
        scores = tuple(
            Score(**{**renamed(s), "interval": None if s["interval"] is None else tuple(s["interval"])})
            for s in data["scores"]
        )
        return cls(scores, Cost(**data["cost"]), dict(data["provenance"]), dict(data.get("details", {})))

    def __repr__(self) -> str:
        rows = (f"{s.name} {figure(s.value)} (real vs. real {figure(s.baseline)})" for s in self.scores)
        return f"Report({', '.join(rows)}; {self.cost.evaluations:g} evaluations per sample)"

    def _repr_html_(self) -> str:
        """The table of ``table`` for a notebook."""
        from rich.console import Console

        console = Console(record=True, file=io.StringIO(), width=160)
        console.print(self.table())
        return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')

    def table(self) -> Any:
        """For the terminal: a rich Table."""
        from rich.markup import escape
        from rich.table import Table

        name = self.provenance.get("name")
        table = Table(title=escape(str(name)) if name else None)
        for heading in ("score", "value", "95% interval", "real vs. real", "better", "generated / real", "evaluator"):
            table.add_column(heading, justify="left" if heading in ("score", "better", "evaluator") else "right")
        for s in self.scores:
            who = s.evaluator if len(s.evaluator_hash) < 16 else f"{s.evaluator} {s.evaluator_hash[:8]}"
            table.add_row(escape(s.name), figure(s.value), span(s.interval), figure(s.baseline), s.better,
                          f"{s.n_made} / {s.n_real}", escape(who))  # fmt: skip
        c = self.cost
        table.caption = (
            f"{c.evaluations:g} field evaluations per sample (counted), {c.seconds:.2f} s, "
            f"{figure(c.samples_per_second)} samples a second"
        )
        for s in self.scores:
            if s.note:
                table.caption += f"\n{escape(s.name)}: {escape(s.note)}"
        table.caption_justify = "left"
        return table


def renamed(score: Mapping[str, Any]) -> dict[str, Any]:
    """A stored score with the names of this version."""
    old = {"floor": "baseline", "n_floor": "n_baseline"}
    return {old.get(key, key): value for key, value in score.items()}


def figure(value: float | None) -> str:
    """A number with four digits, a large one in full, None as a dash.

    >>> figure(0.123456), figure(42134.2), figure(None)
    ('0.1235', '42,134', '-')
    """
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def span(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{figure(interval[0])} .. {figure(interval[1])}"


def compare(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """One row per report: evaluations, seconds, and value, interval and baseline of every score, as plain data.

    ValueError if the evaluator, the real data or the numbers of samples of a score differ between reports.
    """
    first: dict[str, tuple[str, Score]] = {}
    rows = []
    for name, report in reports.items():
        row: dict[str, Any] = {
            "model": name,
            "evaluations": report.cost.evaluations,
            "seconds": report.cost.seconds,
            "samples_per_second": report.cost.samples_per_second,
        }
        for s in report.scores:
            other, known = first.setdefault(s.name, (name, s))
            known_values = asdict(known)
            for what in ("evaluator", "evaluator_hash", "reference_hash", "n_made", "n_real"):
                a, b = known_values[what], asdict(s)[what]
                require(
                    a == b,
                    f"{s.name} of {other} and of {name} differ in {what.replace('_', ' ')} ({_short(a)} and "
                    f"{_short(b)}), so they are not comparable; evaluate both in the same way",
                )
            row[s.name] = {
                "value": s.value,
                "interval": None if s.interval is None else list(s.interval),
                "baseline": s.baseline,
                "better": s.better,
            }
        rows.append(row)
    return rows


def measure(
    metrics: Sequence[Any],
    real: Tensor,
    made: Tensor,
    rng: Rng,
    *,
    real_cond: Cond = None,
    cond: Cond = None,
    others: Tensor | None = None,
    reference_hash: str = "",
    others_hash: str = "",
    replicates: int = 40,
    splits: int = 5,
    seen: Seen | None = None,
) -> tuple[Score, ...]:
    """Scores of generated data [M,*S] against real data [N,*S], by fitted metrics.

    ``cond`` are the conditions of the generated data and ``real_cond`` those of the real data.  Intervals use
    ``replicates`` subsets of the samples, baselines ``splits`` splits of the real data; 0 omits them.  In the
    baseline, ``others`` (real data that are not in ``real``) replace the generated data if there are as many; else,
    and for conditional metrics, a part of the real data does.  ``seen`` holds features of data with a hash, and is
    extended.
    """
    sound(real, made)
    more = others is not None and len(others) >= len(made)
    samples = {reference_hash or "real": real, "made": made}
    if more and others is not None and splits:
        samples[others_hash or "others"] = others
    stored: dict[tuple[str, str], Tensor] = {}  # of these samples alone
    scores = []
    for metric in map(complete_metric, metrics):
        views = tuple(samples.values())
        if isinstance(metric, FeatureMetric):
            space = f"{type(metric).view.__qualname__}:{metric.features.hash}"
            views = tuple(
                viewed(metric, x, (space, key), stored if seen is None or key in ("made", "real", "others") else seen)
                for key, x in samples.items()
            )
        scores.append(_score(metric, views, rng.fork(metric.name), real_cond, cond, reference_hash, replicates, splits))
    return tuple(scores)


Seen = MutableMapping[tuple[str, str], Tensor]
"""Features by their space and the hash of the data, which evaluations of several models share."""


def viewed(metric: Any, x: Tensor, key: tuple[str, str], seen: Seen) -> Tensor:
    """The features of data, computed once."""
    if key not in seen:
        seen[key] = metric.view(x)
    return seen[key]


def _score(
    metric: FullMetric,
    samples: tuple[Tensor, ...],
    rng: Rng,
    real_cond: Cond,
    cond: Cond,
    reference_hash: str,
    replicates: int,
    splits: int,
) -> Score:
    conditional, call = metric.conditional, cast(Any, metric)  # a conditional metric takes ``cond`` as well
    real, made, *others = samples

    def value(real: Tensor, made: Tensor, asked: Cond) -> float:
        if isinstance(metric, FeatureMetric):
            return metric.compare(real, made, rng.fork("value"), asked)
        more = {"cond": asked} if conditional else {}
        return float(call(real, made, rng.fork("value"), **more))

    least = 1
    if isinstance(metric, FeatureMetric):
        enough(metric, real, made)
        least = metric.least(real.shape[1])
    estimate = (
        metric.estimate(real, made, rng.fork("value"), cond)
        if isinstance(metric, FeatureMetric)
        else Estimate(value(real, made, cond))
    )
    total, interval = estimate.value, estimate.interval
    if interval is None and not metric.resampled:
        interval = metric.interval(total, len(made))
    elif interval is None and replicates:
        interval = halves(value, total, real, made, cond, least, replicates, rng.fork("interval"))
    baseline, n_baseline = None, 0
    if splits and others and not conditional:
        baseline = against_others(value, real, others[0], len(made), splits, rng.fork("floor"))
        n_baseline = len(made)
    elif splits and (not conditional or real_cond is not None):
        baseline, n_baseline = real_against_real(value, real, real_cond, len(made), least, splits, rng.fork("floor"))
    evaluator, evaluator_hash = metric.evaluator
    reference_hash, n_real = estimate.reference or (reference_hash, len(real))
    return Score(
        metric.name,
        total,
        interval,
        baseline,
        metric.better,
        len(made),
        n_real,
        evaluator=evaluator,
        evaluator_hash=evaluator_hash,
        reference_hash=reference_hash,
        n_baseline=n_baseline,
        note=estimate.note,
    )


Value = Callable[[Tensor, Tensor, Cond], float]


def halves(
    value: Value, total: float, real: Tensor, made: Tensor, cond: Cond, least: int, replicates: int, rng: Rng
) -> tuple[float, float] | None:
    """A 95% interval of a metric from its values on random halves of both samples (delete-half jackknife).

    total +- t s,  s^2 = mean (value of a part - mean over parts)^2 n_part / (n - n_part)
    Parts are sampled without replacement: a bootstrap repeats rows, at distance 0 from their copies, which biases every
    distance.  The interval is that of the value at these numbers of samples.  None if there are too few samples.
    Source: Shao and Wu 1989, "A general theory for jackknife variance estimation".
    """
    from scipy.stats import t as student  # imported late: it takes a second

    parts = [max((len(x) + 1) // 2, least) for x in (real, made)]
    if replicates < 2 or any(part >= len(x) for part, x in zip(parts, (real, made), strict=True)):
        return None
    figures = []
    for k in range(replicates):
        first = rng.fork(k, "real").permutation(len(real))[: parts[0]]
        second = rng.fork(k, "made").permutation(len(made))[: parts[1]]
        figures.append(value(real[first], made[second], rows_of(cond, second)))
    # the larger factor is the conservative choice
    factor = max(part / (len(x) - part) for part, x in zip(parts, (real, made), strict=True))
    spread = float(torch.tensor(figures, dtype=torch.float64).std()) * math.sqrt(factor)
    half = float(student.ppf(0.975, replicates - 1)) * spread
    return total - half, total + half


def against_others(value: Value, real: Tensor, others: Tensor, n: int, splits: int, rng: Rng) -> float:
    """Mean value of random subsets of ``n`` other real data against all real data."""
    figures = [value(real, others[rng.fork(k).permutation(len(others))[:n]], None) for k in range(splits)]
    return sum(figures) / splits


def real_against_real(
    value: Value, real: Tensor, cond: Cond, n: int, least: int, splits: int, rng: Rng
) -> tuple[float | None, int]:
    """(mean value of a part of the real data against the rest, size of the part).

    The part has ``n`` rows, at most half of the real data.
    """
    part = min(n, len(real) // 2)
    if part < least:
        return None, 0
    figures = []
    for k in range(splits):
        order = rng.fork(k).permutation(len(real))
        chosen, rest = order[:part], order[part:]
        figures.append(value(real[rest], real[chosen], rows_of(cond, chosen)))
    return sum(figures) / splits, part


def average(
    name: str,
    each: Tensor,
    over: Tensor | None = None,
    *,
    evaluator: str,
    reference_hash: str = "",
    n_real: int = 0,
    better: Better = "lower",
) -> Score:
    """A score that is a mean over samples [B], or a ratio of two means, with its normal 95% interval."""
    n = len(each)
    base = torch.ones_like(each) if over is None else over
    value = float(each.mean() / base.mean()) if float(base.mean()) != 0 else 0.0
    rest = each - value * base
    half = 1.959964 * float(rest.std()) / (math.sqrt(n) * abs(float(base.mean()) or 1.0)) if n > 1 else None
    interval = None if half is None else (value - half, value + half)
    return Score(name, value, interval, None, better, n, n_real, evaluator, "exact", reference_hash)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:8]
