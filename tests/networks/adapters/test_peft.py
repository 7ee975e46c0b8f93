"""Deltas of the library peft, and files that it writes and reads; skipped where it is not installed."""

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.blocks import MiSS
from beeline.networks.adapters.members.low_rank import DoRA
from beeline.networks.adapters.members.peft import Peft
from beeline.networks.mlp import MLP
from beeline.runs.adapters.dialects import PEFT
from beeline.runs.adapters.files import export, load, read

peft = pytest.importorskip("peft", exc_type=ImportError)

AT_BASE = [
    ("Lora", {}), ("Lora", {"use_dora": True}), ("Lora", {"use_rslora": True}),
    ("Lora", {"init_lora_weights": "pissa"}),
    ("AdaLora", {"total_step": 10}), ("Delora", {}), ("Hira", {}), ("LoHa", {}), ("LoKr", {}),
    ("Gralora", {"r": 4, "gralora_k": 2}),
    ("Vera", {"r": 4}), ("RandLora", {"r": 4}), ("FourierFT", {"n_frequency": 40, "init_weights": True}),
    ("C3A", {"block_size": 8, "init_weights": True}), ("HRA", {"r": 4}), ("OFT", {"oft_block_size": 8}),
    ("BOFT", {"boft_block_size": 8}),
    ("Psoft", {}), ("Glora", {}), ("Deft", {}), ("Miss", {"r": 8}), ("Shira", {"r": 2}),
    ("IA3", {"feedforward_modules": []}), ("WaveFT", {"n_frequency": 40}),
]  # fmt: skip
ELSEWHERE = [("VBLoRA", {"vector_length": 8, "num_vectors": 4, "topk": 2}), ("FourierFT", {"n_frequency": 40})]
W, B = torch.randn(48, 32, generator=torch.Generator().manual_seed(0)) / 32**0.5, torch.linspace(-1, 1, 48)


@pytest.mark.parametrize(("name", "settings"), AT_BASE + ELSEWHERE, ids=lambda v: str(v))
def test_the_weight_of_peft_is_that_of_its_layer(name, settings):
    delta = Peft(name, settings)
    with Rng(0).ambient():
        p = delta.start(W)
    assert any(not k.startswith("_") for k in p), "something is trained"
    moved = (delta.weight(W, p) - W).abs().max()
    assert (moved <= 1e-5) == ((name, settings) in AT_BASE)
    with Rng(1).ambient():
        p = {k: v + 0.05 * torch.randn_like(v) if not k.startswith("_") else v for k, v in p.items()}
    w, b = delta.weight(W, p), delta.bias(B, W, p)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    direct = delta._run(x, W, B, p)
    assert (x @ w.mT + b - direct).abs().max() <= 1e-4
    assert (w - W).abs().max() > 1e-4 or (b - B).abs().max() > 1e-4


def test_own_forms_are_those_of_peft():
    with Rng(0).ambient():
        p = Peft("Miss", {"r": 8, "init_weights": "bat"}).start(W)
        (name, start), *_ = ((k, v) for k, v in p.items() if not k.startswith("_"))
        tiles = 0.1 * torch.randn(6, 8, 8)
    ours = MiSS(8).weight(W, {"tiles": tiles})
    theirs = Peft("Miss", {"r": 8, "init_weights": "bat"}).weight(W, p | {name: tiles.view_as(start)})
    assert (ours - theirs).abs().max() <= 1e-5


def test_layers_that_are_not_affine_and_unknown_names_are_refused():
    with pytest.raises(BeelineError, match="did you mean 'Lora'"):
        Peft("Lorra").start(W)
    with pytest.raises(BeelineError, match="Lily of peft is not affine"):
        Peft("Lily").start(W)
    with pytest.raises(BeelineError, match="peft refused HRA"):
        Peft("HRA", {"rank_of_it": 4}).start(W)


def net():
    with Rng(0).ambient():
        made = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 12))
    return made


@pytest.mark.parametrize("delta", [LoRA(2, scale=3.0), DoRA(2)], ids=repr)
def test_peft_reads_what_is_written_and_what_it_writes_is_read(tmp_path, delta):
    base, x = net(), torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    with Rng(1).ambient():
        made = Adapted(net(), delta, ["0", "2"])
        with torch.no_grad():
            for layer in changed_layers(made).values():
                for q in layer.changes.parameters():
                    q.add_(0.1 * torch.randn_like(q))
    made.forward = made.field.forward
    wanted = made(x)
    folder = export(made, tmp_path / "ours", PEFT)
    theirs = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    assert (theirs(x) - wanted).abs().max() <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    again, found = load(net(), tmp_path / "theirs")
    again.forward = again.field.forward
    assert set(found.sites) == {"0", "2"} and (again(x) - wanted).abs().max() <= 1e-5


def test_scales_of_peft_are_read(tmp_path):
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["0", "2"], rank_pattern={"2": 2},
                             alpha_pattern={"2": 5}, init_lora_weights=False)  # fmt: skip
    with Rng(3).ambient():
        theirs = peft.get_peft_model(net(), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    again, _ = load(net(), tmp_path / "theirs")
    again.forward = again.field.forward
    assert (again(x) - theirs(x)).abs().max() <= 1e-5
    assert read(tmp_path / "theirs").contents.sites["2"].scale == pytest.approx(5 / 2**0.5)


def test_an_adapted_network_trains_a_delta_of_peft():
    with Rng(0).ambient():
        made = Adapted(MLP(2, width=16, depth=1), Peft("OFT", {"oft_block_size": 4}))
    with torch.no_grad():
        for p in made.field.out.parameters():
            p.add_(0.1)
    x, t = torch.ones(3, 2), torch.full((3,), 0.5)
    made(x, t).square().sum().backward()
    grads = [p.grad for p in made.parameters() if p.requires_grad]
    assert grads and all(g is not None and bool(g.isfinite().all()) for g in grads)
