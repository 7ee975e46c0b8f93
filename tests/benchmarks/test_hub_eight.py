"""The comparison at eight evaluations measures distances to the pipeline's own result."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")

from benchmarks import hub_eight  # noqa: E402


def test_the_solver_of_the_pipeline_has_its_own_error(monkeypatch):
    """Wan ships UniPC, so that this solver with the schedule of the checkpoint is the pipeline's own sampler."""
    monkeypatch.setattr(hub_eight, "SAMPLES", 2)
    monkeypatch.setattr(hub_eight, "MANY", 12)
    found = hub_eight.measured(hub_eight.wan(0), True, (0,))
    assert found["rmse of the pipeline's own eight"][0] > 1e-3
    assert found["UniPC, own schedule"]["ratio"] == pytest.approx(1.0, abs=1e-3)
    assert abs(found["auto"]["ratio"] - 1) > 1e-2
