"""The table benchmark: Beeline and other packages on the same rows, with the same metrics.

    python -m benchmarks.tables --data FOLDER [--sets german abalone] [--models beeline copula] [--seeds 3]

FOLDER contains adult-train.csv, adult-test.csv, german-credit.csv, abalone.csv and winequality-white.csv.  Packages
that are not installed are skipped with a message: pip install ctgan copulas ForestDiffusion.  Runs are added to the
result file, in place of earlier runs of the same data set, model and seed.
"""

from __future__ import annotations

import json
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtr, ndtri

from beeline.core.rng import Rng
from beeline.data.tables.metrics.privacy import ClosestRecord, Duplicates
from beeline.data.tables.metrics.scores import Downstream, Precision, Recall, ShapeError, TrendError, TwoSample
from beeline.data.tables.schema import Boolean, Category, Number, Schema
from beeline.data.tables.table import Table
from beeline.estimators.tabular import TabularFlow
from benchmarks import report

# training file, test file or None, target, and the fixed seed of the split
SETS = {
    "adult": ("adult-train.csv", "adult-test.csv", "income", 0),
    "german": ("german-credit.csv", None, "risk", 7678127732179035815),
    "abalone": ("abalone.csv", None, "rings", 7888305490705550803),
    "wine": ("winequality-white.csv", None, "quality", 2617075661721852240),
}


def rows_of(folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """(training rows, test rows, target); a fifth of the rows is the test set where there is no test file."""
    train, test, target, seed = SETS[name]
    raw = pd.read_csv(folder / train)
    if target in ("risk",):
        raw[target] = raw[target].map({1: "good", 2: "bad"})
    if test is not None:
        return raw, pd.read_csv(folder / test), target
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(seed)).numpy()
    cut = len(raw) // 5
    return raw.iloc[order[cut:]].reset_index(drop=True), raw.iloc[order[:cut]].reset_index(drop=True), target


class Beeline:
    """TabularFlow with default settings."""

    needs = ""
    fitted: dict[
        tuple[int, int], tuple[TabularFlow, float, float]
    ] = {}  # flow, wall and processor seconds by (data, seed)
    before = (0.0, 0.0)  # wall and processor seconds of a teacher that another model has trained

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.flow = TabularFlow(random_state=seed).fit(raw)
        self.fitted[id(raw), seed] = (self.flow, time.perf_counter() - wall, time.process_time() - cpu)

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        return self.flow.sample(n, random_state=seed)

    def size(self) -> int:
        return sum(p.numel() for p in self.flow.flow_.field.parameters())


class OneStep(Beeline):
    """TabularFlow distilled to one evaluation; the training time includes that of its teacher."""

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        if (id(raw), seed) in self.fitted:
            teacher, *spent = self.fitted[id(raw), seed]
            self.before = (spent[0], spent[1])
        else:
            super().fit(raw, schema, seed)
            teacher = self.flow
        self.flow = teacher.distill()


class Copula:
    """Gaussian copula with empirical marginals; a category is uniform within its interval (package copulas)."""

    needs = "copulas"

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        from copulas.multivariate import GaussianMultivariate
        from copulas.univariate import GaussianUnivariate

        self.table = Table(schema=schema.plain()).fit(raw)
        rng = np.random.default_rng(seed)
        self.levels: dict[str, tuple[list[Any], np.ndarray]] = {}
        columns = {}
        for column in schema.columns:
            values, levels = pd.factorize(raw[column.name], use_na_sentinel=False)
            if isinstance(column, Number) and not column.missing:
                values, levels = pd.factorize(raw[column.name], sort=True)
            ends = np.concatenate([[0], np.cumsum(np.bincount(values))]) / len(raw)
            u = ends[values] + (ends[values + 1] - ends[values]) * rng.random(len(raw))
            columns[column.name] = ndtri(u.clip(1e-6, 1 - 1e-6))
            self.levels[column.name] = (list(levels), ends)
        self.model = GaussianMultivariate(distribution=GaussianUnivariate)
        self.model.fit(pd.DataFrame(columns))

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        self.model.set_random_state(seed)
        made = self.model.sample(n)
        found = {}
        for name, (levels, ends) in self.levels.items():
            index = np.searchsorted(ends, ndtr(made[name]), side="right") - 1
            found[name] = [levels[i] for i in index.clip(0, len(levels) - 1)]
        return pd.DataFrame(found)

    def size(self) -> int:
        return len(pickle.dumps(self.model)) // 4


class Ctgan:
    """CTGAN with default settings (package ctgan)."""

    needs, name, epochs = "ctgan", "CTGAN", 300

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        import ctgan

        torch.manual_seed(seed)
        np.random.seed(seed)
        kinds = [c.name for c in schema.columns if isinstance(c, Category | Boolean)]
        more = {"enable_gpu": False} if "enable_gpu" in ctgan.CTGAN.__init__.__code__.co_varnames else {"cuda": False}
        self.model = getattr(ctgan, self.name)(epochs=self.epochs, **more)
        self.model.fit(raw, kinds)

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        torch.manual_seed(seed)
        np.random.seed(seed)
        return self.model.sample(n)

    def size(self) -> int:
        net = getattr(self.model, "_generator", None) or self.model.decoder
        return sum(p.numel() for p in net.parameters())


