"""Parameter groups: weight decay and orthogonalised updates apply to matrices only."""

import torch
from torch import nn

from beeline.core.rng import Rng
from beeline.core.types import Loss
from beeline.networks.attention import SelfAttention
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW, Muon
from beeline.training.optim.parameter_groups import describe_groups, matrices


class Parts(nn.Module):
    """Parameters of many kinds of modules, with two or more dimensions where possible."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.kernel = nn.Conv2d(2, 2, 3)
        self.norm = nn.LayerNorm((2, 3))
        self.table = nn.Embedding(5, 3)
        self.recurrent = nn.LSTM(3, 2)
        self.position = nn.Parameter(torch.ones(4, 3))
        self.gain = nn.Parameter(torch.ones(2, 1, 3))
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x, t, cond=None):
        return x


def test_matrices_are_found_by_module_and_name():
    found = set(matrices({"net": Parts()}).values())
    recurrent = {"net.recurrent.weight_ih_l0", "net.recurrent.weight_hh_l0"}
    assert found == {"net.linear.weight", "net.kernel.weight", "net.weight"} | recurrent
    assert not any("gain" in name for name in matrices({"net": SelfAttention(8, 2)}).values())
    words = describe_groups({"net": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))})
    assert "2 matrices (net.*.weight)" in words and "4 gains, biases" in words


class ZeroLoss:
    """A loss with zero gradient, so that only weight decay changes parameters."""

    def __call__(self, net, batch, rng):
        zero = sum(p.sum() for p in net.parameters()) * 0.0
        return Loss(zero, {}, zero.detach()[None], torch.zeros(1))


def test_weight_decay_changes_only_matrices_and_the_groups_are_logged():
    for optimizer in (AdamW(weight_decay=0.1), Muon(weight_decay=0.1)):
        with Rng(0).ambient():
            net = Parts()
        before = {k: p.detach().clone() for k, p in net.named_parameters()}
        chosen = {name.removeprefix("net.") for name in matrices({"net": net}).values()}
        entries = []
        training = Training(steps=1, batch_size=2, optimizer=optimizer, lr=Constant(0.5), ema=None)
        fit(net, ZeroLoss(), torch.ones(4, 1), training, rng=Rng(0), log=entries.append)
        for name, p in net.named_parameters():
            factor = 0.95 if name in chosen else 1.0  # 1 - lr weight_decay
            assert torch.allclose(p, before[name] * factor), name
        assert "not to 9 gains" in entries[0]["note"] and "network.position" in entries[0]["note"]
