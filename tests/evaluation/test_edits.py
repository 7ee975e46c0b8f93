"""Measures of edits: what is known exactly."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.evaluation.edits.benchmark import (
    accuracy,
    block_tracks,
    cropped,
    frame_consistency,
    motion_fidelity,
    scores,
)
from beeline.evaluation.edits.preservation import CAP, mean_defined, mean_square, psnr, ssim, structure


def pictures(seed=0, shape=(4, 3, 16, 12)):
    return bl.Rng(seed).normal(torch.empty(shape)).clamp(-1, 1)


def region():
    m = torch.zeros(16, 12)
    m[3:9, 2:7] = 1
    return m


def test_the_same_pictures_have_the_best_values():
    x = pictures()
    assert bool((psnr(x, x) == CAP).all()) and bool((mean_square(x, x) == 0).all())
    assert torch.allclose(ssim(x, x), torch.ones(4), atol=1e-5) and bool((structure(x, x) == 0).all())
    found = scores(x, x, region())
    assert found["background_psnr"] == CAP and found["structure_distance"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_change_inside_alone_changes_nothing_outside(seed):
    x = pictures(seed)
    made = torch.where(region() > 0, pictures(seed + 9), x)
    found = scores(x, made, region())
    assert found["background_mse"] == 0 and found["background_psnr"] == CAP
    assert found["background_ssim"] == pytest.approx(1, abs=1e-5) and found["structure_distance"] > 1e-3
    assert float(ssim(x, made).max()) < 0.95 and float(psnr(x, made).max()) < 20


def test_values_by_hand():
    x = torch.zeros(1, 1, 8, 8)
    made = x + 0.2
    made[..., :4] = 0
    right = (torch.arange(8) < 4).float().expand(8, 8)  # the left half may change
    assert float(psnr(x, made, right)) == pytest.approx(20.0, abs=1e-4)
    assert float(mean_square(x, made)) == pytest.approx(0.02, abs=1e-6)
    flat, other = torch.full((1, 1, 8, 8), 0.3), torch.full((1, 1, 8, 8), 0.5)
    a = (0.01 * 2) ** 2
    assert float(ssim(flat, other)) == pytest.approx((2 * 0.15 + a) / (0.09 + 0.25 + a), abs=1e-4)


def test_ssim_sees_no_pixel_inside():
    x, made = pictures(1, (2, 1, 11, 11)), pictures(2, (2, 1, 11, 11))
    middle = torch.ones(11, 11)
    middle[5, 5] = 0  # the middle alone is outside: its window holds itself alone, without variance
    expected = (2 * x * made + 4e-4) / (x**2 + made**2 + 4e-4)
    assert torch.allclose(ssim(x, made, middle), expected[:, 0, 5, 5], atol=1e-4)


def test_ssim_is_that_of_its_definition():
    x, made = pictures(1, (2, 2, 9, 12)).double(), pictures(2, (2, 2, 9, 12)).double()
    at = torch.arange(-5, 6.0, dtype=torch.float64)
    line = torch.softmax(-(at**2) / 4.5, 0)

    def window(values, i, j):
        """The weighted mean of [B,C,9,12] around a pixel, over what is inside of the picture."""
        w = torch.zeros(9, 12, dtype=torch.float64)
        for a in range(max(i - 5, 0), min(i + 6, 9)):
            for b in range(max(j - 5, 0), min(j + 6, 12)):
                w[a, b] = line[a - i + 5] * line[b - j + 5]
        return (values * w / w.sum()).sum((2, 3))

    total = 0
    for i in range(9):
        for j in range(12):
            m, n = window(x, i, j), window(made, i, j)
            v, u, c = window(x * x, i, j) - m * m, window(made * made, i, j) - n * n, window(x * made, i, j) - m * n
            total = total + (2 * m * n + 4e-4) * (2 * c + 3.6e-3) / ((m**2 + n**2 + 4e-4) * (v + u + 3.6e-3)) / 108
    assert torch.allclose(ssim(x, made), total.mean(1), atol=1e-9)


def test_regions_that_are_empty_or_cover_everything():
    x, made = pictures(0), pictures(1)
    whole = scores(x, made, torch.ones(16, 12), agreement=lambda p: p.mean((1, 2, 3)))
    assert whole["background_psnr"] is None and whole["background_ssim"] is None and whole["background_mse"] is None
    assert whole["agreement"] == pytest.approx(float(made.mean()), abs=1e-6)
    empty = scores(x, made, torch.zeros(16, 12), agreement=lambda p: p.mean((1, 2, 3)))
    assert empty["agreement_inside"] is None and empty["background_psnr"] == pytest.approx(float(psnr(x, made).mean()))
    assert mean_defined(torch.tensor([torch.nan, 2.0])) == 2 and mean_defined(torch.tensor([torch.nan])) is None


def test_the_object_is_cropped():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    m = torch.zeros(1, 1, 4, 4)
    m[..., 1:3, 2:4] = 1
    assert torch.allclose(cropped(x, m).mean(), torch.tensor([6.0, 7, 10, 11]).mean())
    assert torch.equal(cropped(x, 0 * m), x)


def moving(right, seed=0, frames=4):
    """Videos [2,F,1,16,16] of a texture that moves by whole pixels."""
    wide = bl.Rng(seed).normal(torch.empty(2, 1, 16, 40))
    return torch.stack([wide[..., 12 - right * f : 28 - right * f] for f in range(frames)], 1)


def test_the_motion_of_videos():
    still, once, back = moving(0), moving(1), moving(-1, seed=3)
    tracks = block_tracks(once)
    inner = tracks[:, :, 0, 1] < 10  # those that do not leave the picture
    assert bool((tracks.diff(dim=2)[inner] == torch.tensor([0, 1])).float().mean() > 0.95)
    assert float(motion_fidelity(block_tracks(once), block_tracks(moving(1, seed=7))).min()) > 0.9
    assert float(motion_fidelity(block_tracks(once), block_tracks(once)).min()) == pytest.approx(1)
    path = torch.tensor([[[[0, 0], [0, 1], [0, 2]]]])
    assert float(motion_fidelity(path, -path)) == -1 and float(motion_fidelity(path, 0 * path)) == 0
    assert float(frame_consistency(still).min()) == pytest.approx(1)
    assert float(frame_consistency(back).max()) < 0.3
    found = scores(once, once, torch.zeros(16, 16))
    assert found["motion_fidelity"] == pytest.approx(1) and found["background_psnr"] == CAP


class Scripted:
    """A judge with given answers."""

    def __init__(self, seen, chosen):
        self.seen, self.chosen = seen, chosen

    def sees(self, datum, name):
        return name in self.seen[datum]

    def choose(self, datum, names):
        return self.chosen[datum]


def test_the_accuracy_of_a_scripted_judge():
    judge = Scripted([{"dog"}, {"cat", "dog"}, {"cat"}, {"dog"}], [1, 1, 0, 0])
    found = accuracy(range(4), [("cat", "dog")] * 4, judge)
    assert found == (0.5, 0.5, 0.75, 0.25) and found.mean == 0.5
    with pytest.raises(BeelineError, match="give \\(old, new\\)"):
        accuracy([], [], judge)


def test_wrong_shapes_are_refused():
    with pytest.raises(BeelineError, match="pictures"):
        psnr(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(BeelineError, match="give both as"):
        scores(torch.zeros(2, 3), torch.zeros(2, 3))
