"""The doctor of files of adapters against planted faults and explicit sizes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import LoRA, changed_layers, layers_of, weight_of
from beeline.networks.adapters.members.sparse import Fourier
from beeline.networks.mlp import MLP
from beeline.runs.adapters.dialects import DIALECTS, KOHYA, PEFT
from beeline.runs.adapters.doctor import conflicts, examine, write_mended
from beeline.runs.adapters.files import export, load, read
from beeline.runs.bundle import Bundle
from beeline.runs.bundle import load as load_bundle


def alive(net):
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.fixture
def bundle():
    with Rng(2).ambient():
        return Bundle(Flow(alive(Network(MLP(2, width=16, depth=2)))), lineage={"shape": [2]})


def adapted_bundle(bundle, delta, seed=3):
    with Rng(seed).ambient():
        made = adapted(bundle.flow.field, delta)
        for layer in changed_layers(made).values():
            alive(layer.changes)
    return made


def test_sizes_effects_and_what_is_missing_are_those_of_the_weights(tmp_path, bundle):
    made = adapted_bundle(bundle, LoRA(2, scale=3.0))
    path = export(made, tmp_path / "a.safetensors", PEFT)
    found = examine(path, bundle)
    inside = bundle.flow.field.backbone
    assert found.form == "peft" and found.methods == ("LoRA",) and found.matched == len(layers_of(inside))
    assert not found.unknown and not found.clashes
    layers = {name: layer for name, layer in changed_layers(made.backbone.field).items()}
    for row in found.rows:
        own, now = layers[row.layer].own, weight_of(layers[row.layer])
        assert row.rank == 2
        assert row.norm == pytest.approx(float((now - own).norm()), rel=1e-4)
        assert row.relative == pytest.approx(float((now - own).norm() / own.norm()), rel=1e-4)
        spectral = torch.linalg.matrix_norm(now - own, 2) / torch.linalg.matrix_norm(own, 2)
        assert row.spectral == pytest.approx(float(spectral), rel=1e-4)
        assert 1 <= row.stable_rank <= 2.001
    assert len(found.effect) == 5 and min(found.effect) > 0 and found.endpoint > 0
    json.dumps(found.plain())


def test_planted_faults_are_named(tmp_path, bundle):
    made = adapted_bundle(bundle, LoRA(2))
    path = export(made, tmp_path / "a.safetensors", KOHYA)
    good = load_file(path)
    up = [k for k in good if k.endswith("lora_up.weight")]

    def problems(changed):
        save_file(changed, tmp_path / "b.safetensors")
        return " ".join(examine(tmp_path / "b.safetensors", bundle).problems)

    assert not problems(good)
    assert "not finite" in problems(good | {up[0]: good[up[0]] * float("nan")})
    assert "change nothing" in problems(good | {up[0]: good[up[0]] * 0})
    assert "another size" in problems(good | {up[0]: good[up[0]][:-1].clone()})
    other = {"lora_unet_x.lora_up.weight": torch.ones(2, 1), "lora_unet_x.lora_down.weight": torch.ones(1, 2)}
    assert "no layer of the base" in problems(good | other)
    assert "different scales" in problems({**good, up[0].replace("lora_up.weight", "alpha"): torch.tensor(1.0)})
    assert "no alpha" in problems({k: v for k, v in good.items() if not k.endswith("alpha")})
    save_file({f"wrong.{k}": v for k, v in good.items()}, tmp_path / "c.safetensors")
    with pytest.raises(BeelineError, match="changes nothing there"):
        examine(tmp_path / "c.safetensors", bundle)
    half = {k: v * (0.5 if k.endswith("alpha") else 1) for k, v in good.items()}
    save_file(half, tmp_path / "d.safetensors")
    rows = [examine(p).rows for p in (path, tmp_path / "d.safetensors")]
    assert all(b.norm == pytest.approx(a.norm / 2) for a, b in zip(*rows, strict=True)), "alpha is the scale"


def test_a_mended_file_has_its_scale_inside_and_the_error_of_a_smaller_rank(tmp_path, bundle):
    made = adapted_bundle(bundle, LoRA(4, scale=2.0))
    path = export(made, tmp_path / "a.safetensors", PEFT)
    for dialect in DIALECTS.values():
        assert not write_mended(path, tmp_path / "b.safetensors", dialect)
        again, _ = load(bundle.flow.field, tmp_path / "b.safetensors")
        x, t = torch.ones(3, 2), torch.full((3,), 0.5)
        assert (again(x, t) - made(x, t)).abs().max() <= 1e-5
    errors = write_mended(path, tmp_path / "c.safetensors", KOHYA, rank=2)
    for name, layer in changed_layers(made.backbone.field).items():
        sizes = torch.linalg.svdvals(weight_of(layer) - layer.own)
        assert errors[name] == pytest.approx(float(sizes[2:].norm() / sizes.norm()), rel=1e-3)
    assert {s.rank for s in read(tmp_path / "c.safetensors").contents.sites.values()} == {2}


def test_conflicts_are_cosines_and_overlaps(tmp_path, bundle):
    first = export(adapted_bundle(bundle, LoRA(2)), tmp_path / "a.safetensors", PEFT)
    other = export(adapted_bundle(bundle, LoRA(2), seed=5), tmp_path / "b.safetensors", KOHYA)
    same = conflicts(first, first)
    assert all(c.cosine == pytest.approx(1, abs=1e-5) and c.overlap == pytest.approx(1, abs=1e-5) for c in same)
    a, b = (read(p).contents.sites for p in (first, other))
    for c in conflicts(first, other):
        d, e = a[c.layer].change(None), b[c.layer.replace(".", "_")].change(None)
        assert c.cosine == pytest.approx(float((d * e).sum() / d.norm() / e.norm()), abs=1e-5)
        assert 0 <= c.overlap < 1 and c.random == pytest.approx(2 / d.shape[1])


def test_commands(tmp_path, bundle, capsys):
    base = bundle.save(tmp_path / "base")
    made = Bundle(Flow(adapted_bundle(bundle, LoRA(2))), lineage={"shape": [2]})
    made.save(tmp_path / "made")
    file = tmp_path / "style.safetensors"
    assert run(["lora", "export", str(tmp_path / "made"), str(file), "--to", "kohya"]) == 0
    more = ["--against", str(file), "--mend", str(tmp_path / "m.safetensors")]
    assert run(["lora", "doctor", str(file), "--base", str(base), *more]) == 0
    said = capsys.readouterr().out
    assert "kohya" in said and "matched" in said and "mended" in said
    weights = ["-w", "0.25", "-w", "0.75", "--out", str(tmp_path / "out")]
    assert run(["lora", "merge", str(base), str(file), str(file), *weights]) == 0
    x, t = torch.ones(3, 2), torch.full((3,), 0.5)
    out = load_bundle(tmp_path / "out", device="cpu")
    assert (out.flow.field(x, t) - made.flow.field(x, t)).abs().max() <= 1e-5
    assert out.lineage["parent_weights"] and out.flow.field.state_dict().keys() == bundle.flow.field.state_dict().keys()
    assert run(["lora", "merge", str(tmp_path / "made"), "--out", str(tmp_path / "inside")]) == 0
    assert run(["lora", "merge", str(base), str(file), "--by", "Ties(1.0)", "--out", str(tmp_path / "ties")]) == 0
    ties = load_bundle(tmp_path / "ties", device="cpu").flow.field
    assert (ties(x, t) - made.flow.field(x, t)).abs().max() <= 1e-5
    own = export(adapted_bundle(bundle, Fourier(3)), tmp_path / "own.safetensors")
    capsys.readouterr()
    assert run(["lora", "merge", str(base), str(own), "--out", str(tmp_path / "fourier"), "--json"]) == 0
    count = len(layers_of(bundle.flow.field.backbone))
    assert json.loads(capsys.readouterr().out)["layers"] == count > 1, "of a delta of Beeline too"
    change = tmp_path / "change.safetensors"
    assert run(["lora", "extract", str(tmp_path / "inside"), str(base), "--out", str(change)]) == 0
    again, _ = load(bundle.flow.field, change)
    assert (again(x, t) - made.flow.field(x, t)).abs().max() <= 1e-5
    assert run(["lora", "doctor", str(tmp_path / "none.safetensors")]) == 2
    assert run(["lora", "export", str(base), str(file), "--to", "kohya"]) == 2
    assert run(["lora", "export", str(tmp_path / "made"), str(file), "--to", "kohia"]) == 2
    assert "did you mean 'kohya'" in capsys.readouterr().err
