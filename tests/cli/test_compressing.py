"""``beeline compress``, end to end."""

import json
from dataclasses import replace

import pytest
import torch

from beeline.cli.main import run
from beeline.core.rng import Rng
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.compressing.compressed import Compressed
from beeline.networks.compressing.quantize import int8
from beeline.runs.bundle import load
from beeline.runs.compressing.job import CALLS, PROBED, compress, parents_of, probe_of
from beeline.runs.compressing.measuring import BINS, STATES, errors_of
from beeline.runs.reference_data import data_set
from beeline.runs.scoring import RealData
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from tests.second_device import DEVICE, second_device


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    out = tmp_path_factory.mktemp("compress") / "moons"
    words = ["--set", "training.steps=4", "--set", "training.batch_size=16", "--set", "network.width=64"]
    assert run(["train", "two-moons", *words, "--set", "data.n=300", "--no-report", "--out", str(out)]) == 0
    return out / "bundle"


def test_a_chain_is_measured_beside_its_parents(moons, tmp_path, capsys):
    out, page = tmp_path / "small", tmp_path / "chain.html"
    capsys.readouterr()
    assert run(["compress", str(moons), "int8", "--out", str(out), "-n", "50", "--report", str(page), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    first, last = printed["links"]
    assert printed["bytes"] == last["bytes"] < 0.5 * first["bytes"] == 0.5 * printed["before"]
    assert first["drift"] == 0 < last["drift"] < 0.02 and len(last["errors"]) == BINS
    assert first["floor"] == last["floor"] and abs(last["distance"] - first["distance"]) < 0.05
    assert "<svg" in page.read_text() and "int8" in page.read_text()
    made = load(out)
    assert isinstance(backbone_of(made.flow.field), Compressed) and made.lineage["parent"] == str(moons)
    again, plain = (b.sample(5, seed=3, label=0) for b in (made, load(moons)))
    assert torch.allclose(torch.as_tensor(again.values), torch.as_tensor(plain.values), atol=0.1)
    assert [b.weights for b in parents_of(made)] == [load(moons).weights]
    assert run(["compress", str(out), "int8", "--out", str(tmp_path / "twice")]) == 2
    assert "start from the bundle before" in capsys.readouterr().err


def test_a_budget_chooses_among_methods(moons, tmp_path, capsys):
    words = ["compress", str(moons), "int8", "Quantize(Integers(6))", "int4", "-n", "20", "--json"]
    capsys.readouterr()
    assert run([*words, "--budget", "size=0.3", "--out", str(tmp_path / "a")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["links"][-1]["bytes"] <= 0.3 * printed["before"]
    assert max(printed["links"][-1]["errors"][1:]) == min(max(t["errors"][1:]) for t in printed["tried"])
    assert run([*words, "--budget", "size=0.01", "--out", str(tmp_path / "b")]) == 2
    assert "the nearest is int4 with size=0." in capsys.readouterr().err
    for wrong in ("weight=0.3", "size=big", "size=0"):
        assert run([*words, "--budget", wrong, "--out", str(tmp_path / "c")]) == 2
    assert run([*words, "--data", "digits", "--out", str(tmp_path / "e")]) == 2
    assert "give data of the same modality" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    assert run(["compress", str(moons), "--out", str(tmp_path / "d")]) == 2
    assert "no method was given" in capsys.readouterr().err


def test_errors_are_those_of_scaled_outputs(moons):
    """A network with outputs of 1.1 times the size is off by 0.1 in every bin."""
    bundle = load(moons)
    network = backbone_of(bundle.flow.field)
    probe = probe_of(bundle, Rng(0))

    class Scaled(torch.nn.Module):
        def forward(self, *inputs):
            return 1.1 * network(*inputs)

    found = errors_of(probe, Scaled(), network)
    assert all(e is None or e == pytest.approx(0.1, rel=1e-4) for e in found) and any(found)
    assert compress(bundle, [int8()], rng=Rng(0)).links[-1].distance is None


def test_a_probe_of_one_step_has_as_many_evaluations_as_others(moons):
    bundle = load(moons)
    one = probe_of(replace(bundle, sampler=Sampler(1, solver=EULER)), Rng(0))
    assert len(one.calls) == CALLS and len({float(call.x.sum()) for call in one.calls}) == CALLS  # of different noise
    assert len(probe_of(bundle, Rng(0)).calls) == PROBED // STATES * bundle.sampler.evaluations


def test_a_bundle_with_conditions_is_compressed_on_another_device(moons, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    real, quick = RealData.of(data_set(None, load(moons))), Sampler(1)

    def link(device):
        return compress(replace(load(moons, device=device), sampler=quick), [int8()], real=real, samples=20).links[-1]

    here = link("cpu")
    with second_device():
        there = link(DEVICE)
    assert there.errors == here.errors and there.bytes == here.bytes


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ParallelDecoding", "DMD", "Consistency")]


@pytest.mark.parametrize("method", ["OneStep", *SLOW])
def test_a_distillation_trains_weights_of_few_bits(moons, tmp_path, method):
    small, out = tmp_path / "small", tmp_path / "student"
    assert run(["compress", str(moons), "Quantize(Integers(3))", "-n", "20", "--out", str(small)]) == 0
    words = ["distill", str(moons), method, "--set", f"start={small}", "--set", "training.batch_size=16", "--no-report"]
    assert run([*words, "--set", "training.steps=8", "--out", str(out)]) == 0
    first, made = load(small), load(out / "bundle")
    (kept,) = [m for m in made.flow.field.modules() if isinstance(m, Compressed)]
    before = backbone_of(first.flow.field)
    names = [n for n, b in before.named_buffers() if n.endswith(("codes", "scale"))]
    stored = [dict(net.named_buffers()) for net in (before, kept)]
    assert names and all(stored[0][n].shape == stored[1][n].shape for n in names)
    assert any(not torch.equal(stored[0][n], stored[1][n]) for n in names)
    assert not any(n.endswith("latent") for n in made.flow.field.state_dict())
    (out / "bundle" / "flow.json").unlink()
    assert run([*words, "--set", "training.steps=9", "--out", str(out), "--resume"]) == 0
    assert load(out / "bundle").sample(3, label=0) is not None
