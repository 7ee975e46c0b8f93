"""Five digits of one class, as means of 4 x 4 blocks, are the frames of one datum [1,5,4,4] and have the same time;
one token a pixel, two blocks of width 36, 100 steps of 16. The paper gives each image a time of its own; here what
earlier frames tell is measured. The network without them takes single digits, as many in a step. Seconds are those of
one mixer of width 32 on 16 and 64 frames of 64 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.transformer.mixing.windows import ChunkCausal
from benchmarks.claims.mixing import FRAMES, SOFTMAX, growth, held_loss, network, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ARFlow: frames in order"
CLAIM = "Linear attention to earlier images of a class makes the velocity of later ones better, at linear cost."
SEEDS = 3
COUNT, SIDE = 5, 4  # frames of a datum, pixels of a side


def frames() -> tuple[Tensor, Tensor]:
    """Training and held-out data [N,1,5,4,4] of one class each."""
    raw, held = Digits().load()
    modality, parts = Digits().modality().fit(raw), []
    for part in (raw, held):
        batch = modality.encode(part)
        x = torch.nn.functional.avg_pool2d(batch.x1.float(), 2)
        own = [x[batch.cond["label"] == k] for k in range(10)]
        sets = [x[: len(x) // COUNT * COUNT].reshape(-1, 1, COUNT, SIDE, SIDE) for x in own]
        parts.append(torch.cat(sets))
    return parts[0], parts[1]


def measure(rng: bl.Rng) -> list[Finding]:
    data, held = frames()
    single, one = (x.reshape(-1, 1, 1, SIDE, SIDE) for x in (data, held))
    more = {"width": 36}
    ordered, full = (held_loss(trained(m, data, rng, 100, 16, **more), held, rng) for m in (ChunkCausal(), SOFTMAX))
    alone = held_loss(trained(SOFTMAX, single, rng, 100, 80, **more), one, rng)
    first = held_loss(network(SOFTMAX, rng, tuple(data.shape[1:]), **more), held, rng)
    return [
        finding("held-out loss: frames in order (figure) against single frames", alone, ordered, first),
        finding("held-out loss: frames in order (figure) against attention over all frames", full, ordered, first),
        *growth(ChunkCausal(), FRAMES),
    ]
