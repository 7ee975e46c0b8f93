"""Operators: their adjoints, what they measure, and data that do not fit."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.sampling.steering.operators.axes import BlockMean, GaussianBlur, MotionBlur
from beeline.sampling.steering.operators.channels import Grey
from beeline.sampling.steering.operators.masks import Beginning, Columns, Mask
from beeline.sampling.steering.operators.operator import Identity, Magnitudes, complete_operator
from beeline.sampling.steering.operators.projections import Matrix, Projections

IMAGES, SIGNALS, ROWS = (3, 6, 8), (2, 1, 12), (5,)
HALF = torch.arange(48).reshape(6, 8) % 3 == 0
OPERATORS = [
    (Identity(), IMAGES),
    (Mask(HALF), IMAGES),
    (Mask(((1, 0, 0, 1, 0),)), ROWS),
    (Columns((0, 3)), ROWS),
    (Beginning(7), SIGNALS),
    (BlockMean(2), IMAGES),
    (BlockMean(3), SIGNALS),
    (GaussianBlur(1.3), IMAGES),
    (GaussianBlur(2.0), SIGNALS),
    (MotionBlur(3), IMAGES),
    (MotionBlur(5, axis=1), IMAGES),
    (Grey(), IMAGES),
    (Projections(7, IMAGES), IMAGES),
    (Matrix(torch.arange(10).reshape(2, 5) / 10), ROWS),
]


def normal(key, *shape):
    return Rng(key).normal(torch.empty(*shape, dtype=torch.float64))


@pytest.mark.parametrize(("operator", "shape"), OPERATORS)
def test_the_adjoint_is_exact(operator, shape):
    x = normal(0, 4, *shape)
    y = normal(1, *operator.apply(x).shape)
    for made in (operator, operator.prepared(x)):
        left, right = (made.apply(x) * y).flatten(1).sum(1), (x * made.adjoint(y)).flatten(1).sum(1)
        assert torch.allclose(left, right, atol=1e-12)


@pytest.mark.parametrize(("operator", "shape"), OPERATORS)
def test_rows_of_operators_that_say_so_are_orthogonal(operator, shape):
    prepared = operator.prepared(normal(0, 1, *shape))
    y = prepared.apply(normal(1, 1, *shape))  # a value that the operator takes
    back = prepared.apply(prepared.adjoint(y))
    same = torch.allclose(back, y * (y * back).sum() / y.square().sum(), atol=1e-12)
    assert same == prepared.orthogonal == operator.orthogonal


def test_blurs_keep_brightness_and_widen_by_the_width():
    x = torch.zeros(1, 1, 1, 41, dtype=torch.float64)
    x[..., 20] = 1
    y, at = GaussianBlur(2.0).apply(x)[0, 0, 0], torch.arange(41) - 20
    assert float((y * at**2).sum()) == pytest.approx(4.0, abs=1e-3)
    for blur in (GaussianBlur(2.0), MotionBlur(5)):
        assert torch.allclose(blur.apply(torch.ones(1, 1, 6, 8)), torch.ones(()))
    assert MotionBlur(5).apply(x)[0, 0, 0, 18:23].tolist() == pytest.approx([0.2] * 5)


def test_projections_are_those_of_the_key():
    x = normal(0, 2, 1, 4, 4)
    first = Projections(5, (1, 4, 4), Rng(3))
    assert torch.equal(first.apply(x), Projections(5, (1, 4, 4), Rng(3)).apply(x))
    assert not torch.equal(first.apply(x), Projections(5, (1, 4, 4), Rng(4)).apply(x))
    wide = Projections(4000, (1, 4, 4)).apply(x)
    assert torch.allclose(wide.square().mean(1), x.flatten(1).square().mean(1), rtol=0.1)


def test_unknown_numbers_may_be_missing():
    y = torch.tensor([[1.0, float("nan")]])
    assert Mask((1, 0)).measured(y).tolist() == [[1.0, 0.0]]


def test_masks_of_a_batch_are_divided_by_rows():
    mask, x = Mask(torch.eye(3)), torch.ones(3, 3)
    assert torch.equal(mask.apply(x), torch.eye(3))
    assert torch.equal(mask.for_rows(1, 3).for_rows(1, 2).apply(x[:1]), torch.eye(3)[2:])


def test_magnitudes_measure_without_sign():
    x = normal(0, 2, 5)
    inner = Matrix(torch.eye(5, dtype=torch.float64)[:2])
    assert torch.equal(Magnitudes(inner).apply(x), x[:, :2].abs())
    assert Magnitudes(inner).prepared(x).linear is False


def test_operators_of_one_or_two_members_are_completed():
    class Doubled:
        def apply(self, x):
            return 2 * x

    class Both(Doubled):
        adjoint = Doubled.apply

    assert not complete_operator(Doubled()).linear and complete_operator(Both()).linear
    assert complete_operator(Both()).prepared(torch.ones(1, 1)).adjoint(torch.ones(1, 1)).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [
        (Mask(torch.ones(4, 4)), IMAGES, r"mask of shape \(4, 4\) for 2 data of shape \(3, 6, 8\)"),
        (Columns((0, 5)), ROWS, "below 5"),
        (Columns(()), ROWS, "at least one"),
        (Beginning(12), SIGNALS, "leaves nothing to forecast"),
        (BlockMean(4), IMAGES, "one of 1, 2, 3, 6"),
        (BlockMean(2), ROWS, "along the positions"),
        (GaussianBlur(), ROWS, "along the positions"),
        (MotionBlur(axis=1), SIGNALS, "1 axes of positions"),
        (Grey(), SIGNALS, "over the channels"),
        (Grey(), ROWS, "over the channels"),
        (Projections(3, (1, 4, 4)), IMAGES, "give the shape of the data"),
        (Matrix(torch.ones(2, 3)), ROWS, "one column"),
    ],
)
def test_data_that_do_not_fit_are_refused(operator, shape, message):
    with pytest.raises(BeelineError, match=message):
        operator.apply(torch.zeros(2, *shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: MotionBlur(4), "odd number"), (lambda: Matrix(torch.ones(2, 3), (2, 2)), "column for each number")],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
