"""Fronts of edits by an exact flow of pictures."""

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.images import Image
from beeline.sampling.editing.flow_edit import FlowEdit

RIGHT = torch.zeros(1, 6, 6)
RIGHT[..., 3:] = 0.5
STD = 0.2


def bundle():
    """Pictures of two labels, whose right halves have different means."""

    def v(x, t, cond):
        t = t.view(-1, 1, 1, 1)
        mean = (cond["label"].view(-1, 1, 1, 1).to(x) - 0.5) * RIGHT.to(x)
        return mean + (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * (x - t * mean)

    return bl.Bundle(bl.Flow(v), bl.Sampler(8), Image((1, 6, 6), classes=2))


def given():
    values = STD * bl.Rng(0).normal(torch.empty(6, 1, 6, 6)) - 0.5 * RIGHT
    return Image((1, 6, 6), classes=2).decode(values.clamp(-1, 1))


def success(samples):
    """The mean of the right half, from 0 (that of the old label) to 1."""
    return (samples.pixels.reshape(-1, 6, 6)[:, :, 3:].mean((1, 2)) / 127.5 - 1 + 0.25) / 0.5


def test_a_front_of_two_methods(tmp_path):
    found = bundle().edit_front(
        ["FlowEdit", "SDEdit"], given(), cond={"label": 0}, to={"label": 1}, values=(0.05, 0.4, 0.8), success=success
    )
    assert [(p.method, p.value) for p in found.points] == [
        (m, v) for m in ("FlowEdit", "SDEdit") for v in (0.05, 0.4, 0.8)
    ]
    flow, sde = found.points[:3], found.points[3:]
    assert flow[0].change > flow[1].change > flow[2].change and flow[0].kept > flow[2].kept
    assert 0.8 < flow[0].change < 1.1 and flow[0].best
    for p in found.points:  # by the definition
        better = [
            q
            for q in found.points
            if q.change >= p.change and q.kept <= p.kept and (q.change, q.kept) != (p.change, p.kept)
        ]
        assert p.best == (not better)
    assert sde[0].kept > 1.3 * flow[0].kept  # it loses the noise of the picture, and FlowEdit does not
    assert [p.kept for p in found.best] == sorted(p.kept for p in found.best) and len(found.rows) == 6
    found.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_without_success_the_change_is_that_inside_the_region():
    region = np.zeros((6, 6))
    region[:, 3:] = 1
    found = bundle().edit_front(
        FlowEdit(), given(), cond={"label": 0}, to={"label": 1}, values=(0.1, 0.9), region=region
    )
    assert not found.measured and found.points[0].change > found.points[1].change and found.points[0].kept == 0


def test_further_measures_of_pictures_are_in_the_summary():
    region = np.zeros((6, 6))
    region[:, 3:] = 1
    run = {"cond": {"label": 0}, "to": {"label": 1}}
    inside = bundle().edit("FlowEdit", given(), **run, region=region).summary
    assert inside["psnr_outside"] == 100 and inside["ssim_outside"] == pytest.approx(1, abs=1e-4)
    whole = bundle().edit("SDEdit", given(), **run).summary
    assert whole["psnr"] < 30 and whole["ssim"] < 0.9 and 0.05 < whole["structure"] < 1


@pytest.mark.parametrize(
    "more, message",
    [
        ({"setting": "strat"}, "start"),
        ({"values": ()}, "no points"),
        ({"to": {"label": 5}}, "label"),
        ({"success": lambda samples: np.full(6, np.nan)}, "not finite"),
    ],
)
def test_refusals(more, message):
    with pytest.raises(BeelineError, match=message):
        bundle().edit_front("FlowEdit", given(), **{"cond": {"label": 0}, "to": {"label": 1}, **more})
