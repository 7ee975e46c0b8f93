"""Traits of solvers through wrappers, and noise by seed: a sample depends on its own seed alone."""

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.pairs import reflow_pairs
from beeline.evaluation.trajectory import draw
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine, Linear
from beeline.paths.interpolant import Interpolant
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import Adaptive
from beeline.solvers.diffusions import Brownian, Fading, White
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.latent_sde import LatentSDE
from beeline.solvers.multistep import AdamsBashforth, DPMSolver
from beeline.solvers.parallel_in_time import GaussSeidelJacobi, Picard
from beeline.solvers.process import process_of
from beeline.solvers.reversible import FixedPoint, Reversible
from beeline.solvers.runge_kutta import EULER, HEUN, MidpointReuse
from beeline.solvers.sde import EulerMaruyama, Langevin, Overshoot, Refresh
from beeline.solvers.wrappers import CompletedSolver, complete
from beeline.spaces.manifold import Geodesic, Projected, Sphere, Torus, UniformOnSpace
from beeline.spaces.tokens import TokenJumps, TokenMixture, UniformTokens

MIXTURE = GaussianMixture(((2.0, 0.0), (-2.0, 1.0)), 0.4)
FLOW = Flow(MIXTURE.field())
LATENT = Flow(lambda x, t: torch.ones_like(x), Interpolant())
TOKENS = Flow(
    lambda x, t: TokenMixture().mixture(x, t, torch.full_like(x, 1 / x.shape[-1])), TokenMixture(), UniformTokens()
)
BASE, MARUYAMA = White(Rng(0)), EulerMaruyama(White(Rng(0)))
X0 = Rng(0).normal(torch.empty(300, 2, dtype=torch.float64))
START = UniformTokens().sample(torch.empty(300, 40, 4), Rng(1))

