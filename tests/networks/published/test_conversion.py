"""Transformers of diffusers with random weights become networks of slots with equal outputs."""

import json

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.published.conversion import converted

diffusers = pytest.importorskip("diffusers")

SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}
TEXTS = {"joint_attention_dim": 12, "pooled_projection_dim": 10}
DIT = {**SMALL, "in_channels": 3, "sample_size": 8, "num_embeds_ada_norm": 5}
SD3 = {**SMALL, **TEXTS, "in_channels": 4, "out_channels": 4, "sample_size": 8, "caption_projection_dim": 32,
       "pos_embed_max_size": 6}  # fmt: skip
FLUX = {**SMALL, **TEXTS, "in_channels": 16, "num_single_layers": 2, "axes_dims_rope": (4, 6, 6)}
PIXART = {**SMALL, "in_channels": 4, "out_channels": 8, "sample_size": 8, "cross_attention_dim": 32,
          "caption_channels": 12}  # fmt: skip
CASES = {
    "dit": ("DiTTransformer2DModel", DIT),
    "dit, exact gelu": ("DiTTransformer2DModel", DIT | {"activation_fn": "gelu", "out_channels": 6}),
    "sd3": ("SD3Transformer2DModel", SD3),
    "sd3.5": ("SD3Transformer2DModel", SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}),
    "flux": ("FluxTransformer2DModel", FLUX),
    "flux with guidance": ("FluxTransformer2DModel", FLUX | {"guidance_embeds": True}),
    "pixart": ("PixArtTransformer2DModel", PIXART),
    "pixart with sizes": ("PixArtTransformer2DModel", PIXART | {"use_additional_conditions": True,
                                                               "attention_head_dim": 24,
                                                               "cross_attention_dim": 48}),
}  # fmt: skip
B, LENGTH = 3, 7
WORDS = Rng(2).normal(torch.empty(B, LENGTH, 12))
POOLED = Rng(3).normal(torch.empty(B, 10))
T = torch.tensor([0.0, 0.317, 0.9])


def theirs(name, seed=0):
    """A network of diffusers without zeros, whose blocks of DiT have one embedding."""
    kind, settings = CASES[name]
    with Rng(seed).ambient(), torch.no_grad():
        net = getattr(diffusers, kind)(**settings).eval()
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for block in net.transformer_blocks[1:] if kind.startswith("DiT") else ():
            block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    return net


