"""Guidance by a noised history: its definition, levels, seeds, and a linear sequence with a known answer."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.guidance.references.noised_frames import NoisedFrames
from beeline.solvers.diffusions import White

X = bl.Rng(0).normal(torch.empty(3, 4, 2))


def field(x, t, cond=None):
    """A velocity of every frame that depends on the state and the times of all frames."""
    return x.mean(1, keepdim=True) * t.mean(1)[:, None, None] + x * t[:, :, None]


def test_the_weak_prediction_sees_a_history_of_noise():
    z = White(bl.Rng(0))(torch.zeros(3), torch.zeros(3), X, "history")
    t = torch.tensor([[1.0, 1.0, 0.3, 0.3]]).repeat(3, 1)
    for level in (0.0, 0.25, 1.0):
        weak, _ = NoisedFrames((0, 1), level)(field, None)
        z = White(bl.Rng(0))(torch.full((3,), level), torch.full((3,), level), X, "history")
        other = X.clone()
        other[:, :2] = level * X[:, :2] + (1 - level) * z[:, :2]
        times = torch.tensor([[level, level, 0.3, 0.3]]).repeat(3, 1)
        assert torch.allclose(weak(X, t), field(other, times))


def test_guidance_of_given_frames_extrapolates_from_the_hidden_history():
    guide = bl.Guide(NoisedFrames((0, 1)), bl.guidance.Extrapolate(1.5))
    guided = GivenFrames((0, 1), guide)
    assert guided.calls(0.5) == 2
    t = torch.full((3,), 0.3)
    found = guided(field, None)(X, t)
    times = torch.tensor([[1.0, 1.0, 0.3, 0.3]]).repeat(3, 1)
    weak, _ = NoisedFrames((0, 1))(field, None)
    wanted = weak(X, times) + 1.5 * (field(X, times) - weak(X, times))
    assert torch.allclose(found[:, 2:], wanted[:, 2:]) and not found[:, :2].any()


def test_a_sequence_of_equal_frames_follows_its_history_more_with_a_higher_scale():
    """Frame 1 is N(r c, 1 - r^2) given frame 0 = c, and N(0, 1) without it."""
    r, s2 = 0.8, 0.36

    def pair(x, t, cond=None):
        """The velocity of the second frame, given the first at its noise level."""
        a, b = t[:, :1], 1 - t[:, :1]
        mean = r * a * x[:, 0] / (a**2 + b**2)  # E[frame 1 | noisy frame 0]
        variance = s2 + r**2 * b**2 / (a**2 + b**2)
        at, rest = t[:, 1:], 1 - t[:, 1:]
        data = mean + at * variance / (at**2 * variance + rest**2) * (x[:, 1] - at * mean)
        v = (data - x[:, 1]) / rest.clamp(min=1e-6)
        return torch.stack([0 * v, v], 1)

    x0 = torch.cat([torch.full((500, 1, 1), 1.0), bl.Rng(1).normal(torch.empty(500, 1, 1))], 1).double()
    means = []
    for scale in (1.0, 1.5):
        guide = bl.Guide(NoisedFrames((0,)), bl.guidance.Extrapolate(scale))
        made = bl.Sampler(50, solver=bl.solvers.EULER, guidance=GivenFrames((0,), guide))(bl.Flow(pair), x0)
        assert torch.equal(made[:, 0], x0[:, 0])
        means.append(float(made[:, 1].mean() - 0.6 * x0[:, 1].mean()))
    assert means[0] == pytest.approx(0.8, abs=0.02) and means[1] > means[0] + 0.1


def test_noise_is_that_of_a_seed():
    guide = bl.Guide(NoisedFrames((0,)), bl.guidance.Extrapolate(2.0))
    sampler = bl.Sampler(3, guidance=guide).seeded([4, 5, 6], "run")
    flow = bl.Flow(lambda x, t, cond=None: field(x, t if t.ndim > 1 else t[:, None].expand(x.shape[:2])))
    whole = sampler(flow, X)
    assert torch.allclose(sampler.for_rows(1, 3)(flow, X[1:]), whole[1:], atol=1e-6)
    assert not torch.allclose(bl.Sampler(3, guidance=guide).seeded([7, 8, 9], "run")(flow, X), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisedFrames(()), "at least one index"),
        (lambda: NoisedFrames((0,), level=1.5), "level=1.5"),
        (lambda: NoisedFrames((4,))(field, None)[0](X, torch.ones(3, 4)), "below its size"),
    ],
)
def test_wrong_frames_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
