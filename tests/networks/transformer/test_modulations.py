"""Modulations that share a layer: what each block is told, and how many weights it has."""

import torch

from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.transformer.modulations import AdaLNLoRA, AdaLNSingle

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
