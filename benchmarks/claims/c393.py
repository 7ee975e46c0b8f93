"""Pictures of stripes and a small transformer. Two adapters of rank 4 are trained on pictures with one concept each, a
grid of bright or of dark dots on the whole picture; one is wanted in the left half and one in the right. The
regions are given: the network knows no text, from whose attention they would follow."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

import beeline as bl
from beeline.core.types import Batch
from beeline.networks.adapters.low_rank import ATTENTION, LowRank, with_adapters
from beeline.objectives.matching import FlowMatching
from beeline.sampling.editing.attention.adapters import MaskedAdapters
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.regions import GivenRegion
from benchmarks.claims.attended import CONTROL, SAMPLER, pictures, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LoRAShop: adapters gated by regions"
CLAIM = "Several adapters compose in one image without interference when each is gated by the region of its subject."
SEEDS, TESTED = 3, 32
DOTS = torch.zeros(8, 8)
DOTS[::2, ::2] = 1.2
LEFT = (torch.arange(8) < 4).float().expand(8, 8)
LAYERS = (*ATTENTION, "mlp.0", "mlp.3")


@functools.cache
def concept(seed: int, sign: float) -> LowRank:
    """An adapter trained on pictures with dots."""
    rng, flow = bl.Rng(seed).fork("concept", sign), trained(seed)
    adapter = LowRank(flow.field, 4, layers=LAYERS)
    label = torch.zeros(4000, dtype=torch.long)
    data = Batch(pictures(rng, 4000, label) + sign * DOTS, cond={"label": label})
    field, loss = with_adapters(flow.field, [adapter]), FlowMatching()
    optimizer = torch.optim.Adam(adapter.parameters(), 1e-2)
    for step in range(200):
        at = rng.fork("rows", step).integers(4000, 48)
        part = Batch(data.x1[at], cond={"label": label[at]})
        optimizer.zero_grad()
        loss(field, part, rng.fork("step", step)).value.backward()
        optimizer.step()
    return adapter


def measure(rng: bl.Rng) -> list[Finding]:
    flow, label = trained(rng.seed), torch.zeros(TESTED, dtype=torch.long)
    both = tuple(concept(rng.seed, sign) for sign in (1.0, -1.0))
    x, cond = pictures(rng.fork("test"), TESTED, label), {"label": label}
    wanted = x + DOTS * (2 * LEFT - 1)
    error = lambda y: float((y - wanted).square().mean().sqrt())  # noqa: E731

    def made(*regions: Tensor) -> Tensor:
        edit = MaskedAdapters(both, tuple(GivenRegion(m) for m in regions))
        with torch.no_grad():
            return edit(flow, x, cond, cond, SAMPLER, rng.fork("edit"))

    with torch.no_grad():
        state = Backwards()(flow, x, cond, SAMPLER, rng, 0.0).x
        merged = SAMPLER(bl.Flow(with_adapters(flow.field, both), null=flow.null), state, cond)
    gated, one, other = made(LEFT, 1 - LEFT), made(0 * LEFT + 1, 0 * LEFT), made(0 * LEFT, 0 * LEFT + 1)
    return [
        finding("distance to the picture with each concept in its half: gated (figure) against both everywhere",
                error(merged), error(gated), error(x), CONTROL),
        finding("distance to the picture with each concept in its half: gated (figure) against one concept everywhere",
                error(one), error(gated), error(other), "the other concept everywhere"),
    ]  # fmt: skip