class Tvae(Ctgan):
    """TVAE with default settings (package ctgan)."""

    name = "TVAE"


class Forest:
    """Flow matching with gradient-boosted trees (package ForestDiffusion), with ``copies`` of the data."""

    needs, times, copies = "ForestDiffusion", 50, 10

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        from ForestDiffusion import ForestDiffusionModel

        np.random.seed(seed)
        self.columns, self.levels = list(raw.columns), {}
        parts, kinds, whole = [], [], []
        for i, column in enumerate(schema.columns):
            if isinstance(column, Number):
                parts.append(raw[column.name].to_numpy(dtype=float))
                whole += [i] if column.integer else []
            else:
                codes, levels = pd.factorize(raw[column.name])
                self.levels[i] = np.array(levels, dtype=object)
                parts.append(codes.astype(float))
                kinds.append(i)
        self.dtypes = raw.dtypes
        self.model = ForestDiffusionModel(
            np.stack(parts, 1), label_y=None, n_t=self.times, duplicate_K=self.copies, diffusion_type="flow",
            cat_indexes=kinds, int_indexes=whole, n_jobs=-1, seed=seed,
        )  # fmt: skip

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        np.random.seed(seed)
        made = self.model.generate(batch_size=n)
        found = {}
        for i, name in enumerate(self.columns):
            if i in self.levels:
                found[name] = self.levels[i][made[:, i].round().astype(int).clip(0, len(self.levels[i]) - 1)]
            else:
                found[name] = made[:, i].astype(self.dtypes[name])
        return pd.DataFrame(found)

    def size(self) -> int:
        return len(pickle.dumps(self.model)) // 4


class Tree:
    """Chow-Liu tree, the optimal Bayesian network with one parent per column, over 20 quantile bins of numbers."""

    needs, bins = "", 20

    def fit(self, raw: pd.DataFrame, schema: Schema, seed: int) -> None:
        self.values, codes = {}, {}
        for column in schema.columns:
            name = column.name
            if isinstance(column, Number) and raw[name].nunique() > self.bins:
                edges = np.unique(np.quantile(raw[name], np.linspace(0, 1, self.bins + 1)))
                codes[name] = np.searchsorted(edges[1:-1], raw[name], side="right")
                self.values[name] = [raw[name].to_numpy()[codes[name] == k] for k in range(len(edges) - 1)]
            else:
                codes[name], levels = pd.factorize(raw[name], use_na_sentinel=False)
                self.values[name] = [np.array([level], dtype=object) for level in levels]
        names, n = list(codes), len(raw)
        count = {a: len(self.values[a]) for a in names}

        def joint(a: str, b: str) -> np.ndarray:
            return np.bincount(codes[a] * count[b] + codes[b], minlength=count[a] * count[b]).reshape(
                count[a], count[b]
            )

        def information(a: str, b: str) -> float:
            p = joint(a, b) / n
            outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
            return float((p[p > 0] * np.log(p[p > 0] / outer[p > 0])).sum())

        self.order: list[tuple[str, str | None, np.ndarray]] = [(names[0], None, np.bincount(codes[names[0]]) / n)]
        inside, outside = [names[0]], names[1:]
        while outside:  # Prim's algorithm for the maximum spanning tree
            _, a, b = max((information(a, b), a, b) for a in inside for b in outside)
            table = joint(a, b) + 0.1 * np.bincount(codes[b], minlength=count[b]) / n
            self.order.append((b, a, table / table.sum(1, keepdims=True)))
            inside.append(b)
            outside.remove(b)
        self.columns, self.dtypes = names, raw.dtypes

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        rng, codes, made = np.random.default_rng(seed), {}, {}
        for name, parent, table in self.order:
            rows = np.tile(table, (n, 1)) if parent is None else table[codes[parent]]
            codes[name] = (rng.random((n, 1)) > rows.cumsum(1)).sum(1).clip(0, rows.shape[1] - 1)
            cells = np.empty(n, dtype=object)
            for k, values in enumerate(self.values[name]):
                here = codes[name] == k
                cells[here] = values[rng.integers(0, max(1, len(values)), here.sum())] if len(values) else None
            made[name] = pd.Series(cells).astype(self.dtypes[name])
        return pd.DataFrame(made)[self.columns]

    def size(self) -> int:
        return sum(table.size for _, _, table in self.order)


MODELS: dict[str, type] = {
    "beeline": Beeline,
    "one-step": OneStep,
    "copula": Copula,
    "tree": Tree,
    "ctgan": Ctgan,
    "tvae": Tvae,
    "forest": Forest,
}


