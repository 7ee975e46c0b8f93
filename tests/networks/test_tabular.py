"""Networks for tables: what comes out of a state, a number and a known cell; rebuilding; refusals."""

import pytest
import torch

from beeline.config.build import build, describe
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Data, Network
from beeline.networks.tabular import TabularMLP, TabularTransformer

GROUPS = [[1], [3], [2, 1], [1, 1]]
KNOWN = {"known": {"size": 9}, "mask": {"size": 4}}
KINDS = [
    (TabularMLP, {"width": 32, "depth": 2}),
    (TabularTransformer, {"width": 16, "depth": 2, "heads": 2}),
]


def grown(kind: type, settings: dict, **more: object) -> torch.nn.Module:
    """A network whose zeroed layers were filled, as training would."""
    with Rng(0).ambient():
        net = kind(GROUPS, conditions=KNOWN, **settings, **more)
        for p in net.parameters():
            p.data += 0.2 * torch.randn_like(p)
    return net.eval()


def row(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return Rng(1).normal(torch.empty(n, 9)), Rng(2).uniform(n, torch.empty(0))


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_sharp_network_gives_probabilities_of_states(kind: type, settings: dict) -> None:
    net = grown(kind, settings)
    x, t = row()
    made = net(x, t)
    for a, b in ((1, 4), (4, 6)):
        p = (made[:, a:b] + 1) / 2
        assert torch.allclose(p.sum(1), torch.ones(5), atol=1e-5) and (p > 0).all()
    plain = grown(kind, settings, sharp=False)(x, t)
    numbers = [0, 6, 7, 8]
    assert torch.allclose(made[:, numbers], x[:, numbers] + (1 - t)[:, None] * plain[:, numbers], atol=1e-5)
    logits = plain[:, 1:4]
    assert torch.allclose((made[:, 1:4] + 1) / 2, logits.softmax(1), atol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_known_cells_are_reproduced_and_change_the_others(kind: type, settings: dict) -> None:
    net = grown(kind, settings)
    x, t = row()
    mask = torch.tensor([[1.0, 0, 1, 0]] * 5)
    known = Rng(3).normal(x) * mask[:, net.columns.column]
    made = net(x, t, {"known": known, "mask": mask})
    wide = mask[:, net.columns.column] > 0
    assert torch.equal(made[wide], known[wide])
    assert not torch.allclose(made[~wide], net(x, t)[~wide])
    hidden = torch.where(wide, 100.0, x)
    assert torch.allclose(net(hidden, t, {"known": known, "mask": mask}), made, atol=1e-5), (
        "noise under a known cell is nothing"
    )
    nothing = {"known": torch.zeros_like(x), "mask": torch.zeros(5, 4)}
    assert torch.equal(net(x, t, nothing), net(x, t))


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_described_and_rebuilt_with_its_stacks(kind: type, settings: dict) -> None:
    net = Network(grown(kind, settings), prediction=Data())
    again = build(describe(net))
    again.load_state_dict(net.state_dict())
    x, t = row()
    assert torch.equal(again.eval()(x, t), net(x, t))
    assert {name: len(stack) for name, stack in net.stacks.items()} == {"block": 2}


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_bfloat16_products_are_close_and_derivatives_float32(kind: type, settings: dict) -> None:
    net, short = grown(kind, settings), grown(kind, settings, half=True)
    x, t = row()
    with torch.no_grad():
        assert not torch.equal(net(x, t), short(x, t))
        assert torch.allclose(net(x, t), short(x, t), atol=0.1)
    assert torch.equal(net(x.requires_grad_(), t), short(x, t))


def test_columns_of_the_transformer_embed_their_own_features() -> None:
    net = grown(TabularTransformer, {"width": 16, "depth": 1, "heads": 2}, sharp=False)
    net.block = torch.nn.ModuleList()  # without attention no column hears of another
    x, t = row()
    moved = x.clone()
    moved[:, 1:4] += 1
    changed = (net(moved, t) != net(x, t)).any(0)
    assert changed[1:4].all() and not changed[[0, 4, 5, 6, 7, 8]].any()


def test_a_jump_has_an_end() -> None:
    net = grown(TabularMLP, {"width": 32, "depth": 1, "span": True})
    x, t = row()
    assert not torch.equal(net(x, t, None, t * 0 + 1), net(x, t, None, t))


def test_refusals() -> None:
    with pytest.raises(BeelineError, match="use both from the fitted table"):
        TabularMLP(GROUPS, shape=(7,))
    with pytest.raises(BeelineError, match="use both from the fitted table"):
        TabularMLP([])
    with pytest.raises(BeelineError, match="supports known cells only"):
        TabularMLP(GROUPS, conditions={"label": {"classes": 3}})
    with pytest.raises(BeelineError, match="whole numbers from 1"):
        TabularMLP(GROUPS, depth=0)
    x, t = row()
    with pytest.raises(BeelineError, match="network for tables without conditions"):
        TabularMLP(GROUPS, width=8)(x, t, {"known": x, "mask": x})
    with pytest.raises(BeelineError, match="create it with the table's condition"):
        grown(TabularMLP, {"width": 8, "depth": 1})(x, t, {"mask": x})