CASES = {
    "EulerMaruyama": (FLOW, MARUYAMA, X0),
    "Brownian": (FLOW, EulerMaruyama(Brownian(Rng(0)), heun=True), X0),
    "Overshoot": (FLOW, Overshoot(BASE), X0),
    "Refresh": (FLOW, Refresh(BASE), X0),
    "Langevin": (FLOW, Langevin(BASE), X0),
    "Langevin around noise": (FLOW, Langevin(BASE, MARUYAMA), X0),
    "Projected": (FLOW, Projected(MARUYAMA, Torus()), X0),
    "FixedPoint": (FLOW, FixedPoint(MARUYAMA), X0),
    "LatentSDE": (LATENT, LatentSDE(Interpolant(), lambda x, t: x), X0),
    "TokenJumps": (TOKENS, TokenJumps(TokenMixture()), START),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sample_depends_on_its_own_seed_alone(name: str) -> None:
    flow, solver, x0 = CASES[name]
    keyed = Sampler(3, solver=solver).seeded(range(300), "run")
    whole = keyed(flow, x0)
    for size in (256, 7):  # parts of a batch, as a bundle draws them
        starts = range(0, 300 if size > 100 else 21, size)
        parts = torch.cat([keyed.for_rows(i, i + size)(flow, x0[i : i + size]) for i in starts])
        assert torch.allclose(parts, whole[: len(parts)], atol=1e-9)
    alone = Sampler(3, solver=solver).seeded([299], "run")(flow, x0[299:])
    assert torch.allclose(alone, whole[299:], atol=1e-9)
    same = x0[:1].expand(300, *x0.shape[1:])
    made = keyed(flow, same)
    assert len(made.flatten(1).unique(dim=0)) == 300  # from one start, 300 seeds go 300 ways
    assert not torch.allclose(Sampler(3, solver=solver).seeded(range(300), "other")(flow, x0), whole)


def test_a_seed_is_not_broadcast() -> None:
    for noise in (White(Rng(0), (3,)), Brownian(Rng(0), (3,))):
        with pytest.raises(ValueError, match="1 seeds for a batch of 2"):
            Sampler(2, solver=EulerMaruyama(noise))(FLOW, X0[:2])
    with pytest.raises(ValueError, match="1 seeds for a batch of 2"):
        Sampler(2, solver=LatentSDE(Interpolant(), lambda x, t: x, seeds=(3,)))(LATENT, X0[:2])


def test_times_per_sample_do_not_mix_noise() -> None:
    times = torch.stack([torch.linspace(0, 1, 5), torch.linspace(0, 1, 5) ** 2], 1).double()
    both = integrate(MIXTURE.field(), X0[:2], times, EulerMaruyama(White(Rng(0), (5, 6))))
    alone = integrate(MIXTURE.field(), X0[1:2], times[:, 1], EulerMaruyama(White(Rng(0), (6,))))
    assert torch.allclose(both[1:], alone, atol=1e-12)


def test_batches_repeat_no_noise() -> None:
    """512 equal starts in batches of 256: no two become the same sample."""
    sampler, x0 = Sampler(2, solver=MARUYAMA), X0[:1].expand(512, 2)
    assert len(draw(FLOW, sampler, x0).unique(dim=0)) == 512
    pairs = [reflow_pairs(FLOW, sampler, 6, Rng(1), like=X0[:1], batch_size=size).x1 for size in (2, 6)]
    assert torch.allclose(pairs[0], pairs[1], atol=1e-9)
    assert not torch.allclose(pairs[0][:2] - pairs[0][2:4], torch.zeros(2, 2).double())


def test_wrappers_merge_traits() -> None:
    inside = complete(Projected(EulerMaruyama(BASE, path=Cosine()), Sphere())).traits
    assert inside.score and inside.stochastic and inside.paths == (Cosine(),) and inside.space == Sphere()
    for solver in (
        Projected(Adaptive()),
        Refresh(BASE, solver=Adaptive()),
        Langevin(BASE, FixedPoint()),
        Picard(),
        GaussSeidelJacobi(),
    ):
        assert complete(solver).traits.adaptive and Sampler(2, solver=solver).evaluations is None
    assert complete(Overshoot(BASE, solver=HEUN, path=Cosine())).traits.paths == (Cosine(),)
    assert (
        Sampler(4, solver=Projected(AdamsBashforth(4))).evaluations == Sampler(4, solver=AdamsBashforth(4)).evaluations
    )


def test_score_requirement_behind_a_wrapper_is_checked_first() -> None:
    def never(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no evaluation before the refusal")

    paired = Flow(never, independent=False)
    for solver in (Projected(MARUYAMA), FixedPoint(MARUYAMA), Langevin(BASE, MARUYAMA)):
        with pytest.raises(ValueError, match="coupling was not independent"):
            Sampler(2, solver=solver)(paired, X0)
    sphere = Flow(never, Geodesic(Sphere()), UniformOnSpace(Sphere()))
    with pytest.raises(ValueError, match="Gaussian source"):
        Sampler(2, solver=Projected(MARUYAMA, Sphere()))(sphere, X0)
    with pytest.raises(ValueError, match="the flow was trained on Cosine"):
        Sampler(2, solver=Projected(DPMSolver(2, Linear())))(Flow(never, Cosine()), X0)


def test_unsuitable_inner_solvers_are_refused() -> None:
    for make in (
        lambda: Picard(solver=AdamsBashforth(2)),
        lambda: Picard(solver=MidpointReuse()),
        lambda: GaussSeidelJacobi(solver=Fitted((0, 1), ((1,),))),
        lambda: Overshoot(BASE, solver=DPMSolver(2)),
        lambda: Refresh(BASE, solver=AdamsBashforth(3)),
        lambda: FixedPoint(AdamsBashforth(2)),
    ):
        with pytest.raises(ValueError, match="which is a multistep method"):
            make()
    for solver in (Adaptive(), MARUYAMA):
        with pytest.raises(ValueError, match="many steps are solved in one batch"):
            Picard(solver=solver)
    for make in (lambda: Projected(Picard()), lambda: Langevin(BASE, GaussSeidelJacobi())):
        with pytest.raises(ValueError, match="steps solved in parallel"):
            make()
    with pytest.raises(ValueError, match="augmented state"):
        Projected(Reversible())


def test_parallel_steps_of_any_one_step_method_are_the_sequential_ones() -> None:
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    for inner in (HEUN, Projected(HEUN, Torus())):
        exact = integrate(MIXTURE.field(), X0[:8], times, inner)
        made = integrate(MIXTURE.field(), X0[:8], times, GaussSeidelJacobi(8, 1e-12, inner))
        assert torch.allclose(made, exact, atol=1e-9)


class Bare:
    """A solver written from the protocol alone."""

    order = 1

    def step(self, f: object, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, memory: object) -> object:
        return x + (s - t)[:, None] * f(x, t), memory


def test_a_solver_with_order_and_step_alone_works_everywhere() -> None:
    bare = Bare()
    exact = Sampler(6, solver=EULER)(FLOW, X0)
    assert torch.allclose(Sampler(6, solver=bare)(FLOW, X0), exact, atol=1e-12)
    keyed = Sampler(6, solver=bare).seeded(range(300)).for_rows(0, 300)
    assert keyed.solver is bare and keyed.evaluations == 6
    for wrapped in (Overshoot(BASE, 0.0, bare), Refresh(BASE, Fading(0.0), bare), Langevin(BASE, bare, repeats=0)):
        assert torch.allclose(Sampler(6, solver=wrapped)(FLOW, X0), exact, atol=1e-12)
        assert complete(wrapped).traits.score and complete(wrapped).order == 1
    assert isinstance(complete(bare), CompletedSolver) and process_of(FLOW).adapt_solver(bare) is bare