def figures(
    schema: Schema, train: pd.DataFrame, hold: pd.DataFrame, made: pd.DataFrame, target: str
) -> dict[str, float]:
    """All metrics of one generated table."""
    rng = Rng(0).fork("figures")
    own = [ShapeError(), TrendError(), TwoSample(), Downstream(target, hold), Precision(), Recall(), Duplicates()]
    found = {m.name: m(schema, train, made, rng) for m in own}
    found["closer to train"] = ClosestRecord(hold).share(schema, train, made.head(10_000), rng)
    return found


def measure(
    make: Callable[[], Any], train: pd.DataFrame, hold: pd.DataFrame, target: str, seed: int
) -> dict[str, float]:
    """Fit, sample and evaluate one model; wall and processor seconds."""
    schema = Table().fit(train).columns
    model, wall, cpu = make(), time.perf_counter(), time.process_time()
    model.fit(train, schema, seed)
    before = model.before if isinstance(model, Beeline) else (0.0, 0.0)
    spent = {"training seconds": time.perf_counter() - wall + before[0]}
    spent["training cpu seconds"] = time.process_time() - cpu + before[1]
    model.sample(100, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    made = model.sample(len(train), seed)
    scale = 100_000 / len(train)
    spent["seconds per 100k rows"] = (time.perf_counter() - wall) * scale
    spent["cpu seconds per 100k rows"] = (time.process_time() - cpu) * scale
    return {**figures(schema, train, hold, made, target), **spent, "numbers": float(model.size())}


def baseline(train: pd.DataFrame, hold: pd.DataFrame, target: str) -> dict[str, float]:
    """The metrics of real rows: test rows against training rows; for downstream, the training rows themselves."""
    schema = Table().fit(train).columns
    found = figures(schema, train, hold, hold, target)
    found[Downstream.name] = Downstream(target, hold)(schema, train, train, Rng(0).fork("figures"))
    found["closer to train"] = 0.5
    return found


def main() -> None:
    parser = report.parser("tables", __doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="data sets")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3, help="number of runs of each model")
    parser.add_argument("--epochs", type=int, default=300, help="epochs of CTGAN and TVAE")
    parser.add_argument("--copies", type=int, default=10, help="copies of the data in ForestDiffusion")
    parser.add_argument("--times", type=int, default=50, help="times of ForestDiffusion")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    Ctgan.epochs, Forest.copies, Forest.times = given.epochs, given.copies, given.times
    missing = {m: MODELS[m].needs for m in given.models if MODELS[m].needs and not report.installed(MODELS[m].needs)}
    for model, package in missing.items():
        print(f"{model} is skipped: pip install {package}")
    output = given.output or report.RESULTS / "tables.json"
    found = report.read(output).get("figures", {"real_rows": {}, "runs": []})
    packages = ("ctgan", "copulas", "ForestDiffusion", "scikit-learn", "pandas")
    for name in given.sets:
        train, hold, target = rows_of(given.data, name)
        found["real_rows"][name] = baseline(train, hold, target)
        for model in [m for m in given.models if m not in missing]:
            for seed in range(given.seeds):
                settings = {"epochs": given.epochs} if issubclass(MODELS[model], Ctgan) else {}
                settings |= {"copies": given.copies, "times": given.times} if MODELS[model] is Forest else {}
                run = {"set": name, "model": model, "seed": seed, **settings}
                found["runs"] = [r for r in found["runs"] if (r["set"], r["model"], r["seed"]) != (name, model, seed)]
                try:
                    run |= measure(MODELS[model], train, hold, target, seed)
                except Exception as error:  # a package that fails is recorded
                    run["failed"] = f"{type(error).__name__}: {error}"
                found["runs"].append(run)
                print(json.dumps(run), flush=True)
                seeds = sorted({r["seed"] for r in found["runs"]})
                report.write("tables", found, seeds, output, packages=packages, threads=given.threads)
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """The results as Markdown: mean and standard deviation over seeds."""
    shown = ["shape error", "trend error", "c2st score", "downstream", "alpha-precision", "beta-recall",
             "closer to train", "training seconds", "seconds per 100k rows", "numbers"]  # fmt: skip
    lines = []
    for name in dict.fromkeys(run["set"] for run in found["runs"]):
        lines += [f"\n**{name}**\n", "| model | " + " | ".join(shown) + " |", "|" + "---|" * (len(shown) + 1)]
        real = found["real_rows"][name]
        lines.append("| real rows | " + " | ".join(f"{real[m]:.4g}" if m in real else "" for m in shown) + " |")
        for model in dict.fromkeys(run["model"] for run in found["runs"] if run["set"] == name):
            runs = [r for r in found["runs"] if (r["set"], r["model"]) == (name, model) and "failed" not in r]
            cells = []
            for metric in shown:
                values = [r[metric] for r in runs]
                spread = f" ± {np.std(values):.2g}" if len(values) > 1 and np.std(values) > 0 else ""
                cells.append(f"{np.mean(values):.4g}{spread}" if values else "failed")
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
