"""Files of adapters in the forms of other tools, against explicit weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.adapters.adapted import adapted, merged
from beeline.networks.adapters.delta import LoRA, changed_layers, layers_of
from beeline.networks.adapters.factors import Factors
from beeline.networks.adapters.members.low_rank import DoRA
from beeline.networks.adapters.members.mixture import Mixture
from beeline.networks.adapters.members.sparse import SVFT
from beeline.networks.dit import DiT
from beeline.networks.unet import UNet
from beeline.runs.adapters.dialects import DIALECTS, KOHYA, PEFT, contents
from beeline.runs.adapters.files import export, load, read
from beeline.runs.adapters.names import match
from beeline.runs.adapters.sites import LowRankSite, site_of

X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])


def alive(net, scale=0.1):
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(scale * torch.randn_like(p))
    return net


def base(kind=DiT):
    more = {"heads": 2, "depth": 2} if kind is DiT else {}
    with Rng(2).ambient():
        return alive(Network(kind((1, 8, 8), width=16, **more)))


def changed(net, delta, layers=()):
    with Rng(3).ambient():
        made = adapted(net, delta, layers)
    for layer in changed_layers(made).values():
        alive(layer.changes)
    return made


@pytest.mark.parametrize("kind", [DiT, UNet])
@pytest.mark.parametrize("delta", [LoRA(3, scale=0.5), DoRA(2), SVFT()], ids=repr)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda d: d.name)
def test_a_file_of_every_form_gives_the_same_network(tmp_path, dialect, delta, kind):
    net = base(kind)
    made = changed(net, delta)
    again, found = load(net, export(made, tmp_path / "file.safetensors", dialect))
    assert set(found.sites) == set(layers_of(net.backbone)) and not found.unknown
    assert (again(X, T) - made(X, T)).abs().max() <= 1e-5
    assert (again(X, T) - net(X, T)).abs().max() > 1e-3
    assert (merged(again)(X, T) - made(X, T)).abs().max() <= 1e-5


@pytest.mark.parametrize("delta", [LoRA(3, scale=0.5), DoRA(2), SVFT(1)], ids=repr)
def test_the_own_form_is_read_bit_for_bit(tmp_path, delta):
    net = base()
    made = changed(net, delta)
    again, _ = load(net, export(made, tmp_path / "file.safetensors"))
    assert torch.equal(again(X, T), made(X, T))
    with pytest.raises(BeelineError, match="another base"):
        load(base(UNet), tmp_path / "file.safetensors")


def test_files_of_the_own_form_are_stacked(tmp_path):
    net = base()
    deltas = [Mixture((LoRA(1), DoRA(1))), SVFT()]
    files = [export(changed(net, delta), tmp_path / f"{k}.safetensors") for k, delta in enumerate(deltas)]
    first = load(net, files[0])[0]
    both = load(first, files[1])[0]
    again = load(first, export(both, tmp_path / "outer.safetensors"))[0]  # the outermost alone
    assert torch.equal(again(X, T), both(X, T)) and not torch.equal(both(X, T), first(X, T))
    for k, layer in enumerate(changed_layers(both).values()):
        assert [type(change.delta) for change in layer.changes] == [Mixture, SVFT], k


def test_a_folder_of_peft_and_the_scales_of_every_tool(tmp_path):
    net = base()
    made = changed(net, LoRA(4, scale=0.5), ["mix.out"])
    folder = export(made, tmp_path / "folder", PEFT)
    written = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.block.0.mix.out.lora_A.weight"
    assert name in written and written[name].shape == (4, 16)
    for change, factor in (({"lora_alpha": 8}, 2.0), ({"lora_alpha": 8, "use_rslora": True}, 4.0),
                           ({"alpha_pattern": {"0.mix.out": 2}}, 0.5)):  # fmt: skip
        settings = json.loads((folder / "adapter_config.json").read_text()) | change
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        site = read(folder).contents.sites["block.0.mix.out"]
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 4, "use_rslora": False}))
        assert site.scale == factor
    up, down = torch.randn(6, 2), torch.randn(2, 5)
    half = site_of("a", {"up": up, "down": down, "alpha": torch.tensor(1.0)}, None)
    assert torch.allclose(half.change(torch.zeros(6, 5)), 0.5 * up @ down)
    assert site_of("a", {"up": up, "down": down}, None).scale == 1.0


def test_lycoris_products_are_explicit():
    a, b, c, d = torch.randn(6, 2), torch.randn(2, 8), torch.randn(6, 2), torch.randn(2, 8)
    file = {"lycoris_x_y.hada_w1_a": a, "lycoris_x_y.hada_w1_b": b, "lycoris_x_y.hada_w2_a": c,
            "lycoris_x_y.hada_w2_b": d, "lycoris_x_y.alpha": torch.tensor(1.0),
            "lycoris_x_z.lokr_w1": torch.randn(2, 3), "lycoris_x_z.lokr_w2_a": torch.randn(4, 2),
            "lycoris_x_z.lokr_w2_b": torch.randn(2, 5), "lycoris_x_z.alpha": torch.tensor(4.0),
            "lycoris_x_w.diff": torch.randn(3, 3), "lora_te1_x.lora_down.weight": torch.zeros(1, 1)}  # fmt: skip
    found = contents(file, {}, None)
    assert found.dialect == "LyCORIS" and found.others == ("lora_te1_x.lora_down.weight",)
    w = torch.zeros(())
    assert torch.allclose(found.sites["x_y"].change(w), 0.5 * (a @ b) * (c @ d))
    second = file["lycoris_x_z.lokr_w2_a"] @ file["lycoris_x_z.lokr_w2_b"]
    assert torch.allclose(found.sites["x_z"].change(w), 2 * torch.kron(file["lycoris_x_z.lokr_w1"], second))
    assert {s.method for s in found.sites.values()} == {"LoHa", "LoKr", "difference"}


def test_fused_layers_are_divided_and_divided_ones_fused():
    whole = Factors(torch.randn(12, 2), torch.randn(2, 4))
    sizes = {f"net.b.0.attn.to_{n}": (4, 4) for n in "qkv"}
    found = match({"b_0_attn_qkv": LowRankSite(whole)}, sizes)
    assert set(found.sites) == set(sizes) and not found.unknown
    rows = torch.cat([found.sites[n].change(torch.zeros(())) for n in sizes])
    assert torch.allclose(rows, whole.dense(), atol=1e-6)
    block = Factors(torch.block_diag(*torch.randn(3, 4, 1)), torch.randn(3, 4))
    parts = match({"b.0.attn.qkv": LowRankSite(block)}, sizes).sites
    assert [s.rank for s in parts.values()] == [1, 1, 1]
    back = match({n.removeprefix("net."): s for n, s in parts.items()}, {"b.0.attn.qkv": (12, 4)}).sites
    assert torch.allclose(back["b.0.attn.qkv"].change(torch.zeros(())), block.dense(), atol=1e-6)
    two = {"b.0.attn.to_q": parts["net.b.0.attn.to_q"], "b.0.attn.to_v": parts["net.b.0.attn.to_v"]}
    part = match(two, {"b.0.attn.qkv": (12, 4)}).sites["b.0.attn.qkv"].change(torch.zeros(()))
    wanted = block.dense().clone()
    wanted[4:8] = 0
    assert torch.allclose(part, wanted, atol=1e-6)


def test_the_names_of_flux_are_those_of_diffusers():
    convert = pytest.importorskip("diffusers.loaders.lora_conversion_utils", exc_type=ImportError)
    torch.manual_seed(0)
    d, file = 3072, {}
    shapes = {"double_blocks_0_img_attn_qkv": (3 * d, d), "double_blocks_0_txt_mod_lin": (6 * d, d),
              "single_blocks_0_linear1": (7 * d, d), "double_blocks_0_img_attn_proj": (d, d)}  # fmt: skip
    for path, (out, into) in shapes.items():
        file |= {f"lora_unet_{path}.lora_down.weight": torch.randn(2, into) / 50,
                 f"lora_unet_{path}.lora_up.weight": torch.randn(out, 2),
                 f"lora_unet_{path}.alpha": torch.tensor(1.0)}  # fmt: skip
    theirs = contents(convert._convert_kohya_flux_lora_to_diffusers(dict(file)), {}, None).sites
    found = match(contents(file, {}, None).sites, {path: s.shape for path, s in theirs.items()})
    assert set(found.sites) == set(theirs) and not found.unknown and not found.clashes
    for path, site in theirs.items():
        a, b = site.baked, found.sites[path].baked
        assert float((a + b.scaled(-1.0)).norm() / a.norm()) < 1e-3, path


def test_files_for_another_base_are_refused(tmp_path):
    net = base()
    made = changed(net, LoRA(2))
    path = export(made, tmp_path / "file.safetensors", KOHYA)
    with Rng(4).ambient():
        wide = Network(DiT((1, 8, 8), width=32, depth=2, heads=2))
    with pytest.raises(BeelineError, match="16 x 48 there and 32 x 96 here"):
        load(wide, path)
    other = {"lora_unet_other.lora_up.weight": torch.zeros(2, 1), "lora_unet_other.lora_down.weight": torch.zeros(1, 2)}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(BeelineError, match="no layer of .* is one of DiT"):
        load(net, tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    with pytest.raises(BeelineError, match="no change of a layer"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(BeelineError, match="no changed weights"):
        export(net, tmp_path / "x.safetensors")
