"""Rules about the rows of a table: comparisons and arithmetic of columns.

Rules are parsed, not executed as Python; only the following grammar is accepted.

    rule = comparisons (== != < <= > >= in, not in), joined by and, or, not, & and |
    value = column | `column name` | number | text | true | false | value + - * / // % value
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from beeline.core.errors import BeelineError, nearest, require
from beeline.data.tables.dtypes import pandas

Array = np.ndarray[Any, Any]

COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
LONGEST = 2000  # characters of a rule


def holds(rule: str, frame: Any) -> Array:
    """Whether a rule is true, for every row of a data frame: booleans [N].

    >>> import pandas as pd
    >>> holds("gain == 0 or `capital loss` < gain", pd.DataFrame({"gain": [0, 5], "capital loss": [1, 9]})).tolist()
    [True, False]
    """
    names: dict[str, str] = {}

    def placeholder(found: re.Match[str]) -> str:
        names[f"column_{len(names)}_"] = found[1]
        return f"column_{len(names) - 1}_"

    require(len(rule) <= LONGEST, f"the rule {rule[:60]!r}... has {len(rule)} characters; give several shorter rules")
    try:
        node = ast.parse(re.sub(r"`([^`]+)`", placeholder, rule).strip(), mode="eval").body
        made = _Rule(rule, frame, names).truth(node)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, BeelineError):
            raise
        raise BeelineError(f"the rule {rule[:200]!r} cannot be read; write a condition, as in 'age >= 18'") from None
    except (TypeError, ArithmeticError) as error:
        raise BeelineError(
            f"the rule {rule[:200]!r} does not fit its columns ({error}); compare numbers with numbers, text with text"
        ) from None
    return np.broadcast_to(np.asarray(made, dtype=bool), (len(frame),))


class _Rule:
    def __init__(self, rule: str, frame: Any, names: Mapping[str, str]):
        self.rule, self.frame, self.names = rule, frame, names
        self.columns = {str(name): name for name in frame.columns}

    def truth(self, node: ast.expr) -> Any:
        """True or false a row."""
        if isinstance(node, ast.BoolOp) or (
            isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr)
        ):
            parts = [self.truth(p) for p in (node.values if isinstance(node, ast.BoolOp) else (node.left, node.right))]
            both = np.logical_and if isinstance(node.op, ast.And | ast.BitAnd) else np.logical_or
            made = parts[0]
            for part in parts[1:]:
                made = both(made, part)
            return made
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return np.logical_not(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            made = np.ones(len(self.frame), dtype=bool)
            for left, sign, right in zip(sides[:-1], node.ops, sides[1:], strict=True):
                made = made & self.compared(left, sign, right)
            return made
        if isinstance(node, ast.Name | ast.Constant):
            value = self.value(node)
            require(
                np.asarray(value).dtype == bool,
                f"the rule {self.rule!r} has {ast.unparse(node)!r} where it needs true or false; compare it with "
                "something, as in 'age >= 18'",
            )
            return np.asarray(value)
        raise self.refused(node)

    def compared(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> Array:
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self.refused(right)
            some = [self.value(item) for item in right.elts if isinstance(item, ast.Constant | ast.UnaryOp)]
            require(
                len(some) == len(right.elts),
                f"the rule {self.rule!r} has a list with other items than numbers and text; give constants",
            )
            found = pandas().Series(self.value(left), index=self.frame.index).isin(some).to_numpy(dtype=bool)
            return ~found if isinstance(sign, ast.NotIn) else found
        if type(sign) not in COMPARISONS:
            raise self.refused(left)
        made = COMPARISONS[type(sign)](self.value(left), self.value(right))
        full = made.fillna(False) if isinstance(made, pandas().Series) else made  # an empty cell satisfies no rule
        return np.asarray(full, dtype=bool)

    def value(self, node: ast.expr) -> Any:
        """A column, or one value."""
        if isinstance(node, ast.Name):
            name = self.names.get(node.id, node.id)
            if name in ("true", "false"):
                return name == "true"
            require(name in self.columns, f"the rule {self.rule!r} names {name!r}; {nearest(name, self.columns)}")
            return self.frame[self.columns[name]]
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self.number(node.operand)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            return ARITHMETIC[type(node.op)](self.number(node.left), self.number(node.right))
        raise self.refused(node)

    def number(self, node: ast.expr) -> Any:
        """A numeric value; arithmetic with text is refused."""
        value = self.value(node)
        kind = value.dtype.kind if isinstance(value, pandas().Series) else np.asarray(value).dtype.kind
        require(
            kind in "iufbmM",
            f"the rule {self.rule!r} has arithmetic with {ast.unparse(node)!r}, which is no number; compare it instead",
        )
        return value

    def refused(self, node: ast.expr) -> BeelineError:
        return BeelineError(
            f"the rule {self.rule[:200]!r} has {ast.unparse(node)[:80]!r}, which is not in the grammar of rules; "
            "compare columns, numbers and text, as in 'age >= 18 and (gain == 0 or loss == 0)'"
        )
