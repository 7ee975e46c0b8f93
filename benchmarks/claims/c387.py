"""Held-out loss of digits of 8 x 8 pixels of one network of four blocks after 100 steps, without further training:
half of the tokens are left out in the last three blocks and merged, restored, against blocks that are left out (as
many products of weights are saved), against tokens of a router without training, and against all tokens. The saving
of 82 percent and language models are not measured."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.plans.depths import Depths
from beeline.networks.transformer.plans.elastic import SubNetwork
from beeline.networks.transformer.plans.reduction import Reduce
from beeline.networks.transformer.plans.replanned import replanned
from benchmarks.claims.small_transformers import heldout, plain, same, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FiCoCo: filter, correlate, compress"
CLAIM = "Most products can be saved by merging tokens, without training and with a minimal loss."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    net = plain(rng.seed)
    full, merged = heldout(net, rng), heldout(replanned(net, Reduce(0.5, 1, 2, (1, 2, 3))), rng)
    routed = heldout(replanned(net, Depths(0.5, (1, 2, 3))), rng)
    removed = min(heldout(SubNetwork(net, visits=(0, k, 3)), rng) for k in (1, 2))
    first = heldout(transformer(rng), rng)
    return [
        finding("half of the tokens merged (figure) against all, at most 5% worse", 1.05 * full, merged, first),
        finding("half of the tokens merged (figure) against the other half skipping blocks", routed, merged, first),
        finding("half of the tokens merged in three blocks (figure) against removal of one block", removed, merged,
                first),
    ]  # fmt: skip
