"""Scale fusion in networks of diffusers, whose attention is over tokens of image and text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub.pipelines import from_pipeline
from beeline.hub.sizes import FUSED, scale_fused
from tests.networks.hub.test_families import CASES, ours
from tests.networks.hub.tiny import df


class Queries(TorchFunctionMode):
    """Records the queries of attention."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.seen.append((kwargs or {}).get("query", args[0] if args else None))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FUSED)
def test_one_scale_is_the_pretrained_network_and_image_tokens_are_where_they_are_expected(name):
    df.utils.logging.set_verbosity_error()
    with bl.Rng(0).ambient():
        case = CASES[name]()
    bundle = from_pipeline(case.pipe, **case.size)
    h, w = (case.size[side] for side in ("height", "width"))
    plain = ours(case, False, bundle, 2)
    assert torch.equal(ours(case, False, scale_fused(bundle, h, w), 2), plain)
    side = 8 if name == "qwen-image" else 2  # of a token in pixels
    fused = scale_fused(bundle, h // 2 // side * side, w // 2 // side * side)
    found = ours(case, False, fused, 2)
    assert torch.isfinite(found).all() and not torch.allclose(found, plain, atol=1e-4)

    field, t, queries = fused.flow.field, torch.full((len(case.x0),), 0.5), []
    for text in (case.cond["text"], case.cond["text"] + 1.0):
        with Queries() as seen, torch.no_grad():
            bundle.flow.field(case.x0, t, {**case.cond, "text": text})
        queries.append(seen.seen[0])
    same = (queries[0] == queries[1]).all(-1)[
        0, 0
    ]  # of every token; queries of the image do not depend on the text yet
    count = field.field.family.tokens(bundle.modality.shape)
    image = slice(0, count) if FUSED[name] else slice(len(same) - count, None)
    assert same[image].all() and int(same.sum()) == count


def test_what_cannot_be_fused_is_refused():
    case = CASES["wan"]()
    with pytest.raises(BeelineError, match="requested of wan; it is tested for pipelines of flux, sd3"):
        scale_fused(from_pipeline(case.pipe, **case.size), 8, 8)
