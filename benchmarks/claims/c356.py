"""Two digits side by side, the right one with a third of the contrast, so that guidance is weaker there; a small
network that was trained with both labels dropped together or apart; 12 Euler steps. The regions are the two halves,
given in the condition. The share of halves with the wanted label is that of a logistic regression."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.sampling.guidance.composition.spatial import GivenRegions, Regional
from benchmarks.claims.halves import TESTED, distance, network, pairs, read, sampled, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "S-CFG: a scale for every region"
CLAIM = "Guidance of equal strength in all regions is better than one scale for the image."
CONTRAST = 1 / 3


def measure(rng: bl.Rng) -> list[Finding]:
    data = pairs(rng, contrast=CONTRAST)
    net, untrained = trained(rng, data), network(rng)
    regions = torch.ones(TESTED, 8, 16)
    regions[..., 8:] = 2
    cond = {"regions": regions}
    rows = []
    for scale in (1.5, 3.0):
        even = Regional(scale, GivenRegions(3))
        plain, wanted = sampled(net, rng, bl.CFG(scale))
        spatial, none = sampled(net, rng, even, cond)[0], sampled(untrained, rng, even, cond)[0]
        shares = [read(x, wanted, CONTRAST) for x in (plain, spatial, none)]
        rows += [
            finding(f"scale {scale:g}, label of the faint half: regions (figure) against one scale",
                    *(share[1] for share in shares), better="higher"),
            finding(f"scale {scale:g}, label of the other half: regions (figure) against one scale, 2% worse",
                    0.98 * shares[0][0], shares[1][0], shares[2][0], better="higher"),
            finding(f"scale {scale:g}, distance to pairs of digits: regions (figure) against one scale",
                    *(distance(x, data, rng) for x in (plain, spatial, none))),
        ]  # fmt: skip
    return rows
