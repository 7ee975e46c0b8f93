"""Rules of tables: the right rows, and no way to call anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from beeline.data.tables.rules import holds

FRAME = pd.DataFrame(
    {
        "age": [17, 18, 40, 65],
        "gain": [0.0, 5.0, np.nan, 2.5],
        "sex": ["f", "m", "m", "f"],
        "capital loss": [1, 0, 0, 9],
        "paid": [True, False, True, False],
        "group": pd.Categorical(["a", "b", "a", "b"]),
        "when": pd.to_datetime(["2020-01-01", "2020-06-01", "2021-01-01", "2022-01-01"]),
        "till": pd.to_datetime(["2020-02-01", "2020-05-01", "2021-02-01", "2022-02-01"]),
    }
)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("age >= 18", [0, 1, 1, 1]),
        ("18 <= age < 65", [0, 1, 1, 0]),
        ("not age >= 18", [1, 0, 0, 0]),
        ("age >= 18 and sex == 'm'", [0, 1, 1, 0]),
        ("age >= 18 or gain == 0", [1, 1, 1, 1]),
        ("(age >= 18) & ~(sex == 'm')", [0, 0, 0, 1]),
        ("(age < 18) | (age > 60)", [1, 0, 0, 1]),
        ("gain >= 0", [1, 1, 0, 1]),  # an empty cell fulfils nothing
        ("gain != 5", [1, 0, 1, 1]),  # as floats do
        ("`capital loss` == 0 or gain == 0", [1, 1, 1, 0]),
        ("age - 2 * `capital loss` > 15 + 1", [0, 1, 1, 1]),
        ("age % 2 == 0 and age // 10 == 1", [0, 1, 0, 0]),
        ("-age < -20", [0, 0, 1, 1]),
        ("sex in ['f', 'x'] and age not in (65, -1)", [1, 0, 0, 0]),
        ("paid", [1, 0, 1, 0]),
        ("paid == true", [1, 0, 1, 0]),
        ("not paid and group == 'b'", [0, 1, 0, 1]),
        ("when <= till", [1, 0, 1, 1]),
        ("when >= '2021-01-01'", [0, 0, 1, 1]),
    ],
)
def test_rows_that_are_in_order(rule: str, rows: list[int]) -> None:
    assert holds(rule, FRAME).tolist() == [bool(r) for r in rows]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("__import__('os').system('true') == 0", "not in the grammar of rules"),
        ("age.map(print) == 0", "not in the grammar of rules"),
        ("@pd.eval('1') == 1", "cannot be read"),
        ("age[0] == 1", "not in the grammar of rules"),
        ("(lambda: 1)() == 1", "not in the grammar of rules"),
        ("[x for x in (1,)] == 1", "not in the grammar of rules"),
        ("age ** 9 == 1", "not in the grammar of rules"),
        ("9 ** 9 ** 9 ** 9 == 1", "not in the grammar of rules"),
        ("1 << 10 == 1", "not in the grammar of rules"),
        ("'a' * 1000000000 == 'b'", "has arithmetic with .* which is no number"),
        ("sex * 1000000000 == 'b'", "has arithmetic with 'sex', which is no number"),
        ("age", "needs true or false"),
        ("age + 1", "not in the grammar of rules"),
        ("agee > 1", "names 'agee'; did you mean 'age'"),
        ("sex > 3", "does not fit its columns"),
        ("age >", "cannot be read"),
        ("", "cannot be read"),
        ("age > 3\nimport os", "cannot be read"),
        ("(" * 3000 + "age > 3" + ")" * 3000, "give several shorter rules"),
        ("not " * 400 + "age > 3", "."),
        ("age is 3", "not in the grammar of rules"),
        ("age == 1j", "not in the grammar of rules"),
        ("(age := 3) == 3", "not in the grammar of rules"),
        ("f'{age}' == 3", "not in the grammar of rules"),
    ],
)
def test_whatever_else_is_refused(rule: str, message: str) -> None:
    if rule.startswith("not not"):
        assert holds(rule, FRAME).tolist() == [True, True, True, True]
        return
    with pytest.raises(ValueError, match=message):
        holds(rule, FRAME)
