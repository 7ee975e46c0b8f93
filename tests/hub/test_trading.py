"""The choice of a cache by its change of the samples and its seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import beeline as bl
from beeline.cli.main import app
from beeline.cli.main import run as cli
from beeline.core.errors import BeelineError
from beeline.fields.flow import Flow
from beeline.hub import trading
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.caches import AttentionBroadcast, FirstBlock, TaylorSeer
from beeline.runs.bundle import Bundle
from tests.networks.hub import tiny_text
from tests.networks.hub.tiny_images import flux

CHOICES = (FirstBlock(0.0), FirstBlock(1e6), TaylorSeer(every=2, warmup=2))


@pytest.fixture(scope="module")
def case():
    return flux()


@pytest.fixture(scope="module")
def bundle(case):
    made = from_pipeline(case.pipe, **case.size)
    return replace(made, sampler=replace(made.sampler, steps=5, guidance=trading.Sampler().guidance))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that depend on the cache alone."""

    def seconds(run, bundle, x0, cond):
        return {"FirstBlock(threshold=0.0": 1.1, "FirstBlock(threshold=1000000.0": 0.2}.get(
            bundle.lineage.get("cache", "none").split(",")[0], 0.7 if "cache" in bundle.lineage else 1.0
        )

    monkeypatch.setattr(trading, "seconds", seconds)


def test_the_fastest_cache_within_the_limit_is_chosen(case, bundle, clock):
    plain = bundle.sampler(bundle.flow, case.x0, case.cond)
    made, rows = trading.choose_cache(bundle, case.x0, case.cond, change=1e9, candidates=CHOICES)
    assert [row.seconds for row in rows] == [1.0, 1.1, 0.2, 0.7]
    assert [row.chosen for row in rows] == [False, False, True, False]
    assert rows[0].change == 0 and rows[1].change < 1e-6  # samples are evaluated one by one
    assert rows[0].reused == rows[1].reused == 0
    assert rows[2].reused == len(case.x0) * 4 and rows[3].reused > 0
    off = made.sampler(made.flow, case.x0, case.cond) - plain
    assert rows[2].change == pytest.approx(float(off.square().mean().sqrt() / plain.square().mean().sqrt()), rel=1e-5)
    assert made.lineage["caches"][2]["chosen"] and "1000000" in made.lineage["cache"]
    between = (rows[2].change + rows[3].change) / 2
    assert rows[3].change < between < rows[2].change
    made, rows = trading.choose_cache(bundle, case.x0, case.cond, change=between, candidates=CHOICES)
    assert rows[3].chosen and made.lineage["cache"].startswith("TaylorSeer")


def test_without_a_faster_cache_within_the_limit_the_bundle_stays(case, bundle, clock):
    made, rows = trading.choose_cache(bundle, case.x0, case.cond, change=0.0, candidates=CHOICES)
    assert rows[0].chosen and made.flow is bundle.flow


def test_the_usual_candidates_are_those_of_the_family(case, bundle):
    assert trading.tested(bundle) == list(trading.CANDIDATES)
    _, rows = trading.choose_cache(bundle, case.x0, case.cond, rounds=1, candidates=[AttentionBroadcast()])
    assert all(row.seconds > 0 for row in rows) and len(rows) == 2


def test_impossible_choices_are_refused(case, bundle):
    with pytest.raises(BeelineError, match="set change >= 0"):
        trading.choose_cache(bundle, case.x0, case.cond, change=-1.0)
    with pytest.raises(BeelineError, match="for pipelines of"):
        trading.choose_cache(Bundle(Flow(nn.Linear(1, 1))), torch.zeros(1, 1), candidates=CHOICES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_text.flux(folder / "tokenizers").save_pretrained(folder / "model")
    return folder / "model"


def test_a_cache_is_chosen_and_used_from_the_command_line(saved, monkeypatch, tmp_path):
    monkeypatch.setattr(trading, "CANDIDATES", (FirstBlock(0.0), TaylorSeer(every=2, warmup=2)))
    monkeypatch.setattr(
        trading, "seconds", lambda run, bundle, x0, cond: 0.5 if "Taylor" in str(bundle.lineage.get("cache")) else 1.0
    )
    size = ("--set", "load.height=8", "--set", "load.width=8", "--set", "sampler.steps=4")
    asked = ("fit-solver", str(saved), "-c", "prompt=cat", *size, "--json")
    found = CliRunner().invoke(app, [*asked, "--caches", "1e9"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout[found.stdout.index("{") :])
    assert rows["use"] == "--set 'load.cache=TaylorSeer(every=2, order=1, warmup=2, whole=False)'" and len(rows) == 4
    none = CliRunner().invoke(app, [*asked, "--caches", "0"])
    assert json.loads(none.stdout[none.stdout.index("{") :])["use"] == "no cache"
    setting = rows["use"].removeprefix("--set ").strip("'")
    out = ("sample", str(saved), "-n", "1", "-c", "prompt=cat", *size, "--set", setting, "--out", str(tmp_path / "s"))
    assert CliRunner().invoke(app, list(out)).exit_code == 0 and list((tmp_path / "s").glob("*.png"))


def test_caches_and_compilation_of_loading_are_those_of_the_hub(saved, tmp_path):
    cache = TaylorSeer(every=2, warmup=2)
    made = bl.load(saved, device="cpu", height=8, width=8, cache=cache, compile_blocks=True)
    assert made.lineage["cache"] == repr(cache) and made.lineage["compiled"] is True
    bl.Bundle(Flow(bl.networks.Network(bl.networks.MLP(2))), bl.Sampler(2)).save(tmp_path / "own")
    with pytest.raises(BeelineError, match="cache was given for .*own, which is no pipeline"):
        bl.load(tmp_path / "own", cache=cache)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--set", "load.height=8"], "--set is for --caches"),
        (["--caches", "0.1", "--nfe", "4"], "--nfe, --noises, --method and --out have no effect"),
        (["--caches", "0.1", "--out", "somewhere"], "--nfe, --noises, --method and --out have no effect"),
        (["--caches", "0.1", "--set", "load.cache=FirstBlock(0.1)"], "which compares caches with the model without"),
    ],
)
def test_settings_without_effect_are_refused(given, message, capsys):
    assert cli(["fit-solver", "runs/x", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_bundle_without_tested_caches_is_refused():
    own = bl.Bundle(Flow(bl.networks.Network(bl.networks.MLP(2))), bl.Sampler(2))
    with pytest.raises(BeelineError, match="for which none is tested"):
        trading.choose_cache(own, torch.zeros(2, 2))
