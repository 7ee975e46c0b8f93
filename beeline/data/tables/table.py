"""The modality of tables: data frames, encoded as coordinates."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.files import write_bytes
from beeline.core.ranges import Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.data.arrays import as_array, as_frame, with_labels
from beeline.data.modality import ModalityBase
from beeline.data.tables.codec import columns as kinds
from beeline.data.tables.codec.codes import ONE_HOT, Cells, Code, split
from beeline.data.tables.dtypes import bare, pandas
from beeline.data.tables.infer import infer, label, named
from beeline.data.tables.schema import Identifier, Schema, listed
from beeline.data.tables.writing import save
from beeline.fields.flow import Flow
from beeline.objectives.tables import calibrate_marginals
from beeline.sampling.sampler import Sampler

Raw = Any
"""A pandas DataFrame."""


@dataclass(frozen=True)
class Table(ModalityBase):
    """Rows of a table with numbers, categories, booleans, datetimes and empty cells.

    x1 = per column [one-hot state in {-1, 1}, Phi^-1(rank)];  decode: argmax, and the quantile of Phi(x)
    Assumes independent, identically distributed rows.  An empty cell is a state of its own.  A column that is
    determined by another one has no coordinates and is derived from it.  Column names and types are preserved.  In
    float64, decode(encode(x)) is exact for categories, integers and datetimes with at most 10^12 units between
    neighbouring quantiles (2^53 in all), and accurate to 10 digits for other numbers; in float32, in which networks
    are trained, numbers with many distinct values are accurate to 6 digits.
    Source: Zhang et al. 2025, "RecTable" (arXiv 2503.20731), with ranks that are exact for repeated values.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [31, 40, 40, 52], "sex": ["f", "m", "f", "f"]})
    >>> table = Table().fit(frame)
    >>> table.shape, bool((table.decode(table.encode(frame).x1) == frame).all(axis=None))
    ((3,), True)
    """

    schema: Mapping[str, Any] = field(
        default_factory=dict
    )  # corrections by column, as in YAML; the full schema after fitting
    codes: Mapping[str, Any] = field(default_factory=dict)  # levels and quantiles, as plain data; set by ``fit``
    rows: Whole = 0  # number of training rows; set by ``fit``
    dialect: Mapping[str, str] = field(default_factory=dict)  # how CSV files are written: encoding, sep, decimal
    labels: Mapping[str, Any] = field(default_factory=dict)  # column names that are not text, in their order
    preview_type: ClassVar[str] = "text/html"
    continuous: ClassVar[bool] = False  # coordinates hold states
    formats: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".parquet", ".npz", ".html", "")  # that ``save`` writes
    previewed: ClassVar[int] = 512

    # ------------------------------------------------------------------------------------------------------- fitting

    def fit(self, raw: Raw) -> Table:
        """A new modality with the schema, levels and quantiles of a data frame."""
        schema, labels = infer(raw, self.schema, self.dialect.get("decimal", ".")), _labels(raw)
        raw = named(raw)
        require(
            len(raw) >= len(schema.columns),
            f"the table has {len(raw)} rows but {len(schema.columns)} columns, too few rows to learn "
            "their joint distribution; give more rows, or leave columns out",
        )
        refused = [c.name for c in schema.columns if isinstance(c, Identifier) and not c.replace]
        require(
            not refused,
            f"column {listed(map(repr, refused))} identifies the rows, so it must not be learned; leave it out, "
            "or set replace: true in the schema to generate new numbers",
        )
        made, codes = [], {}
        for column in schema.columns:
            column, values, empty = kinds.values(column, raw[column.name])
            made.append(column)
            codes[column.name] = kinds.learn(column, values, empty, ONE_HOT).plain()
        functional_dependencies = kinds.functional_dependencies(made, raw)
        codes |= {name: {"twin": other, "pairs": pairs} for name, (other, pairs) in functional_dependencies.items()}
        fitted = replace(self, schema=Schema(tuple(made)).plain(), codes=codes, rows=len(raw), labels=labels)
        require(
            fitted.shape[0] > 0,
            f"every column of the table is constant or identifies the rows ({listed(schema.names)}), so nothing can be "
            "learned; check the file, or correct the schema",
        )
        return fitted

    @cached_property
    def columns(self) -> Schema:
        """The columns of the schema."""
        require(self.codes, "the table is not fitted; call fit(frame) first, or load it from a bundle")
        return Schema.of(self.schema)

    @cached_property
    def coded(self) -> dict[str, Code]:
        """The codes of the columns with coordinates, in their order."""
        all_codes = {c.name: Code.of(self.codes[c.name]) for c in self.columns.columns}
        return {name: code for name, code in all_codes.items() if code.width}

    @cached_property
    def functional_dependencies(self) -> dict[str, tuple[str, list[list[Any]]]]:
        """Columns that are determined by another one: name -> (other column, pairs of values [other, own])."""
        return {name: (c["twin"], c["pairs"]) for name, c in self.codes.items() if "twin" in c}

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(code.width for code in self.coded.values()),)

    @property
    def groups(self) -> list[list[int]]:
        """The widths of the coordinate blocks of every column: 1 for a number or bit, K for one of K states."""
        return [list(code.blocks) for code in self.coded.values()]

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        """The coordinates of known cells (zero elsewhere), and the mask of known columns."""
        return {"known": {"size": self.shape[0]}, "mask": {"size": len(self.coded)}}

    @property
    def offers(self) -> dict[str, Any]:
        """Further settings of networks for tables."""
        return {"groups": self.groups, "rows": self.rows}

    def summary(self) -> str:
        """The schema as text, one column a line."""
        lines = self.columns.summary()
        notes = [
            f"{name} is determined by {other} and derived from it"
            for name, (other, _) in self.functional_dependencies.items()
        ]
        return "\n".join([lines, *notes])

    # ------------------------------------------------------------------------------------------------------ encoding

    def cells(self, raw: Raw, known: Raw = None) -> Cells:
        """States and ranks of the rows of a data frame; cells where ``known`` is false are ignored."""
        # numbers beyond the bounds of the training data have the outermost rank
        raw = named(raw)
        lacking = [name for name in self.coded if name not in raw.columns]
        require(
            not lacking,
            f"the table lacks the column {listed(map(repr, lacking))}; the model was fitted with it: "
            f"{nearest(lacking[0] if lacking else '', map(str, raw.columns))}",
        )
        states, spans = [], []
        for name, code in self.coded.items():
            column = self.columns[name]
            use = slice(None) if known is None else known[name].to_numpy()
            state, span = np.zeros(len(raw), dtype=np.int64), np.tile([0.0, 1.0], (len(raw), 1))
            state[use], span[use] = kinds.place(column, code, raw[name][use])
            states.append(torch.from_numpy(state))
            spans.append(torch.from_numpy(span))
        return Cells(tuple(self.coded.values()), torch.stack(states, 1), torch.stack(spans, 1))

    def raw(self, values: Any, labels: Any = None) -> Raw:
        """A data frame from one of pandas, polars or Arrow, or from an array [N,columns]; labels are a column of it."""
        frame = as_frame(values)
        if frame is None:
            array, names = as_array(values), self.columns.names
            require(array is not None, f"the table is {type(values).__name__}; give a data frame or an array of rows")
            assert array is not None
            names = names[: len(names) - (labels is not None)]
            require(
                array.shape[1:] == (len(names),),
                f"the table is an array of shape {array.shape} where the model has the columns {listed(names)}; give "
                "one column for each, or a data frame",
            )
            frame = pandas().DataFrame(array, columns=list(names))
        return frame if labels is None else with_labels(frame, labels)

    def encode(self, raw: Raw, rng: Rng | None = None, dtype: torch.dtype = torch.float32) -> Batch:
        """Coordinates [N,D] of a data frame, with uniform noise within ranks from ``rng`` (by default a fixed key)."""
        return Batch(self.cells(raw).coordinates(rng or Rng(0).fork("table"), dtype))

    def microbatches(self, raw: Raw, rng: Rng) -> TableMicrobatches:
        """Training data with new noise within ranks in every microbatch."""
        return TableMicrobatches(self.cells(raw), rng)

    def decode(self, x: Tensor, full: bool = False) -> Raw:
        """A data frame from coordinates [N,D], with the columns and types of the training data.

        With ``full`` no cell is empty; empty ones take their most likely other state.
        """
        x = x.detach().cpu()
        x = x if x.dtype == torch.float64 else x.float()
        parts = dict(zip(self.coded, split(x, list(self.coded.values())), strict=True))
        made: dict[str, Any] = {}
        for column in self.columns.columns:
            if column.name in parts:
                state, numbers = self.coded[column.name].read(parts[column.name], full)
                made[column.name] = kinds.write(column, self.coded[column.name], state.numpy(), numbers)
            elif column.name not in self.functional_dependencies:
                made[column.name] = kinds.fixed(column, len(x))
        for name, (other, pairs) in self.functional_dependencies.items():
            made[name] = kinds.follow(self.columns[name], made[other], pairs)
        return self._labelled(pandas().DataFrame({name: made[name] for name in self.columns.names}))

    def _labelled(self, frame: Raw) -> Raw:
        """A data frame with the original column names."""
        if not self.labels:
            return frame
        found = [tuple(name) if isinstance(name, list | tuple) else name for name in self.labels["names"]]
        pd, of = pandas(), list(self.labels["of"])
        index = pd.MultiIndex.from_tuples(found, names=of) if len(of) > 1 else None
        return frame.set_axis(pd.Index(found, name=of[0], tupleize_cols=False) if index is None else index, axis=1)

    # ---------------------------------------------------------------------------------------------------- conditions

    def condition(self, value: Any, n: int, rng: Rng | None = None) -> Cond:
        """Known cells as tensors: a mapping of columns to values for all rows, or a data frame of n partial rows.

        In a mapping, None means an empty cell; in a data frame, an empty cell means one that is not known.
        """
        frame, known = self._filled(*self._condition_frame(value, n))
        cells = self.cells(frame, known)
        if len(frame) == 1 < n:
            cells, known = cells.take(torch.zeros(n, dtype=torch.int64)), known.iloc[[0] * n]
        mask = torch.from_numpy(known[list(self.coded)].to_numpy(dtype=np.float32, copy=True))
        wide = mask.repeat_interleave(torch.tensor([code.width for code in self.coded.values()]), 1)
        return {"known": cells.coordinates(rng or Rng(0).fork("condition")) * wide, "mask": mask}

    def with_condition(self, raw: Raw, value: Any) -> Raw:
        """The rows with the exact values of the condition, in the types of their columns."""
        made = named(raw).copy()
        frame, known = self._filled(*self._condition_frame(value, len(raw)))
        for name, code in self.coded.items():
            use = known[name].to_numpy()
            if use.any():
                self._put(made, name, kinds.exact(self.columns[name], code, frame[name][use]), use)
        for name, (other, pairs) in self.functional_dependencies.items():
            if known[other].any():
                self._put(made, name, kinds.follow(self.columns[name], made[other], pairs), np.ones(len(made), bool))
        return self._labelled(made[list(self.columns.names)])

    @staticmethod
    def _put(rows: Raw, name: str, cells: Any, use: np.ndarray[Any, Any]) -> None:
        """Assign cells where ``use`` is true: one for all rows, or one for each of them."""
        if len(use) == 1 < len(rows):
            cells, use = cells.repeat(len(rows)), np.ones(len(rows), dtype=bool)
        if use.all():
            rows[name] = cells.set_axis(rows.index)
            return
        dtype = rows[name].dtype
        mixed = rows[name].astype(object)
        mixed[use] = cells.astype(object).to_numpy()
        rows[name] = mixed.astype(dtype if cells.notna().all() or cells.dtype == dtype else cells.dtype)

    def _condition_frame(self, value: Any, n: int) -> tuple[Raw, Raw]:
        """(columns of a condition, mask of their known cells): one row for all samples, or ``n`` rows."""
        pd = pandas()
        if isinstance(value, pd.DataFrame):
            frame, known = named(value).reset_index(drop=True), None
            require(len(frame) == n, f"{len(frame)} partial rows were given for {n} samples; give one row per sample")
        else:
            require(
                isinstance(value, Mapping) and value,
                f"the condition is {value!r}, which names no columns; give columns and their values, as in "
                f"{{'income': '>50K'}}",
            )
            given = {label(k): v for k, v in value.items()}
            given = {k: kinds.condition_value(self.columns[k], v) if k in self.codes else v for k, v in given.items()}
            frame = pd.DataFrame({k: pd.Series([v], dtype=object) for k, v in given.items()})
            known = pd.DataFrame(True, index=frame.index, columns=frame.columns)
            for name in frame.columns:
                if name in self.codes:
                    kinds.within(self.columns[name], frame[name])
        for name in frame.columns:
            require(
                str(name) in self.codes,
                f"the condition has the unknown column {str(name)!r}; {nearest(str(name), self.codes)}",
            )
        return frame, frame.notna() if known is None else known

    def _filled(self, frame: Raw, known: Raw) -> tuple[Raw, Raw]:
        """All columns with coordinates, including values that follow by functional dependencies."""
        pd = pandas()
        frame, known = frame.copy(), known.copy()
        for name, (other, pairs) in self.functional_dependencies.items():
            if name not in frame.columns:
                continue
            implied = kinds.follow(self.columns[other], frame[name], [[own, of] for of, own in pairs], known[name])
            if other not in frame.columns:
                frame[other], known[other] = implied, known[name]
                continue
            at = known[name] & known[other]
            clash = at & (implied != frame[other])
            require(
                not clash.any(),
                f"the condition has {name}={frame[name][clash].iloc[0] if clash.any() else ''!r} with "
                f"{other}={frame[other][clash].iloc[0] if clash.any() else ''!r}, which never occur together: each "
                "determines the other; give one of them",
            )
            frame[other] = frame[other].astype(object).where(known[other], implied)
            known[other] = known[other] | known[name]
        for name in self.coded:
            if name not in frame.columns:
                frame[name], known[name] = pd.Series([None] * len(frame), dtype=object), False
        return frame, known

    # -------------------------------------------------------------------------------- previews and metrics

    def preview(self, raw: Raw) -> bytes:
        """The first rows as an HTML table."""
        return self._rows(raw, {})

    def preview_beside(self, made: Raw, real: Raw) -> bytes:
        """The first rows as an HTML table, below histograms of the columns of generated and real rows."""
        from beeline.data.tables.metrics.marginals import marginals

        return self._rows(made, marginals(self.columns, real, made))

    def _rows(self, raw: Raw, above: Mapping[str, str]) -> bytes:
        head = "".join(
            f"<th>{f'{above[name]}<br>' if name in above else ''}{html.escape(str(name))}</th>" for name in raw.columns
        )
        rows = (
            "<tr>" + "".join(f"<td>{'' if v is None or v != v else html.escape(str(v))}</td>" for v in row) + "</tr>"
            for row in raw.head(20).itertuples(index=False)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>".encode()

    def save(self, raw: Raw, path: Path) -> None:
        """Write rows as .csv (in the dialect of the training file), .tsv, .parquet or .npz, or the first ones as .html.

        A directory gets ``rows.csv``.  An .npz file has one array per column; text and dates are text in it, and an
        empty cell is NaN or the empty text.
        """
        if path.suffix in (".html",):
            write_bytes(path, self.preview(raw))
        else:
            save(raw, path if path.suffix else path / "rows.csv", self.dialect)

    def finalize(self, flow: Flow, sampler: Sampler, x1: Tensor, rng: Rng) -> Flow:
        """The flow with category frequencies calibrated to those of the training data."""
        return calibrate_marginals(flow, sampler, x1, rng)

    def metrics(self) -> Sequence[Any]:
        """The metrics of tables, applied to decoded coordinates."""
        from beeline.data.tables.metrics.scores import OnTable, usual

        return tuple(OnTable(metric, self) for metric in usual(self))


def _labels(raw: Raw) -> dict[str, Any]:
    """Column names that are not text, as plain data; {} if all are text."""
    if all(isinstance(name, str) for name in raw.columns) and raw.columns.name is None:
        return {}
    plain = [[bare(p) for p in name] if isinstance(name, tuple) else bare(name) for name in raw.columns]
    odd = [n for n, name in zip(plain, raw.columns, strict=True) if isinstance(n, str) and not isinstance(name, str)]
    require(
        not odd,
        f"the columns {listed(map(repr, odd))} are named by objects that no file can hold; name columns by text or "
        "numbers: frame.columns = frame.columns.astype(str)",
    )
    return {"names": plain, "of": [None if n is None else str(n) for n in raw.columns.names]}


@dataclass(frozen=True, eq=False)
class TableMicrobatches:
    """Microbatches of a table, shuffled in every epoch, with new noise within ranks in every microbatch.

    microbatch n holds rows n size ... (n+1) size - 1 of the orders of the epochs, one after another
    Assumes a table in memory.
    """

    rows: Cells
    rng: Rng

    def __len__(self) -> int:
        return len(self.rows)

    def microbatch(self, number: int, size: int) -> Batch:
        n, position, parts = len(self.rows), number * size, []
        left = size
        while left > 0:
            epoch, start = divmod(position, n)
            parts.append(self.rng.fork("epoch", epoch).permutation(n)[start : start + left])
            position, left = position + len(parts[-1]), left - len(parts[-1])
        return Batch(self.rows.take(torch.cat(parts)).coordinates(self.rng.fork("paint", number, size)))
