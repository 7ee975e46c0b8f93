"""A small transformer of digits moved to pictures with light and dark exchanged, and to turned ones: two small layers
at the embedded patches against LoRA of equal count in the feeds."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.branches.bottlenecks import InputLink
from benchmarks.claims.beside import before, moved, negative, turned
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AdaLink: a link of low rank at the input embeddings"
CLAIM = "Competitive with LoRA, with the network inside unchanged."


def measure(rng: bl.Rng) -> list[Finding]:
    found = []
    for style, worse in ((negative, 1.0), (negative, 1.15), (turned, 1.15)):
        own, count, _ = moved(rng.seed, InputLink(18), style)
        lora, more, _ = moved(rng.seed, LoRA(1), style, layers=("mlp.0", "mlp.3"))
        name = f"loss, {style.__name__}: link ({count} numbers) against {worse:g} x that of LoRA ({more})"
        found.append(finding(name, worse * lora, own, before(rng.seed, style), "not adapted"))
    return found
