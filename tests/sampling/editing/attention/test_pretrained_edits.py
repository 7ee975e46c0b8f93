"""Edits by attention on tiny random Stable Diffusion 3 and FLUX: each runs, edits, and is plain without strength."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.types import map_cond

pytest.importorskip("diffusers")

from beeline.hub.pipelines import from_pipeline
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.solvers.runge_kutta import MidpointReuse
from tests.networks.hub.test_families import CASES
from tests.sampling.editing.attention.test_attention_edits import EDITS


@pytest.fixture(scope="module", params=["sd3", "flux"])
def problem(request):
    case = CASES[request.param]()
    flow = from_pipeline(case.pipe, **case.size).flow
    new = {**case.null, "text": torch.cat([case.cond["text"][:, :3], case.null["text"][:, 3:]], 1)}
    return flow, case.x0, case.cond, new


@pytest.mark.parametrize("name", EDITS)
def test_every_attention_edit_of_a_pretrained_transformer(problem, name):
    flow, x, cond, new = problem
    edit, none = EDITS[name]
    if name == "space":
        edit = replace(edit, null=map_cond(torch.zeros_like, cond) | {k: cond[k] for k in cond if k == "guidance"})
    sampler = bl.Sampler(4, solver=MidpointReuse())
    plain = InvertAndSample()(flow, x, cond, cond if name == "space" else new, sampler, bl.Rng(0))
    assert torch.equal(replace(edit, **none)(flow, x, cond, new, sampler, bl.Rng(0)), plain)
    made = edit(flow, x, cond, new, sampler, bl.Rng(0))
    assert torch.isfinite(made).all() and (made - plain).abs().max() > 1e-5
    if name == "emphasis":
        words = replace(edit, of_text=True)(flow, x, cond, new, sampler, bl.Rng(0))
        assert (words - plain).abs().max() > 1e-5
