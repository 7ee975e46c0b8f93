"""Attention of pretrained transformers: tokens of the image are changed, and those of the text are not."""

from __future__ import annotations

import math

import pytest
import torch

from beeline.core.declared import traits_of
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import identity_attention, smoothed_attention, sparse_attention
from beeline.networks.hub.calls.skips import RESULTS, TEXT
from beeline.networks.skipping import block_names

pytest.importorskip("diffusers")

from beeline.hub.pipelines import from_pipeline
from tests.networks.hub.test_families import CASES

CHANGES = (identity_attention, lambda a: smoothed_attention(a, math.inf), lambda a: sparse_attention(a, 1.5, 2.0))


@pytest.mark.parametrize("name", ["sd3", "flux", "flux2", "chroma", "qwen-image", "cogview4"])
def test_the_text_of_a_joint_block_is_unchanged(name):
    case = CASES[name]()
    field = from_pipeline(case.pipe, **case.size).flow.field
    grid, t = traits_of(field).tokens(tuple(case.x0.shape[1:])), torch.full((len(case.x0),), 0.5)
    first, seen = block_names(field)[0], []
    streams = RESULTS[type(field.net.get_submodule(first)).__name__]

    def evaluated(attention):
        """The velocity, and the outputs of the first block by stream."""
        other = with_attention(field, [first], lambda a: seen.append(a) or attention(a))
        found = []
        other.field.net.get_submodule(first).register_forward_hook(lambda _, __, out: found.append(out))
        with torch.no_grad():
            velocity = other(case.x0, t, case.cond)
        return velocity, dict(zip(streams, found[0], strict=True))

    plain, outputs = evaluated(lambda a: a.softmax())
    with torch.no_grad():
        assert torch.equal(plain, field(case.x0, t, case.cond))
    assert len(seen) == 1 and seen[0].image.stop - seen[0].image.start == grid.rows * grid.columns
    assert grid.rows * grid.columns < seen[0].q.shape[2]
    for change in CHANGES:
        velocity, changed = evaluated(change)
        assert torch.isfinite(velocity).all() and (velocity - plain).abs().max() > 1e-5
        for stream in streams:
            away = (outputs[stream] - changed[stream]).abs().max()
            assert away < 1e-6 if stream == TEXT else away > 1e-5, stream