def ids(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()


def packed(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(y, x):
    b, c, h, w = x.shape
    return y.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


@torch.no_grad()
def outputs(name, net, x, mask):
    """What the network of diffusers gives, and the condition of ours."""
    tau, c = 1000 * (1 - T), x.shape[1]
    words = WORDS * mask[..., None]
    if name.startswith("dit"):
        label = torch.tensor([0, 3, 5])
        return net(x, timestep=tau, class_labels=label).sample[:, :c], {"label": label}
    if name.startswith("sd3"):
        return net(x, WORDS, POOLED, tau).sample, {"text": WORDS, "pooled": POOLED}
    if name.startswith("flux"):
        guidance = torch.full((B,), 2.5) if net.config.guidance_embeds else None
        places = ids(x.shape[2] // 2, x.shape[3] // 2)
        y = net(packed(x), WORDS, POOLED, 1 - T, places, torch.zeros(LENGTH, 3), guidance).sample
        return unpacked(y, x), {"text": WORDS, "pooled": POOLED}
    more = {"resolution": torch.tensor([[512.0, 256.0]] * B), "aspect_ratio": torch.tensor([[2.0]] * B)}
    sized = more if net.use_additional_conditions else None
    y = net(x, words, tau, added_cond_kwargs=sized, encoder_attention_mask=mask).sample
    return y[:, :c], {"text": words}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal_and_every_tensor_is_accounted_for(name, seed):
    net = theirs(name, seed)
    ours, report = converted(net, length=LENGTH, guidance=2.5, resolution=(512.0, 256.0))
    x = Rng(1).normal(torch.empty(B, *ours.shape[:1], 8, 8))
    mask = torch.ones(B, LENGTH)
    mask[0, 4:] = 0
    wanted, cond = outputs(name, net, x, mask)
    found = ours(x, T, cond).detach()
    assert wanted.std() > 0.1
    assert (found + wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1), "data - noise, from noise to data"
    assert (found - ours(x, T.roll(1), cond)).abs().max() > 1e-3
    used = {n for of in report.matched.values() for n in of} | set(report.copies)
    assert used == set(net.state_dict()) and not report.unused and not report.missing
    assert set(report.matched) | set(report.constants) == set(ours.state_dict())
    again = config.build(config.describe(ours))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.eval()(x, T, cond), ours.eval()(x, T, cond))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_other_sizes_are_equal_as_well(name):
    net = theirs(name)
    ours = converted(net, length=LENGTH).network
    x = Rng(1).normal(torch.empty(B, *ours.shape[:1], 6, 10))
    wanted, cond = outputs(name, net, x, torch.ones(B, LENGTH))
    assert (ours(x, T, cond) + wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", ["dit", "flux"])
def test_a_folder_is_read_as_the_network_that_was_saved(name, tmp_path):
    net = theirs(name)
    net.save_pretrained(tmp_path / "pipe" / "transformer", max_shard_size="20KB")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert len(list((tmp_path / "pipe" / "transformer").glob("*.safetensors"))) > 1
    want = converted(net, sign=1.0, length=LENGTH).network.state_dict()
    found = converted(tmp_path / "pipe", sign=1.0, length=LENGTH).network.state_dict()
    assert want.keys() == found.keys() and all(torch.equal(want[k], found[k]) for k in want)


def _folder(tmp_path, change, name="flux"):
    from safetensors.torch import save_file

    net = theirs(name)
    net.save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    save_file(change({k: v.contiguous() for k, v in net.state_dict().items()}), file)
    return tmp_path


BROKEN = {
    "nothing": (lambda s: {f"model.{k}": v for k, v in s.items()}, r"has 0 of the 140 tensors .* not context_embedder.*"
                r" and 136 more; 140 of its own have no place: model\.context_embedder.*give the whole checkpoint"),
    "half": (lambda s: {k: v for k, v in s.items() if not k.startswith("single")},
             r"has 112 of the 140 tensors that the network needs, not single_transformer_blocks\.0\.attn\.norm_k"),
    "one more": (lambda s: s | {"extra": torch.zeros(3)}, r"has 140 of the 140 .*; 1 of its own have no place: extra"),
    "another size": (lambda s: s | {"proj_out.bias": torch.zeros(3)}, r"out.bias \[3\] for \[16\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_checkpoint_that_matches_nothing_or_half_is_refused_with_the_names(what, tmp_path):
    change, message = BROKEN[what]
    with pytest.raises(BeelineError, match=message):
        converted(_folder(tmp_path, change))


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(BeelineError, match=r"has no config.json; .*save_pretrained"):
        converted(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BeelineError, match="no configuration of a model"):
        converted(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(BeelineError, match=r"has no weights in safetensors, only config.json"):
        converted(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    _folder(tmp_path / "x", dict)
    (tmp_path / "x" / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    with pytest.raises(BeelineError, match="one of WanTransformer3DModel; conversions are known for DiT"):
        converted(tmp_path / "x")
    with pytest.raises(BeelineError, match="a Linear was given"):
        converted(torch.nn.Linear(1, 1))
    net = theirs("dit")
    with torch.no_grad():
        net.transformer_blocks[2].norm1.emb.timestep_embedder.linear_1.bias.add_(1)
    with pytest.raises(BeelineError, match=r"other weights in transformer_blocks\.2\.norm1\.emb.*DiffusersDiT"):
        converted(net)
