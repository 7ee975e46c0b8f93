"""The verdicts over claims, and how the claims are kept."""

from __future__ import annotations

import json
import os
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beeline import BeelineError, Rng
from benchmarks import claims
from benchmarks.claims import page, record
from benchmarks.claims.verdict import FAILS, HOLDS, INVALID, UNDECIDED, Finding, decide, judge


@pytest.mark.parametrize(
    ("baseline", "figure", "better", "verdict"),
    [
        ([3.0, 3.1, 2.9], [1.0, 1.1, 0.9], "lower", HOLDS),
        ([3.0, 3.1, 2.9], [1.0, 1.1, 0.9], "higher", FAILS),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "lower", FAILS),  # equal in every seed
        ([64.0, 64.0, 64.0], [15.0, 15.0, 15.0], "lower", HOLDS),  # no spread at all
        ([1.0, 2.0, 3.0], [0.0, 2.5, 2.9], "lower", UNDECIDED),
        ([1.0, 1.0, 1.0], [float("nan"), 0.5, 0.5], "lower", FAILS),
        # gains 1, 2, 3: mean 2, standard error 1/sqrt(3) = 0.577; 2 / 0.577 = 3.46 is more than two standard errors,
        # but less than the quantile 4.303 of three seeds
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "lower", UNDECIDED),
        # gains 1, 2, 3, 2, 2: mean 2, standard error 0.316, quantile 2.776
        ([1.0, 2.0, 3.0, 2.0, 2.0], [0.0] * 5, "lower", HOLDS),
    ],
)
def test_verdicts(baseline: list[float], figure: list[float], better: str, verdict: str) -> None:
    assert decide(baseline, figure, better).verdict == verdict


def test_the_numbers_of_a_decision() -> None:
    made = decide([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "lower")
    assert (made.gain, round(made.error, 6), round(made.quantile, 3)) == (2.0, 0.57735, 4.303)


@pytest.mark.parametrize("seeds", [3, 5])
def test_without_a_difference_few_findings_hold(seeds: int) -> None:
    draws = np.random.Generator(np.random.PCG64(7)).normal(size=(4000, 2, seeds))
    verdicts = [decide(list(a), list(b), "lower").verdict for a, b in draws]
    share = verdicts.count(HOLDS) / len(verdicts)
    assert 0.015 < share < 0.035  # 0.025 is exact; the standard deviation of the share is 0.0025
    assert verdicts.count(UNDECIDED) / len(verdicts) > 0.93


def test_a_control_that_passes_makes_the_finding_invalid() -> None:
    found = [Finding("error", 3.0 + s, 1.0 + s, control=1.1 + s, trivial="zero field") for s in (0.0, 0.1, 0.2)]
    assert judge(found)[0] == INVALID
    assert judge([replace(f, control=f.baseline + 1) for f in found])[0] == HOLDS


def test_bad_figures_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        decide([1.0], [1.0], "lower")
    with pytest.raises(ValueError, match="'lower' or 'higher'"):
        decide([1.0, 2.0], [1.0, 2.0], "less")
    with pytest.raises(ValueError, match="same one"):
        judge([Finding("a", 1, 1, 1, "x"), Finding("b", 1, 1, 1, "x")])


def test_every_file_says_what_is_claimed() -> None:
    for method in claims.ids():
        module = claims.claim(method)
        assert module.METHOD and module.CLAIM.endswith(".") and module.__doc__, method


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A claim that takes no time, under the id 018."""
    module: Any = types.ModuleType("toy", "Numbers.")
    module.METHOD, module.CLAIM = "Toy", "One is less than two."
    module.calls = 0

    def measure(rng: Rng) -> list[Finding]:
        module.calls += 1
        return [Finding("one | two", 2.0, 1.0, control=3.0, trivial="three")]

    module.measure = measure
    monkeypatch.setitem(sys.modules, "benchmarks.claims.c018", module)
    monkeypatch.setattr(claims, "c018", module, raising=False)
    return module


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    from benchmarks.claims.__main__ import main

    monkeypatch.setattr(sys, "argv", ["claims", *words])
    main()


def test_a_run_is_kept_and_goes_on(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "claims.json"
    run(monkeypatch, "018", "--output", str(file))
    entry = json.loads(file.read_text())["figures"]["018"]
    assert toy.calls == claims.SEEDS and entry["findings"][0]["verdict"] == HOLDS
    run(monkeypatch, "018", "--output", str(file))
    assert toy.calls == claims.SEEDS  # measured by the same code: nothing to do
    run(monkeypatch, "018", "--seeds", "3", "--output", str(file))
    assert toy.calls == claims.SEEDS + 3
    text = page.page(record.read(file))
    assert text == page.page(record.read(file)) and "one \\| two" in text and "1 holds" in text


def test_entries_of_other_files_are_added_if_they_are_newer_and_of_the_present_claim(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other, old = (tmp_path / name for name in ("here.json", "other.json", "old.json"))
    run(monkeypatch, "018", "--seeds", "3", "--output", str(other))
    assert record.merge([other], here) == ["018: added"] and record.read(here) == record.read(other)
    assert record.merge([other], here) == ["018: not newer"]
    entry = json.loads(other.read_text())
    entry["figures"]["018"] |= {"claim_code": "another", "date": "2999-01-01T00:00:00Z"}
    old.write_text(json.dumps(entry))
    assert "not added" in record.merge([old], here)[0] and record.read(here) == record.read(other)


def test_gpus_are_hidden_from_claims(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen, measure = [], toy.measure

    def measured(rng: Rng) -> list[Finding]:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return list(measure(rng))

    toy.measure = measured
    run(monkeypatch, "018", "--seeds", "3", "--output", str(tmp_path / "claims.json"))
    assert seen == [""] * 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_claim_that_raises_stops_no_other(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.measure = lambda rng: 1 / 0
    with pytest.raises(SystemExit, match="018"):
        run(monkeypatch, "018", "--output", str(tmp_path / "claims.json"))
    assert "ZeroDivisionError" in record.read(tmp_path / "claims.json")["018"]["error"]


def test_too_few_seeds_and_unknown_ids_are_refused() -> None:
    with pytest.raises(BeelineError, match="3 or more"):
        claims.run("018", 2)
    with pytest.raises(BeelineError, match="018"):
        claims.claim("0018")
