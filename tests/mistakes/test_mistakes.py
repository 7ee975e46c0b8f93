"""No mistake ends in a traceback, a hang, acceptance of nonsense, or files left on disk.

A sample of each kind is tested by default, all of them under the mark ``slow`` (make test-all).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import beeline as bl
from beeline.data.points import Points, PointSet
from beeline.networks.mlp import MLP
from beeline.recipes.points import two_moons
from beeline.runs.bundle import Bundle
from tests.mistakes import cases
from tests.mistakes.harness import Case, faults, judge

QUICK = 15  # of every kind in the usual tests
FULL = 4000  # of every kind in all tests; there are more at the settings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow of points with labels."""
    raw = PointSet(np.random.default_rng(0).normal(2.0, 3.0, (50, 2)), labels=np.arange(50) % 2)
    with bl.Rng(0).ambient():
        net = bl.Network(MLP(2, width=8, depth=1, conditions={"label": {"classes": 2}})).eval()
    lineage = {
        "made_by": "train",
        "data": {"is": "data.DistributionData", "distribution": {"is": "distributions.TwoMoons"}, "n": 100},
        "seed": 0,
    }
    made = Bundle(bl.Flow(net), bl.Sampler(2), Points().fit(raw), lineage, null=2)
    return made.save(tmp_path_factory.mktemp("mistakes") / "flow")


def small_run() -> object:
    run = two_moons()
    data = dataclasses.replace(run.data, n=300, kept=100)
    return dataclasses.replace(run, data=data, training=dataclasses.replace(run.training, steps=2))


KINDS = {
    "settings": lambda bundle: cases.settings(),
    "networks": lambda bundle: cases.networks(),
    "flow.json": lambda bundle: cases.flows(bundle, signed=True),
    "flow.json without its hash": lambda bundle: cases.flows(bundle, signed=False),
    "run.yaml": lambda bundle: cases.runs(small_run()),
    "files": lambda bundle: cases.texts(),
    "commands": lambda bundle: cases.commands(bundle),
}


@pytest.mark.parametrize("kind", KINDS)
def test_some_mistakes(kind: str, bundle: Path, tmp_path: Path) -> None:
    found = faults(cases.slice_of(KINDS[kind](bundle), QUICK, seed=1), tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_mistakes(kind: str, bundle: Path, tmp_path: Path) -> None:
    found = faults(cases.slice_of(KINDS[kind](bundle), FULL, seed=2), tmp_path)
    assert not found, "\n".join(found)


def test_number_of_cases(bundle: Path) -> None:
    """At least 5,000, and the same cases in every run."""
    tried = [[c.name for c in cases.slice_of(kind(bundle), FULL, seed=2)] for kind in KINDS.values()]
    assert sum(map(len, tried)) >= 5000
    assert tried == [[c.name for c in cases.slice_of(kind(bundle), FULL, seed=2)] for kind in KINDS.values()]


def test_the_judge_finds_faults(tmp_path: Path) -> None:
    """Tracebacks, acceptance, leftover files, exit codes and hangs are found."""
    right = Case("right", ("describe", "no-such-thing"))
    assert judge(right, tmp_path / "a") is None
    assert judge(Case("accepted", ("list", "solvers")), tmp_path / "b") == "was accepted"
    assert judge(Case("sense", ("list", "solvers"), nonsense=False), tmp_path / "c") is None
    assert "took more than" in str(judge(Case("late", ("describe", "digits"), prepare=None), tmp_path / "d", 1e-4))
    left = Case("left", ("describe", "digits", "--json", "--out", "x"))
    assert judge(left, tmp_path / "e") is None
