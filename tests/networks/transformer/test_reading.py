"""Cross-attention, joint blocks of SD3, and positions of published networks, against explicit forms."""

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.published.presets import SD3, SIZES, FiT, Flux, PixArt, SiTB, SiTL, SiTS, SiTXL, sizes
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.positions import Learned, Rotary, rotation
from beeline.networks.transformer.reading import Cross, CrossAttention

TEXT = {"text": {"length": 5, "size": 3}}
X = Rng(0).normal(torch.empty(3, 1, 8, 8, dtype=torch.float64))
T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
WORDS = Rng(3).normal(torch.empty(3, 5, 3, dtype=torch.float64))


def alive(net):
    """The network with weights that are not zero, in float64."""
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.double().eval()


def made(kind, **more):
    with Rng(2).ambient():
        return alive(kind((1, 8, 8), **{"width": 16, "depth": 2, "heads": 2, "conditions": TEXT} | more))


def test_cross_attention_is_its_formula_and_nothing_to_read_gives_zeros():
    with Rng(0).ambient():
        net = alive(CrossAttention(8, 2))
    h, c = (Rng(i).normal(torch.empty(2, n, 8, dtype=torch.float64)) for i, n in ((1, 4), (2, 3)))
    keep = torch.tensor([[True, False, True], [False, False, False]])
    found = net(h, c, keep)
    q, kv = net.q(h)[0].unflatten(-1, (2, 4)), net.kv(c)[0, [0, 2]].unflatten(-1, (2, 2, 4))
    weights = torch.softmax(torch.einsum("nhd,mhd->hnm", q, kv[:, 0]) / 2, -1)
    wanted = net.out(torch.einsum("hnm,mhd->nhd", weights, kv[:, 1]).flatten(1))
    assert torch.allclose(found[0], wanted, atol=1e-12)
    assert float(found[1].detach().abs().max()) == 0
    assert torch.allclose(net(h, c, torch.ones(2, 3, dtype=torch.bool)), net(h, c, None), atol=1e-12)


def test_a_text_of_padding_alone_is_finite_with_finite_gradients_and_is_the_null():
    net = made(PixArt)
    words = WORDS.clone()
    words[1] = 0
    x = X.clone().requires_grad_()
    out = net(x, T, words)
    out.square().sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert out.isfinite().all() and x.grad.isfinite().all() and all(g.isfinite().all() for g in grads)
    assert torch.equal(net(X[1:2], T[1:2], None), net(X[1:2], T[1:2], words[1:2]))
    value, slope = torch.func.jvp(lambda x: net(x, T, words), (X,), (torch.ones_like(X),))
    assert slope.isfinite().all() and torch.allclose(value, out, atol=1e-12)
    assert (net(X, T, WORDS) - net(X, T, WORDS.roll(1, 0))).abs().max() > 1e-4, "the text is read"


def test_a_text_is_read_and_does_not_modulate():
    for net in (made(PixArt), made(DiT, wiring=Cross())):
        assert torch.equal(net.embed(T, WORDS), net.embed(T, None))
    assert not torch.equal(made(DiT).embed(T, WORDS), made(DiT).embed(T, None))


def test_the_last_joint_block_of_sd3_leaves_the_text_and_gives_the_datum_of_an_open_one():
    closed, whole = made(SD3).joint[-1], made(SD3, closed=False).joint[-1]
    mine = whole.state_dict()
    mine |= {f"tell.text.{k}": v[:32] for k, v in whole.tell["text"].state_dict().items()}
    closed.load_state_dict({k: v for k, v in mine.items() if not k.startswith(("mlp.text", "mix.text.out"))})
    h = Rng(1).normal(torch.empty(2, 9, 16, dtype=torch.float64))
    e = Rng(2).normal(torch.empty(2, 16, dtype=torch.float64))
    found, wanted = closed(h, e, Layout((6,))), whole(h, e, Layout((6,)))
    assert torch.allclose(found[:, :6], wanted[:, :6], atol=1e-12)
    assert torch.equal(found[:, 6:], h[:, 6:])
    net = made(SD3, dual=1)
    net(X, T, WORDS).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters()), "no weight is unused"


