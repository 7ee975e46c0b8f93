"""Modulations that share a layer: what each block is told, and how many weights it has."""

import torch

from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.transformer.blocks import Peri, PreNorm, ReZero, Sizes
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.modulations import AdaLNLoRA, AdaLNSingle, TimeDependent

E = Rng(0).normal(torch.empty(3, 8))


def test_a_table_is_added_to_the_layer_that_all_blocks_share():
    with Rng(1).ambient():
        root, long, short = AdaLNSingle().root(8), AdaLNSingle().build(8, 6), AdaLNSingle().build(8, 3)
        for p in (*root.parameters(), *long.parameters(), *short.parameters()):
            torch.nn.init.normal_(p)
    wanted = (E @ root.weight.T + root.bias).unflatten(-1, (6, 8))
    assert torch.allclose(long(root(E)).unflatten(-1, (6, 8)), wanted + long.table, atol=1e-6)
    assert torch.allclose(short(root(E)).unflatten(-1, (3, 8)), wanted[:, :3] + short.table, atol=1e-6)


def test_a_part_of_full_rank_is_any_linear_layer():
    full, mean = torch.nn.Linear(8, 48), Rng(2).normal(torch.empty(48, 8))
    root, part = AdaLNLoRA(ratio=1).root(8), AdaLNLoRA(ratio=1).build(8, 6)
    u, s, v = torch.linalg.svd(full.weight.detach() - mean, full_matrices=False)
    with torch.no_grad():
        root.shared.weight.copy_(mean)
        part.down.weight.copy_(v)
        part.up.weight.copy_(u * s)
        part.up.bias.copy_(full.bias)
    assert torch.allclose(part(root(E)), full(E), atol=1e-5)


def test_the_weights_of_modulations_are_counted():
    def count(depth, **more):
        net = DiT((1, 8, 8), width=16, depth=depth, heads=2, **more)
        return sum(
            p.numel()
            for name, p in net.named_parameters()
            if name.startswith(("root", "block")) and "mix" not in name and "mlp" not in name
        )

    full, single, lora = (
        [count(depth, **more) for depth in (1, 2)]
        for more in ({}, {"modulation": AdaLNSingle()}, {"modulation": AdaLNLoRA(4)})
    )
    assert [b - a for a, b in (full, single, lora)] == [6 * 16 * 17, 6 * 16, 4 * 16 + 5 * 6 * 16]
    net = MMDiT(
        (1, 8, 8), width=16, depth=1, single=1, heads=2, conditions={"label": {"classes": 2}}, modulation=AdaLNLoRA()
    )
    assert sum(name.startswith("root.") for name, _ in net.named_parameters()) == 2, "one layer for all blocks"


def test_scales_and_gates_go_from_one_vector_to_another_in_time():
    root, part = TimeDependent().root(8), TimeDependent().build(8, 6)
    with Rng(1).ambient():
        for p in (*root.parameters(), *part.parameters()):
            torch.nn.init.normal_(p)
    t = torch.tensor([0.1, 0.5, 0.8])
    told = part(root(E, t)).unflatten(-1, (2, 3, 8))  # branches, (shift, scale, gate)
    assert torch.allclose(told[:, :, 0].flatten(1), root.shared(E), atol=1e-6)
    clock = 0.5 * torch.log(t / (1 - t))[:, None, None, None]
    share = torch.sigmoid(part.slope * clock + part.start)
    assert torch.allclose(told[:, :, 1:], share * part.ends[0] + (1 - share) * part.ends[1], atol=1e-6)
    with torch.no_grad():
        part.start.fill_(100.0)
    assert torch.allclose(part(root(E, t)).unflatten(-1, (2, 3, 8))[:, :, 1:], part.ends[0].expand(3, -1, -1, -1))
    with torch.no_grad():
        part.start.zero_()
        part.ends[1] = part.ends[0]
    same = part(root(E[:1].expand(3, -1), t))
    assert torch.allclose(same, same[:1].expand_as(same)), "equal ends do not depend on time"
    assert bool(part(root(E, torch.tensor([0.0, 0.5, 1.0]))).isfinite().all())


def test_the_stream_grows_by_one_in_each_branch_that_is_normalised_again():
    """The size of the last weights of a branch has no effect with norms after it, and much without."""
    h = Rng(3).normal(torch.empty(4, 16, 32, dtype=torch.float64))
    made = {}
    for wiring in (Peri(), PreNorm()):
        for size in (1.0, 10.0):
            with Rng(4).ambient(), torch.no_grad():
                stream = h
                for _ in range(4):
                    block = wiring.build(Sizes(32, 2, 128, 0.0, (16,)), Attention(), FeedForward(), ReZero()).double()
                    block.tell.gate.fill_(1.0)
                    for name in ("mix.out", "mlp.3"):
                        block.get_submodule(name).weight.mul_(size)
                        block.get_submodule(name).bias.zero_()
                    stream = block(stream, torch.zeros(4, 32).double(), Layout((16,)))
            made[type(wiring), size] = float(stream.var())
    assert abs(made[Peri, 1.0] - 9) < 2.5, "1 + 8 branches"
    assert abs(made[Peri, 10.0] / made[Peri, 1.0] - 1) < 1e-2
    assert made[PreNorm, 10.0] - 1 > 50 * (made[PreNorm, 1.0] - 1)
