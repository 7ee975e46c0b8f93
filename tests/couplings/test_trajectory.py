"""Noise with a moving patch: its variance, its low frequencies along the path, and that without boxes."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.couplings.trajectory import Trajectory

SIZE = (16, 24, 24)
LIKE = torch.empty(48, 2, *SIZE)
BOXES = ((0, 0, 0.4, 0.4), (0.6, 0.6, 1, 1))


def along(x: torch.Tensor, source: Trajectory, first: int, then: int) -> float:
    """The correlation of the contents of the boxes of two frames."""
    places = source.places(SIZE)
    both = [x[(slice(None), slice(None), k, *places[k])].flatten() for k in (first, then)]
    return float(torch.corrcoef(torch.stack(both))[0, 1])


def low(x: torch.Tensor, source: Trajectory) -> torch.Tensor:
    return torch.fft.ifftn(source.kept(SIZE) * torch.fft.fftn(x, dim=(-3, -2, -1)), dim=(-3, -2, -1)).real


def test_without_boxes_it_is_gaussian_noise() -> None:
    assert torch.equal(Trajectory().sample(LIKE, Rng(0)), Rng(0).normal(LIKE))
    assert Trajectory().gaussian and not Trajectory(BOXES).gaussian


def test_variance_is_one_and_low_frequencies_move_with_the_boxes() -> None:
    source = Trajectory(BOXES)
    x, plain = source.sample(LIKE, Rng(1)), Trajectory().sample(LIKE, Rng(1))
    assert abs(float(x.var()) - 1) < 0.006
    h = source.kept(SIZE)
    assert float((h.square() + (1 - h).square()).min()) < 0.51, "the weights H and 1 - H lose half of some frequencies"
    # one wave in 16 frames is 1/8 of the largest frequency, 3 in 24 are 1/4
    d2 = (0.125 / 0.1) ** 2 + (0.25 / 0.25) ** 2
    assert float(h[1, 3, 0]) == pytest.approx(1 / (1 + d2**4), rel=1e-5) and h[1, 3, 0] == h[-1, 0, -3]
    assert abs(along(x, source, 0, 8)) < 0.05, "single pixels do not agree"
    assert along(low(x, source), source, 0, 8) > 0.3 > 0.2 > abs(along(low(plain, source), source, 0, 8))
    every = Trajectory(BOXES, 99.0, 99.0)
    assert along(every.sample(LIKE, Rng(1)), every, 0, 15) > 0.9999, "all frequencies are those of the patch"
    assert source.sample(LIKE[:1].to(torch.bfloat16), Rng(0)).dtype == torch.bfloat16


def test_boxes_move_on_straight_lines_between_those_given() -> None:
    bent = Trajectory(((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0.5, 0.5, 1, 1)))
    assert [(r.start, c.start) for r, c in bent.places((5, 8, 8))] == [(0, 0), (2, 0), (4, 0), (4, 2), (4, 4)]
    assert Trajectory(BOXES[:1]).places((2, 5, 5)) == [(slice(0, 2), slice(0, 2))] * 2


def test_wrong_boxes_are_refused() -> None:
    for call, message in (
        (lambda: Trajectory(((0, 0, 0.5),)), "box .0, 0, 0.5"),  # type: ignore[arg-type]
        (lambda: Trajectory(((0.5, 0, 0.2, 1),)), "box .0.5, 0, 0.2, 1.*top above bottom"),
        (lambda: Trajectory(((0, 0, 1, 1), (0, 0, 0.5, 1))), "one patch .*boxes of one size"),
        (lambda: Trajectory(BOXES).sample(torch.empty(2, 1, 8, 8), Rng(0)), r"shape \(1, 8, 8\).*flow of videos"),
        (lambda: Trajectory(((0, 0, 0.01, 1),)).sample(LIKE, Rng(0)), "smaller than one pixel"),
        (lambda: Trajectory(BOXES).log_prob(LIKE), "Gaussian source for likelihoods"),
    ):
        with pytest.raises(BeelineError, match=message):
            call()