def test_dual_blocks_mix_the_datum_again_between_mixer_and_feed():
    two, one = made(SD3, dual=1), made(SD3)
    two.load_state_dict(one.state_dict(), strict=False)
    with torch.no_grad():
        two.joint[0].again.weight.zero_()
        two.joint[0].again.bias.zero_()
    assert torch.allclose(two(X, T, WORDS), one(X, T, WORDS), atol=1e-12)
    with torch.no_grad():
        two.joint[0].again.bias.fill_(0.5)
    assert (two(X, T, WORDS) - one(X, T, WORDS)).abs().max() > 1e-4


def test_learned_positions_of_smaller_data_are_those_of_the_middle():
    with Rng(0).ambient():
        place = Learned((5, 6)).build(4, 2, (4, 4))
    table = place.table.unflatten(0, (5, 6))
    assert torch.equal(place.added((3, 4), X), table[1:4, 1:5].flatten(0, 1))
    assert torch.equal(place.added((5, 6), X), place.table)
    with pytest.raises(BeelineError, match=r"got 6 x 6 patches, .* those of 5 x 6; pass data of at most that size"):
        place.added((6, 6), X)
    with pytest.raises(BeelineError, match=r"largest=\(3, 9\) for data of 4 x 4 patches"):
        Learned((3, 9)).build(4, 2, (4, 4))


def test_shares_of_rotary_positions():
    assert torch.equal(rotation((3, 4), 16, 50.0), rotation((3, 4), 16, 50.0, (1, 1)))
    found = rotation((3, 4), 128, 10000.0, (16, 56, 56))
    assert torch.equal(found[:, :8], torch.tensor([1.0, 0.0]).expand(12, 8, 2)), "not turned"
    angles = torch.atan2(found[..., 1], found[..., 0])[:, 8:].unflatten(0, (3, 4))
    rates = 10000.0 ** -(torch.arange(28) / 28)
    assert torch.allclose(angles[2, 3, :28].sin(), (2 * rates).sin(), atol=1e-6)
    assert torch.allclose(angles[2, 3, 28:].cos(), (3 * rates).cos(), atol=1e-6)
    with pytest.raises(BeelineError, match="shares"):
        Rotary(shares=(1, 1, 1, 1)).build(32, 2, (4, 4))


def test_sizes_of_dit_have_the_parameters_of_the_paper():
    with torch.device("meta"):
        nets = {name: SiTS((4, 32, 32), conditions={"label": {"classes": 1000}}, **sizes(name)) for name in SIZES}
    count = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in nets.items()}
    # DiT-S/2 33, B/2 130, L/2 458 and XL/2 675 million, which include the second half of the output and more features
    assert all(abs(count[n] - wanted) < 1 for n, wanted in {"S": 33, "B": 130, "L": 458, "XL": 675}.items()), count
    for kind, name in ((SiTS, "S"), (SiTB, "B"), (SiTL, "L"), (SiTXL, "XL")):
        with torch.device("meta"):
            net = kind((4, 8, 8))
        assert {k: net.settings[k] for k in ("width", "depth", "heads", "patch")} == sizes(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(PixArt, conditions=None), "Cross got no conditions"),
        (lambda: made(Flux, conditions=None), "Flux got no conditions"),
        (lambda: made(SD3, single=1), "closed block is the last"),
        (lambda: made(MMDiT, dual=3), "set dual to 0 to 2"),
        (lambda: sizes("M"), "sizes got 'M'; valid names"),
        (lambda: config.parse("FiT((1, 8, 8), widht=16)"), "widht.*did you mean 'width'"),
        (lambda: config.parse("FiT((1, 8, 8), single=1)"), "FiT has no setting 'single'"),
        (lambda: made(FiT, features=7), "features=7 .* even"),
        (lambda: made(FiT, steps=2), "steps=2; .* is 0 or 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
