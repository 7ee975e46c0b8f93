"""Inversions of data in the user's form against a distribution whose noise is known."""

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.data.images import Image
from beeline.solvers.reversible import Reversible
from beeline.solvers.runge_kutta import RK4

STD = 0.2


def v(x, t, cond=None):
    """The exact velocity of Gaussian pictures whose mean is that of the label; the null has the mean 0."""
    t = t.view(-1, 1, 1, 1)
    mean = 0 * t if cond is None else (cond["label"].view(-1, 1, 1, 1).to(x) - 0.5) / 2
    return mean + (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * (x - t * mean)


def bundle(field=v, **more):
    return bl.Bundle(bl.Flow(field), bl.Sampler(64, solver=RK4), Image((1, 4, 4), classes=2), **more)


def given(n=70):
    values = -0.25 + STD * bl.Rng(0).normal(torch.empty(n, 1, 4, 4)).clamp(-3, 3)
    return Image((1, 4, 4), classes=2).decode(values), values


def test_the_noise_is_that_of_the_data_and_comes_back():
    pictures, values = given()
    found = bundle().invert(pictures, {"label": 0})
    assert found.noise.shape == values.shape and found.t == 0
    assert (found.noise - (values + 0.25) / STD).abs().max() < 0.05  # bytes of the pictures are rounded
    assert float(found.error.max()) < 1e-4 and np.array_equal(found.samples.pixels, pictures.pixels)
    assert abs(found.summary["noise_std"] - 1) < 0.05 and abs(found.summary["noise_mean"]) < 0.05


def test_without_a_condition_the_null_is_inverted():
    pictures, values = given(8)
    free = bundle(null={"label": 2}).invert(pictures)
    assert (free.noise - values / STD).abs().max() < 0.05
    with pytest.raises(BeelineError, match="without ever dropping"):
        bundle().invert(pictures)


def test_the_solver_and_the_inversion_are_chosen():
    pictures, values = given(8)
    exact = bundle().invert(pictures, {"label": 0}, sampler=bl.Sampler(5, solver=Reversible()))
    assert (
        float(exact.error.max())
        < 1e-5
        < float(bundle().invert(pictures, {"label": 0}, sampler=bl.Sampler(5, solver=bl.solvers.EULER)).error.min())
    )
    half = bundle().invert(pictures, {"label": 0}, inversion="Noised", end=0.5)
    assert half.t == 0.5 and float(half.error.min()) > 0.01
    with pytest.raises(BeelineError, match=r"\[0, 1\)"):
        bundle().invert(pictures, {"label": 0}, end=1.0)


def test_a_student_has_no_inverse_and_edits_by_fresh_noise():
    pictures, _ = given(8)
    jump = as_map(lambda x, t, cond=None, s=None: v(x, t, cond))
    with pytest.raises(BeelineError, match="student"):
        bundle(jump).invert(pictures, {"label": 0})
    with pytest.raises(BeelineError, match="flow map"):
        bundle(jump).edit("InvertAndSample", pictures, cond={"label": 0}, to={"label": 1})
    assert bundle(jump).edit("SDEdit", pictures, cond={"label": 0}, to={"label": 1}).summary["change"] > 0
