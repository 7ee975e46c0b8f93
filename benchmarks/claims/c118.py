"""Digits of 8 x 8 pixels, three blocks: the held-out loss after 120 steps of 256 experts of one channel with 4
retrievals of 4, a dense feed, and eight experts with two active.  The multiply-adds of a token in a feed are about 6200
(PEER, most of it for queries), 8200 (dense) and 8400 (experts)."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.transformer.experts import PEER, Experts
from beeline.networks.transformer.feeds import FeedForward
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "PEER: experts of one channel by product keys"
CLAIM = "Very many tiny experts have a better loss for their compute than dense feeds and coarse experts."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    def loss(feed: Any) -> float:
        return held_loss(trained(transformer(rng, feed=feed), rng), rng)

    first = held_loss(transformer(rng, feed=PEER(16, 4, 4)), rng)
    peer = loss(PEER(16, 4, 4))
    return [
        finding("tiny experts (figure) against a dense feed", loss(FeedForward()), peer, first),
        finding("tiny experts (figure) against eight experts", loss(Experts(8)), peer, first),
    ]
