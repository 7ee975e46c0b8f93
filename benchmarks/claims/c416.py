"""Seconds of the processor for a network of four blocks on 48 images whose sides are 4 to 14 patches: packed in rows
of 196 tokens against one batch that is padded to the largest, without the mask that it would need, best of 3. Both
give the outputs of each image alone. The fused kernels of the paper and a GPU are not measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import beeline as bl
from beeline.networks.dit import DiT
from beeline.networks.transformer.counts.packed import fill, in_rows, packed
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FiT and ByteTransformer: packed rows"
CLAIM = "Sequences of several lengths in rows without padding take much less time than a padded batch."


def seconds(run: Callable[[], Any]) -> float:
    """The least time of the processor of three runs."""
    found = []
    for _ in range(3):
        begin = time.process_time()
        run()
        found.append(time.process_time() - begin)
    return min(found)


def measure(rng: bl.Rng) -> list[Finding]:
    with rng.fork("network").ambient():
        net = DiT((1, 28, 28), 2, 64, 4, 4, any_size=True).eval()
    sides = (rng.fork("sides").integers(11, 96) + 4).view(48, 2).tolist()
    data = [rng.fork("x", i).normal(torch.empty(1, 2 * a, 2 * b)) for i, (a, b) in enumerate(sides)]
    t = rng.fork("t").uniform(48, torch.empty(0))
    counts = [a * b for a, b in sides]
    most = torch.zeros(48, 1, 28, 28)  # every image padded to the largest: what a batch costs
    with torch.no_grad():
        alone = [net(x[None], t[i : i + 1])[0] for i, x in enumerate(data)]
        found = packed(net, data, t, context=196)
        assert max(float((a - b).abs().max()) for a, b in zip(alone, found, strict=True)) < 1e-4
        padded, rows = seconds(lambda: net(most, t)), seconds(lambda: packed(net, data, t, context=196))
        single = seconds(lambda: [net(x[None], t[i : i + 1]) for i, x in enumerate(data)])
    useful = sum(counts) / (48 * 196)
    return [
        finding("seconds of packed rows (figure) against a padded batch", padded, rows, padded, "the padded batch"),
        finding("seconds of packed rows (figure) against one image after another", single, rows, single, "one by one"),
        finding("share of tokens that are used (figure) against the padded batch", useful, fill(counts, 196), useful,
                "the padded batch", "higher"),
        finding("rows (figure) against images", 48.0, float(len(in_rows(counts, 196))), 48.0, "one row an image"),
    ]  # fmt: skip
