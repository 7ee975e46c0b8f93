"""Held-out loss of digits of 8 x 8 pixels after equal training, 100 steps: a network of four blocks, two of which see
half of the tokens, against one of three blocks, whose cost is that of its blocks, and against all four blocks. Then a
trained network of four blocks, of which the block with the lowest entropy rank of its attention lets half of its
tokens skip, against the block with the highest, without further training. No language model is measured, and no
time."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.attention import SelfAttention
from beeline.networks.transformer.plans.depths import Depths, entropy_rank
from beeline.networks.transformer.plans.replanned import replanned
from benchmarks.claims.small_transformers import digits, heldout, plain, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "gamma-MoD: mixture of depths"
CLAIM = (
    "Half of the tokens can skip blocks, those with the lowest rank of attention first, at a loss of little quality."
)


def ranks(net: bl.Network, rng: bl.Rng) -> list[float]:
    """The mean entropy rank of the attention of every block, for states at all times."""
    maps: list[float] = []

    def note(module: SelfAttention, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        q, k, _ = module.divided(given[0])
        maps.append(float(entropy_rank(torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)).mean()))

    hooks = [block.mix.register_forward_hook(note) for block in net.backbone.block]
    x1 = digits()[1].x1[:64]
    t = rng.fork("at").uniform(len(x1), x1)
    with torch.no_grad():
        net(torch.lerp(rng.fork("noise").normal(x1), x1, t[:, None, None, None]), t)
    for hook in hooks:
        hook.remove()
    return maps


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    full, less = plain(rng.seed), plain(rng.seed, 3)
    some = trained(transformer(rng, plan=Depths(0.5)), rng)
    first, (a, b, c) = heldout(transformer(rng), rng), (heldout(net, rng) for net in (full, less, some))
    found = ranks(full, rng)
    low, high = found.index(min(found)), found.index(max(found))
    skipped = [heldout(replanned(full, Depths(0.5, (k,))), rng) for k in (low, high)]
    return [
        finding("half of the tokens in two of four blocks (figure) against three blocks", b, c, first),
        finding("half of the tokens in two of four blocks (figure) against all, at most 2% worse", 1.02 * a, c, first),
        finding(
            "skipping the block of the lowest rank (figure) against that of the highest", skipped[1], skipped[0], first
        ),
    ]
