"""Files of controls: the numbers of a control alone, put around the base again."""

import json

import pytest
import torch
from safetensors.torch import save_file

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.amounts import Window
from beeline.networks.controls.branches import ControlBranch
from beeline.networks.controls.tokens import EasyControl
from beeline.networks.controls.with_control import controlled
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.runs.adapters.controls import HEADER, export, load

X, H = (Rng(0).fork(name).normal(torch.empty(3, 1, 8, 8)) for name in "xh")
T = torch.tensor([0.1, 0.5, 0.9])


def alive(net, seed):
    with Rng(seed).ambient(), torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net


def base(width=16):
    with Rng(2).ambient():
        return alive(DiT((1, 8, 8), width=width, heads=2, depth=3), 1).requires_grad_(False)


@pytest.mark.parametrize("kind", list(CATALOGUE["controls"]))
def test_a_control_of_a_file_is_that_which_was_written(kind, tmp_path):
    net = base()
    with Rng(3).ambient():
        made = alive(controlled(net, config.parse(f"controls.{kind}()"), name="edges", strength=Window(0.0, 0.6)), 4)
    path, own = export(made, tmp_path), sum(p.numel() for p in made.parameters() if p.requires_grad)
    made.requires_grad_(False)  # kernels of attention differ in the last bits where gradients are needed
    again = load(net, path)
    assert torch.equal(again(X, T, {"control": H}), made(X, T, {"control": H}))
    assert (again(X, T, {"control": H}) - net(X, T)).abs().max() > 1e-4
    assert path.name == "control.safetensors" and path.stat().st_size < 4 * own + 8000, "not the base"
    assert export(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_files_of_several_controls_are_put_together_in_any_order(tmp_path):
    net, kinds = base(), {"a": EasyControl(2), "b": ControlBranch(1)}
    both = net
    for seed, (name, control) in enumerate(kinds.items()):
        both = alive(controlled(both, control, name=name), seed)
    both.requires_grad_(False)
    hints = {"a": H, "b": X}
    for order in ("ab", "ba"):
        made = net
        for name in order:
            made = load(made, export(both, tmp_path / f"{name}.safetensors", name))
        assert (made(X, T, {"control": hints}) - both(X, T, {"control": hints})).abs().max() <= 1e-5


def test_other_files_and_bases_are_refused(tmp_path):
    file = export(controlled(base(), ControlBranch(1), name="edges"), tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, other)
    cut, old = tmp_path / "cut.safetensors", tmp_path / "old.safetensors"
    cut.write_bytes(file.read_bytes()[:100])
    said = {"control": {"is": "networks.MLP"}, "channels": 1, "name": "a", "strength": 1.0}
    save_file({"w": torch.zeros(2)}, old, {HEADER: json.dumps(said)})
    broken = tmp_path / "broken.safetensors"
    save_file({"w": torch.zeros(2)}, broken, {HEADER: "{"})
    for call, message in (
        (lambda: load(base(), broken), "no mapping in JSON"),
        (lambda: load(base(32), file), r"for another base: control\.block\.0.* there and \(.*give the base"),
        (lambda: load(base(), tmp_path / "none.safetensors"), "no file .*none"),
        (lambda: load(base(), other), "holds 1 tensors, such as w, and no control"),
        (lambda: load(base(), cut), "is damaged"),
        (lambda: load(base(), old), "names the settings .*another version"),
        (lambda: load(MLP(64), file), "given to a MLP"),
        (lambda: export(base(), tmp_path), "DiT was to be exported as a control"),
        (lambda: export(controlled(base(), ControlBranch(1)), tmp_path, "edge"), "no control 'edge'"),
    ):
        with pytest.raises(BeelineError, match=message):
            call()
