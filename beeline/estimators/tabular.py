"""TabularFlow: a generator of table rows with the interface of scikit-learn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.files import write_text
from beeline.core.modes import AUTO, Device, device_of, eval_mode, resolve_device
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, map_cond
from beeline.data.tables.dtypes import pandas
from beeline.data.tables.files import TableFile, TableStream, leave_out, parted
from beeline.data.tables.imputation import fill, held
from beeline.data.tables.infer import infer, label, named
from beeline.data.tables.table import Table
from beeline.data.tables.writing import save_parts
from beeline.density.likelihood import Exact, Hutchinson
from beeline.distillation.students import OneStep
from beeline.estimators.row_input import frame_of, say, seed_of, warn_not_learned
from beeline.estimators.sklearn_interface import TableEstimator
from beeline.estimators.tabular_density import counterfactual, log_prob
from beeline.evaluation.heldout import HeldOut
from beeline.fields.flow import Flow, Network
from beeline.networks.tabular import TabularMLP, TabularTransformer
from beeline.objectives.tables import BLOCK, RowMatching
from beeline.runs.bundle import Bundle, load
from beeline.sampling.sampler import Sampler
from beeline.sampling.spread import parallel_map
from beeline.solvers.multistep import AdamsBashforth
from beeline.training.config import Training
from beeline.training.early_stopping import EarlyStopping
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupConstantCooldown

SIZES = ((10_000, (4000, 1024)), (2_000, (3000, 512)), (0, (1500, 256)))  # minimum rows: steps, batch size
LARGE = 2_000_000  # rows above which a Parquet file is streamed by row group
COUNTED = 100_000  # largest number of rows for category frequencies


class TabularFlow(TableEstimator):
    """A rectified flow of table rows.

    It is fitted to a data frame, or to the path of a CSV or Parquet file; the schema is inferred, and corrected by
    ``schema``.  ``transform`` imputes empty cells, ``score_samples`` is ``log_prob`` and ``score`` its mean, as
    scikit-learn calls them.  ``sample`` gives new rows in every call, unless it gets a ``random_state``.  Settings that
    are None are chosen by the number of rows and the processor.

    >>> flow = TabularFlow(steps=10)
    >>> flow.get_params()["steps"], flow.set_params(width=64).width
    (10, 64)
    """

    def __init__(
        self,
        *,
        steps: int | None = None,  # largest number of training steps, before early stopping
        batch: int | None = None,  # batch size
        width: int | None = None,  # of the network
        depth: int | None = None,  # blocks of the network
        wide: bool = False,  # a transformer over columns, for tables of hundreds of columns
        dropout: float | None = None,  # against memorisation of small tables
        lr: float = 1.5e-3,  # peak learning rate
        known: float = 0.5,  # fraction of rows trained with known cells; 0 disables conditions and imputation
        evaluations: int = 16,  # network evaluations per sample
        held_out: float | None = None,  # held-out fraction, for early stopping
        patience: int = 5,  # evaluations without improvement before training stops; 20 in all
        schema: Mapping[str, Any] | None = None,  # corrections by column, as in YAML
        exclude: Sequence[str] = (),  # columns that are not used
        csv: Mapping[str, Any] | None = None,  # CSV settings: sep, decimal, encoding, comment, skip
        half: bool | None = None,  # matrix products in bfloat16; None if the processor supports it
        device: Device | None = AUTO,  # "auto" is CUDA if available, else the CPU
        random_state: int | None = 0,  # None for a random one
        verbose: bool = False,
    ):
        self.steps, self.batch, self.width, self.depth, self.wide = steps, batch, width, depth, wide
        self.dropout, self.lr, self.known, self.evaluations = dropout, lr, known, evaluations
        self.held_out, self.patience, self.schema, self.exclude = held_out, patience, schema, exclude
        self.csv, self.half, self.device, self.random_state, self.verbose = csv, half, device, random_state, verbose

    # --------------------------------------------------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any = None, *, log: Callable[[dict[str, Any]], None] | None = None) -> TabularFlow:
        """Fit to a data frame or file; ``y`` is ignored."""
        raw, microbatches = self._rows(X)
        self.seed_ = seed_of(self.random_state)
        rng = Rng(self.seed_)
        share = self.held_out if self.held_out is not None else min(0.2, max(0.04, 200 / len(raw)))
        written = self._file(X).modality().dialect if isinstance(X, str | Path) else {}
        corrected = infer(raw, self.schema, written.get("decimal", "."))
        table = Table(schema=dict(self.schema or {}), dialect=written).fit(raw)
        warn_not_learned(table)
        if self.verbose:
            print(table.summary())
        train, held = parted(raw, corrected, share, "the table")
        backbone = self._network(table, rng)
        objective = RowMatching(known=self.known)
        training, patience = self._training(len(train))
        key = rng.fork("rows")
        feed = table.microbatches(train, key) if microbatches is None else microbatches(table, key)
        encoded, draws = table.encode(held, rng.fork("held")), max(1, 1000 // len(held))
        heldout = HeldOut(
            objective, encoded, rng=rng.fork("look"), every=patience.every, repeats=draws, batch_size=2048
        )
        history: list[dict[str, float]] = []
        report = log or (say if self.verbose else lambda entry: None)

        def watch(entry: dict[str, Any]) -> None:
            report(entry)
            if "heldout" in entry:
                history.append({"step": entry["step"], "loss": float(entry["heldout"]["ema"]["value"])})

        where = resolve_device(self.device)
        net = Network(backbone, prediction=objective.prediction)
        made = fit(
            net, objective, feed, training, device=where, callbacks=(heldout,), rng=rng.fork("training"), log=watch
        )
        made.requires_grad_(False)
        self.table_, self.history_ = table, history
        self.sampler_ = Sampler(self.evaluations, solver=AdamsBashforth(2))
        some = train if len(train) <= COUNTED else train.sample(COUNTED, random_state=self.seed_ % 2**32)
        rows = table.encode(some, rng.fork("margins")).x1
        self.flow_ = table.finalize(Flow(made, objective.path), self.sampler_, rows, rng.fork("settle"))
        self.feature_names_in_ = np.array(table.columns.names, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        return self

    def _rows(self, X: Any) -> tuple[Any, Callable[[Table, Rng], Any] | None]:
        """(rows in memory, microbatches of a file that is larger than memory, or None)."""
        if not isinstance(X, str | Path):
            return leave_out(frame_of(X), tuple(self.exclude), "the table"), None
        if Path(X).suffix in (".parquet", ".pq"):
            stream = TableStream(str(X), exclude=tuple(self.exclude), corrections=dict(self.schema or {}))
            if stream.file.metadata.num_rows > LARGE:
                return pandas().concat(stream.load(), ignore_index=True), stream.microbatches
        return self._file(X).read(), None

    def _file(self, X: str | Path) -> TableFile:
        """The file as a data set with the settings of the estimator."""
        return TableFile(str(X), exclude=tuple(self.exclude), corrections=dict(self.schema or {}), **(self.csv or {}))

    def _network(self, table: Table, rng: Rng) -> Any:
        given = {"width": self.width, "depth": self.depth, "dropout": self.dropout}
        more: dict[str, Any] = {
            "half": self.half,
            "conditions": table.conditions if self.known else {},
            "shape": table.shape,
            **{name: value for name, value in given.items() if value is not None},
            **table.offers,
        }
        with rng.fork("network").ambient():
            return (TabularTransformer if self.wide else TabularMLP)(**more)

    def _training(self, rows: int) -> tuple[Training, EarlyStopping]:
        usual = next(portion for least, portion in SIZES if rows >= least)
        steps, batch = self.steps or usual[0], self.batch or usual[1]
        lr = WarmupConstantCooldown(peak=self.lr, warmup=min(200, max(1, steps // 10)), cooldown=0.3)
        ema = EMA(half_life=min(500.0, steps / 15), warmup=0.05)
        stopping = EarlyStopping(self.patience, every=max(50, steps // 20))
        return Training(steps=steps, batch_size=batch, lr=lr, ema=ema, early_stopping=stopping), stopping

    def distill(self, steps: int = 4000, pairs: int = 100_000, *, batch: int = 1024, lr: float = 5e-4) -> TabularFlow:
        """A new flow that samples rows with one network evaluation, distilled from pairs of this one."""
        flow, rng = self._fitted(), Rng(self.seed_).fork("distill")
        method = OneStep(self.sampler_, count=pairs)
        # generated rows provide known cells and category frequencies
        rows = Batch(self._draw(min(pairs, 20_000), None, rng.fork("rows"), None))
        made = method.data(flow, rows, rng.fork("pairs"))
        training = Training(steps=steps, batch_size=batch, ema=EMA(min(500.0, steps / 15)),
                            lr=WarmupConstantCooldown(peak=lr, warmup=min(100, steps), cooldown=0.5))  # fmt: skip
        nets = fit(method.networks(flow), method.objective(flow), made, training, rng=rng.fork("training"),
                   device=device_of(flow), log=say if self.verbose else lambda entry: None)  # fmt: skip
        student, sampler = method.student(flow, nets)
        student.field.requires_grad_(False)
        other = type(self)(**self.get_params())
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k.endswith("_")})
        other.flow_ = self.table_.finalize(student, sampler, rows.x1, rng.fork("settle"))
        other.sampler_ = sampler
        return other

    # -------------------------------------------------------------------------------------------------------- sampling

    def sample(
        self,
        n: int = 1,
        *,
        conditions: Any = None,
        random_state: int | None = None,
        evaluations: int | None = None,
    ) -> Any:
        """``n`` generated rows: new ones in every call, or the same ones for the same ``random_state``.

        ``conditions`` maps columns to values, or is a data frame of partial rows, one for each sample.
        """
        if isinstance(conditions, pandas().DataFrame):
            n = len(conditions)
        require(
            isinstance(n, int | np.integer) and n >= 1, f"n={n!r} is no number of rows; give an integer of 1 or more"
        )
        rng = self._rng(seed_of(random_state))
        cond = None if conditions is None else self._condition(conditions, int(n), rng.fork("condition"))
        made = self.table_.decode(self._draw(int(n), cond, rng.fork("sample"), evaluations))
        return made if conditions is None else self.table_.with_condition(made, conditions)

    def sample_to(self, path: str | Path, n: int, *, random_state: int | None = None) -> int:
        """Write ``n`` generated rows, as those of ``sample``, to a Parquet or CSV file in constant memory."""
        rng = self._rng(seed_of(random_state)).fork("sample")

        def parts() -> Iterator[Any]:
            for k in range(0, n, BLOCK * 32):
                yield self.table_.decode(self._draw(min(BLOCK * 32, n - k), None, rng, None, first=k))

        return save_parts(parts(), path, self.table_.dialect)

    def _draw(self, n: int, cond: Cond, rng: Rng, evaluations: int | None, first: int = 0) -> Tensor:
        """Coordinates of the rows first .. first+n-1; every block of rows has its own key, so row i does not depend "
        "on n."""
        flow = self._fitted()
        where = device_of(flow) or torch.device("cpu")
        sampler = self.sampler_
        if evaluations is not None:
            sampler = dataclasses.replace(sampler, steps=evaluations)

        def block(start: int) -> Tensor:
            number, skip = divmod(start, BLOCK)
            count = min(BLOCK - skip, first + n - start)
            x0 = flow.source.sample(torch.empty(BLOCK, *self.table_.shape), rng.fork(number))[skip : skip + count]
            here = map_cond(lambda leaf: leaf[start - first : start - first + count], cond)
            keyed = sampler.seeded(range(start, start + count), rng.seed, *rng.path)
            return keyed(flow, x0.to(where), map_cond(lambda leaf: leaf.to(where), here)).cpu()

        starts = sorted({first, *range(-(-first // BLOCK) * BLOCK, first + n, BLOCK)})
        with eval_mode(flow):  # once, as blocks are sampled in parallel
            x1 = torch.cat(parallel_map(block, starts) if where.type == "cpu" else [block(i) for i in starts])
        return x1 if cond is None else held(self.table_, cond, x1)

    def impute(self, X: Any, *, draws: int = 1, random_state: int | None = None) -> Any:
        """The rows with empty cells sampled from their distribution given the other cells.

        A list of ``draws`` data frames where ``draws`` is more than one.  Every cell is filled, also in columns that
        may be empty.
        """
        require(draws >= 1, f"draws={draws!r}, but it is a number of samples; give 1 or more")
        given = frame_of(X)
        frame = named(given).reset_index(drop=True)
        rng = self._rng(random_state)

        def draw(part: Any, attempt: int, keyed: Rng) -> Tensor:
            cond = self._condition(part, len(part), keyed.fork("condition", attempt))
            return self._draw(len(part), cond, keyed.fork("draw", attempt), None)

        keys = [rng.fork("impute", k) for k in range(draws)]
        made = [fill(self.table_, frame, functools.partial(draw, keyed=key)) for key in keys]
        made = [rows.set_axis(given.columns, axis=1) for rows in made]
        return made[0] if draws == 1 else made

    # ---------------------------------------------------------------------------------------------------------- density

    def log_prob(self, X: Any, *, exact: bool = False, probes: int = 4, steps: int = 40) -> np.ndarray[Any, Any]:
        """log p [N] of every row in nats; low values are anomalies.

        Uses Hutchinson's estimate with ``probes``, or the exact divergence.  See ``tabular_density.log_prob``.
        """
        flow, parts = self._fitted(), []
        frame, rng = named(frame_of(X)).reset_index(drop=True), Rng(self.seed_).fork("log_prob")
        for i in range(0, len(frame), 1024):
            way = Exact() if exact else Hutchinson(rng.fork("probe", i), probes)
            rows = frame.iloc[i : i + 1024].reset_index(drop=True)
            parts.append(log_prob(flow, self.table_, rows, divergence=way, rng=rng.fork(i), steps=steps))
        return np.asarray(torch.cat(parts).numpy())

    def counterfactual(self, X: Any, changes: Mapping[str, Any], *, random_state: int | None = None) -> Any:
        """The rows with other values in some columns, transported through the noise of the original rows."""
        frame = named(frame_of(X)).reset_index(drop=True)
        changes = {label(name): value for name, value in changes.items()}
        rng, table = self._rng(random_state), self.table_
        require(
            self.known > 0,
            "the flow was trained without known cells (known=0), which counterfactuals need; fit with known=0.5",
        )
        new = self._condition(changes, len(frame), rng.fork("condition"))
        old = self._condition(frame[list(changes)], len(frame), rng.fork("condition"))
        x1 = table.encode(frame, rng.fork("paint")).x1
        made = []
        for i in range(0, len(frame), BLOCK):
            some = slice(i, i + BLOCK)
            before, after = (map_cond(lambda leaf, s=some: leaf[s], c) for c in (old, new))
            sampler = dataclasses.replace(self.sampler_, steps=max(40, self.sampler_.steps))
            made.append(counterfactual(self._fitted(), x1[some], before, after, sampler=sampler, rng=rng.fork(i)))
        found = table.decode(torch.cat(made))
        return named(found).assign(**changes).set_axis(found.columns, axis=1)

    def report(
        self, X: Any, path: str | Path, *, holdout: Any = None, target: str | None = None, n: int | None = None
    ) -> Path:
        """Write an HTML report that compares generated rows with the real rows ``X``.

        ``holdout`` are real rows that were not trained on; they are needed for privacy metrics and, with the column
        ``target``, for the score of a model trained on generated rows and tested on real ones.
        """
        from beeline.estimators.tabular_report import report

        real = named(frame_of(X)).reset_index(drop=True)
        made = named(self.sample(n or len(real), random_state=self.seed_))
        text = report(self.table_, real, made, self._rng(None).fork("report"), holdout=holdout, target=target)
        write_text(Path(path), text)
        return Path(path)

    # ---------------------------------------------------------------------------------------------------------- storage

    @property
    def bundle_(self) -> Bundle:
        """The flow as a bundle, for the command line and ``beeline.load``."""
        flow = self._fitted()
        return Bundle(
            flow,
            self.sampler_,
            self.table_,
            {"made_by": "TabularFlow", "settings": {**_plain(self), "random_state": self.seed_}},
            null=0,
        )

    def save(self, directory: str | Path) -> Path:
        """Write the flow as a bundle."""
        return self.bundle_.save(directory)

    @classmethod
    def load(cls, directory: str | Path, *, device: Device = AUTO) -> TabularFlow:
        """The TabularFlow of a table bundle, of ``save`` or of a run, on a device."""
        bundle = load(directory, device=device)
        require(
            isinstance(bundle.modality, Table),
            f"{directory} contains a flow of {type(bundle.modality).__name__}, not of a table; load it with "
            "beeline.load",
        )
        settings: dict[str, Any] = bundle.lineage.get("settings", {})
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        made = cls(**{k: v for k, v in given.items() if k in cls().get_params()})
        made.device = device
        made.table_, made.flow_, made.sampler_, made.history_ = bundle.modality, bundle.flow, bundle.sampler, []
        made.seed_ = seed_of(made.random_state)
        made.feature_names_in_ = np.array(made.table_.columns.names, dtype=object)
        made.n_features_in_ = len(made.feature_names_in_)
        return made

    # --------------------------------------------------------------------------------------------------------- internal

    def _fitted(self) -> Flow:
        self.check_fitted()
        found: Flow = self.flow_
        return found

    def _rng(self, random_state: int | None) -> Rng:
        self._fitted()
        return Rng(self.seed_ if random_state is None else seed_of(random_state)).fork("use")

    def _condition(self, conditions: Any, n: int, rng: Rng) -> Cond:
        require(
            self.known > 0,
            "the flow was trained without known cells (known=0), which conditions and imputation need; fit with "
            "known=0.5",
        )
        return self.table_.condition(conditions, n, rng)


def _plain(flow: TabularFlow) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in flow.get_params().items() if k != "device"}
