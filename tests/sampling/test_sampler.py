"""The sampler: counts, inversion, conditions, what its solver may assume of the flow."""

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.diffusions import White
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, DPMSolver
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.reversible import FixedPoint, Reversible
from beeline.solvers.runge_kutta import EULER, HEUN, RK4, FlowMapStep, MidpointReuse
from beeline.solvers.sde import EulerMaruyama
from beeline.spaces.pyramid import Pyramid
from beeline.times.schedules import Explicit, Shifted

MIXTURE = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.4)
FLOW = Flow(MIXTURE.field())
X0 = Rng(0).normal(torch.empty(32, 2, dtype=torch.float64))


def test_evaluations_of_a_flow_map() -> None:
    assert Sampler(7, solver=FlowMapStep()).evaluations == 7


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        (Sampler(7, solver=EULER), 7),
        (Sampler(7), 14),
        (Sampler(7, solver=RK4), 28),
        (Sampler(7, solver=MidpointReuse()), 8),
        (Sampler(7, solver=AdamsBashforth(2)), 7),
        (Sampler(7, solver=AdamsBashforth(4)), 13),
        (Sampler(7, solver=Reversible()), 28),
        (Sampler(7, solver=EULER, guidance=CFG(2.0, 0)), 14),
        (Sampler(10, solver=EULER, guidance=CFG(2.0, 0, window=(0.35, 0.75))), 14),
        (Sampler(1, Explicit((0, 1)), Fitted((0, 1), ((1,),))), 1),
        (Sampler(1, solver=Adaptive()), None),
        (Sampler(8, solver=Picard()), None),
    ],
)
def test_evaluations(sampler: Sampler, count: int | None) -> None:
    assert sampler.evaluations == count
    if count is not None and sampler.guidance == Sampler().guidance:
        calls = 0

        def field(x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return MIXTURE.field()(x, t)

        sampler(Flow(field), X0)
        assert calls == count


def test_inversion_returns_to_the_source() -> None:
    for sampler, close in ((Sampler(200), 1e-3), (Sampler(1, solver=Adaptive(1e-7, 1e-7)), 1e-4)):
        x1 = sampler(FLOW, X0)
        assert float((sampler.invert(FLOW, x1) - X0).abs().max()) < close
    seen: list[float] = []
    Sampler(4, Shifted(3.0)).invert(FLOW, X0, watch=lambda x, t: seen.append(float(t[0])))
    assert seen == pytest.approx(Shifted(3.0)(4).flip(0).tolist())


def test_round_trips_that_are_exact() -> None:
    x1 = MIXTURE.sample(16, Rng(2)).double()
    reversible = Sampler(8, solver=Reversible())
    noise = reversible.invert(FLOW, Reversible().lift(x1), augmented=True)
    assert noise.shape == (16, 2, 2)
    assert float((Reversible().lower(reversible(FLOW, noise, augmented=True)) - x1).abs().max()) < 1e-12
    assert reversible(FLOW, X0).shape == X0.shape
    fixed = Sampler(16, solver=FixedPoint())
    assert float((fixed(FLOW, fixed.invert(FLOW, x1)) - x1).abs().max()) < 1e-4


@pytest.mark.parametrize("solver", [HEUN, AdamsBashforth(2), Picard(4, 1e-12)])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.75, 0.25), (1.0, 0.5)])
def test_partial_trajectories_integrate_over_the_same_times(solver: object, start: float, end: float) -> None:
    sampler, seen = Sampler(6, Shifted(3.0), solver), []
    times = Shifted(3.0)(6, start, end)
    exact = integrate(MIXTURE.field(), X0, times, solver)
    out = sampler(FLOW, X0, start=start, end=end, watch=lambda x, t: seen.append(float(t[0])))
    assert torch.equal(out, exact) and seen == pytest.approx(times.tolist())
    if end < start:
        assert torch.equal(sampler.invert(FLOW, X0, start=start, end=end), exact)


def test_two_partial_trajectories_are_the_whole_one() -> None:
    sampler = Sampler(8, solver=RK4)
    middle = sampler(FLOW, X0, end=0.5)
    assert torch.allclose(sampler(FLOW, middle, start=0.5), Sampler(16, solver=RK4)(FLOW, X0), atol=1e-12)


def test_unfit_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match="end below start"):
        Sampler(4).invert(FLOW, X0, start=0.0, end=1.0)
    with pytest.raises(ValueError, match="empty or outside"):
        Sampler(4)(FLOW, X0, start=0.5, end=0.5)
    with pytest.raises(ValueError, match="integration towards the source"):
        Sampler(4)(Flow(FLOW.field, Pyramid()), torch.zeros(1, 1, 8, 8), start=1.0, end=0.0)


def test_no_graph_is_recorded_and_done_gets_the_memory() -> None:
    memories: list[object] = []
    out = Sampler(1, solver=Adaptive(1e-3, 1e-3))(FLOW, X0.clone().requires_grad_(), done=memories.append)
    assert not out.requires_grad and memories[0].evaluations > 6


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the number of steps is an integer"):
        Sampler(0)
    with pytest.raises(ValueError, match="for a batch of 32"):
        Sampler(2)(Flow(lambda x, t, cond=None: x), X0, {"label": torch.zeros(3)})
    with pytest.raises(ValueError, match="the flow was trained on Cosine"):
        Sampler(2, solver=DPMSolver())(Flow(MIXTURE.field(Cosine()), Cosine()), X0)
    with pytest.raises(ValueError, match="coupling was not independent"):
        Sampler(2, solver=EulerMaruyama(White(Rng(0))))(Flow(MIXTURE.field(), independent=False), X0)
    with pytest.raises(ValueError, match="changes one copy of it only"):
        Sampler(2, solver=Reversible(), controllers=(Still(),))(FLOW, X0)
    with pytest.raises(ValueError, match="it was fitted for the times"):
        Sampler(2, solver=Fitted((0, 1), ((1,),)), schedule=Explicit((0.0, 0.5, 1.0)))(FLOW, X0)
    with pytest.raises(ValueError, match="it was fitted for the times"):
        Sampler(1, solver=Fitted((0, 1), ((1,),))).invert(FLOW, X0)
    with pytest.raises(ValueError, match="rows of lengths 1 to N"):
        Fitted((0, 1), ((1,), (1, 0)))
    with pytest.raises(ValueError, match="pass one per step, or none"):
        Fitted((0, 1), ((1,),), (1, 1))


class Still:
    def steer(self, f: object, flow: Flow) -> object:
        return f

    def correct(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x


def test_heun_is_the_default() -> None:
    assert Sampler().solver == HEUN and Sampler().evaluations == 40


def test_one_seed_per_sample_of_a_stochastic_run() -> None:
    sampler = Sampler(8, solver=EulerMaruyama(White(Rng(0))))
    whole = sampler.seeded(range(6), 1)
    both = whole(FLOW, X0[:6])
    parts = torch.cat([whole.for_rows(i, i + 2)(FLOW, X0[i : i + 2]) for i in (0, 2, 4)])
    assert torch.allclose(both, parts, atol=1e-12)
    assert not torch.allclose(sampler.for_rows(0, 2)(FLOW, X0[:2]), sampler.for_rows(2, 4)(FLOW, X0[:2]))
    assert Sampler().seeded(range(3)) == Sampler() and Sampler().for_rows(0, 2) == Sampler()
