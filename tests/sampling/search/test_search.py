"""Search over candidates: the choice of the best, counts of evaluations, seeds, and wrong settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.sampling.guidance.guide import Unconditional, Weak
from beeline.sampling.search.best_of import BestOf, ParetoBest
from beeline.sampling.search.candidates import lowest, picked, tiled
from beeline.sampling.search.fronts import hypervolume, nondominated
from beeline.sampling.search.particles import FeynmanKac, Particles
from beeline.sampling.search.rollover import RolloverBudget
from beeline.sampling.search.stepwise import GreedySearch, PathIntegral
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.chebyshev import Chebyshev
from beeline.sampling.steering.energies.labels import Label
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.optimised import PeriodicOptimisation
from beeline.sampling.steering.operators.operator import Identity
from beeline.solvers.diffusions import Fading, White
from beeline.solvers.sde import EulerMaruyama

MODES = GaussianMixture.ring(labelled=True)
RING = bl.Flow(MODES.field(), null={"label": 8})
TARGET = Near((4.2, 0.6), deviation=0.5**0.5)  # E = |x - target|^2
COND = {"label": torch.tensor([0, 3, 8, 5, 8])}
X0 = bl.Rng(5).normal(torch.empty(5, 2, dtype=torch.float64))
BOTH = (Near((4.0, 0.0)), Near((0.0, 4.0)))
SEARCHES = [
    BestOf(5, energy=TARGET, candidates=6),
    BestOf(5, solver=EulerMaruyama(White(bl.Rng(1))), energy=TARGET, candidates=3, guidance=bl.CFG(2.0)),
    ParetoBest(5, energies=BOTH, candidates=6),
    GreedySearch(6, energy=TARGET, candidates=4),
    PathIntegral(6, energy=TARGET, candidates=4, guidance=bl.CFG(2.0, window=(0.3, 0.7))),
    RolloverBudget(5, energy=TARGET, candidates=4, budget=25, guidance=bl.CFG(2.0)),
    Particles(6, energy=TARGET, candidates=4),
    Particles(6, energy=TARGET, candidates=4, controllers=(EnergyGuidance(TARGET, 0.1),)),
    FeynmanKac(6, powers=(2.0, -1.0), references=(Unconditional(),), candidates=4),
]
NAMES = [f"{k}-{type(search).__name__}" for k, search in enumerate(SEARCHES)]


class Counting:
    """A field that counts the states it is given."""

    def __init__(self):
        self.states, self.field = 0, MODES.field()

    def __call__(self, x, t, cond=None):
        self.states += len(x)
        return self.field(x, t, cond)


@pytest.mark.parametrize("search", SEARCHES, ids=NAMES)
def test_counted_evaluations_are_those_that_are_made(search):
    field = Counting()
    search(bl.Flow(field, null={"label": 8}), X0, COND)
    assert field.states == search.evaluations * len(X0)


@pytest.mark.parametrize("search", SEARCHES, ids=NAMES)
def test_samples_depend_on_their_seeds_and_not_on_their_batch(search):
    seeds = [11, 12, 13, 14, 15]
    whole = search.seeded(seeds, "run")
    made = whole(RING, X0, COND)
    assert made.shape == X0.shape and torch.equal(made, whole(RING, X0, COND))
    parts = [whole.for_rows(a, b)(RING, X0[a:b], {"label": COND["label"][a:b]}) for a, b in ((0, 2), (2, 5))]
    assert torch.allclose(torch.cat(parts), made, atol=1e-9)
    assert torch.allclose(replace(whole, rows=8)(RING, X0, COND), made, atol=1e-9)
    other = search.seeded([11, 12, 99, 14, 15], "run")(RING, X0, COND)
    same = (other - made).abs().amax(1) < 1e-9
    assert same[[0, 1, 3, 4]].all()
    assert not torch.equal(search.seeded(seeds, "another")(RING, X0, COND), made)


@pytest.mark.parametrize("search", [SEARCHES[k] for k in (1, 3, 6)], ids=lambda search: type(search).__name__)
def test_without_seeds_parts_of_a_batch_have_different_noise(search):
    x0, cond = X0[:1].repeat(4, 1), {"label": COND["label"][:1].repeat(4)}
    made = replace(search, rows=2 * search.candidates)(RING, x0, cond)
    assert len(made.unique(dim=0)) > 1
    assert torch.equal(made, replace(search, rows=2 * search.candidates)(RING, x0, cond))


def test_best_of_returns_the_best_of_its_samples():
    kept = []
    search = BestOf(8, energy=TARGET, candidates=7)
    best = search(RING, X0, COND, watch=lambda x, t: kept.append(x))
    energies = TARGET(kept[-1], torch.ones(len(kept[-1]))).reshape(7, 5)
    assert torch.allclose(TARGET(best, torch.ones(5)), energies.min(0).values)
    assert torch.equal(kept[0][:5], X0), "the given noise is the first candidate"
    assert torch.allclose(kept[-1][:5], bl.Sampler(8)(RING, X0, COND))


class Watched(torch.nn.Module):
    """A classifier of states, and a field of states and times, that records whether it is in training mode."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, x, *rest):
        self.seen.add(self.training)
        return MODES.field()(x, *rest) if rest else x


def test_networks_of_energies_and_references_are_in_evaluation_mode():
    classifier, weak = Watched(), Watched()
    BestOf(3, energy=Label(classifier, 0), candidates=2)(RING, X0, COND)
    FeynmanKac(3, references=(Weak(weak),), candidates=2)(RING, X0, COND)
    assert classifier.seen == weak.seen == {False} and classifier.training and weak.training


@pytest.mark.parametrize("seeds", [None, range(5)])
def test_energies_of_rows_are_never_those_of_other_rows(seeds):
    """One sample in a part, so that its two candidates have as many rows as two samples."""
    energy = Measured(Identity(), MODES.means[:5], noise=0.5)
    search = BestOf(4, energy=energy, candidates=2, rows=2)
    search = search if seeds is None else search.seeded(seeds)
    made = search(RING, X0, COND)
    one = [search.for_rows(i, i + 1)(RING, X0[i : i + 1], {"label": COND["label"][i : i + 1]}) for i in range(5)]
    assert torch.allclose(torch.cat(one), made, atol=1e-9)
    with pytest.raises(BeelineError, match="samples of shape"):
        BestOf(4, energy=Near(X0[:4]), candidates=2, rows=4)(RING, X0[:4], {"label": COND["label"][:4]})


def test_a_controller_of_whole_steps_is_refused_where_samples_are_in_different_steps():
    steering = (PeriodicOptimisation(TARGET, every=2),)
    with pytest.raises(BeelineError, match="samples are in different steps"):
        RolloverBudget(6, energy=TARGET, budget=40, candidates=4, controllers=steering)(RING, X0, COND)


def test_greedy_search_continues_from_the_child_with_the_lowest_predicted_energy():
    seen = []

    def energy(x1, t, cond=None):
        value = TARGET(x1, t)
        seen.append((float(t[0]), x1, value))
        return value

    states = []
    search = GreedySearch(4, energy=energy, candidates=3)
    search(RING, X0, COND, watch=lambda x, t: states.append((float(t[0]), x)))
    assert [len(x1) for _, x1, _ in seen] == [15, 15, 15] and [t for t, _, _ in seen] == pytest.approx(
        [0.25, 0.5, 0.75]
    )
    for (t, x1, value), (at, x) in zip(seen, states[1:-1], strict=True):
        time = torch.full((5,), at, dtype=x.dtype)
        data = x + (1 - at) * MODES.field()(x, time, COND)
        assert at == pytest.approx(t)
        assert torch.allclose(data, x1.reshape(3, 5, 2)[value.reshape(3, 5).argmin(0), torch.arange(5)])


def test_search_lowers_energies_and_the_ones_of_steps_more_than_best_of():
    x0 = bl.Rng(0).normal(torch.empty(60, 2, dtype=torch.float64))
    t, solver = torch.ones(60), EulerMaruyama(White(bl.Rng(0)), Fading(2.0))
    ring = bl.Flow(MODES.field())
    energy = {
        type(search).__name__: float(TARGET(search(ring, x0), t).mean())
        for search in (
            bl.Sampler(20),
            BestOf(10, energy=TARGET, candidates=5),
            GreedySearch(10, solver=solver, energy=TARGET, candidates=10),
            PathIntegral(10, solver=solver, energy=TARGET, candidates=10),
        )
    }
    assert energy["GreedySearch"] < energy["BestOf"] < energy["Sampler"] and energy["PathIntegral"] < energy["Sampler"]


def test_path_integral_without_temperature_is_greedy_and_with_a_high_one_averages_noise():
    greedy = GreedySearch(5, energy=TARGET, candidates=4)(RING, X0, COND)
    cold = PathIntegral(5, energy=TARGET, candidates=4, temperature=0.0, until=1.0)
    assert torch.equal(cold(RING, X0, COND), greedy)
    even = PathIntegral(2, energy=lambda x1, t, cond=None: 0 * x1[:, 0], candidates=4, until=1.0)
    states = []
    still = bl.Flow(lambda x, t, cond=None: 0 * x)
    even(still, X0, watch=lambda x, t: states.append(x))
    z = even.normal(X0, 4, "step", 0).reshape(4, 5, 2).mean(0)
    z = z / z.norm(dim=1, keepdim=True) * 2**0.5
    step = even.solver.diffusion(torch.zeros(1))[0] / 2 * 0.5
    assert torch.allclose(states[1], X0 * (1 - step) + (2 * step) ** 0.5 * z)


def test_the_best_energy_of_rollover_never_rises_and_the_result_is_that_of_the_last_step():
    made = []

    def energy(x1, t, cond=None):
        made.append((t, x1, TARGET(x1, t)))
        return made[-1][2]

    search = RolloverBudget(4, energy=energy, candidates=3, budget=40)
    result = search(RING, X0, COND)
    assert sum(len(x1) for _, x1, _ in made) == 40 * len(X0)
    for row in range(5):
        times = [float(t[row]) for t, _, _ in made[1:]]
        assert times == sorted(times) and times[-1] == pytest.approx(0.75), "steps are taken in order, up to the last"
        last = [(float(e[row]), x1[row]) for t, x1, e in made[1:] if float(t[row]) == times[-1]]
        assert torch.allclose(result[row], min(last, key=lambda pair: pair[0])[1])
        assert len(last) >= 2 * ((40 - 3) // 4), "the last step takes at least the quota of two"


def test_rollover_accepts_at_once_and_moves_the_rest_of_its_quota():
    """With energies that fall at every call all steps but the last take one evaluation each."""
    calls = []

    def falling(x1, t, cond=None):
        calls.append(float(t[0]))
        return torch.full((len(x1),), -float(len(calls)), dtype=x1.dtype)

    RolloverBudget(5, energy=falling, candidates=2, budget=22)(RING, X0[:1], {"label": COND["label"][:1]})
    assert calls[1:] == pytest.approx([0.2, 0.4, 0.6] + [0.8] * 17)
    calls.clear()

    def rising(x1, t, cond=None):
        calls.append(float(t[0]))
        return torch.full((len(x1),), float(len(calls)), dtype=x1.dtype)

    RolloverBudget(5, energy=rising, candidates=2, budget=22)(RING, X0[:1], {"label": COND["label"][:1]})
    assert calls[1:] == pytest.approx([0.2] * 4 + [0.4] * 4 + [0.6] * 4 + [0.8] * 8)


def test_corrections_of_controllers_apply_to_candidates_before_they_are_compared():
    class Fixed:
        """Holds the first coordinate at one."""

        def steer(self, f, flow):
            return f

        def correct(self, x, t):
            return torch.cat([torch.ones_like(x[:, :1]), x[:, 1:]], 1)

    def energy(x1, t, cond=None):
        assert bool((x1[:, 0] - 1).abs().max() < 1e-12)
        return TARGET(x1, t)

    still = bl.Flow(lambda x, t, cond=None: 0 * x)
    for search in (
        GreedySearch(4, energy=energy, candidates=3, controllers=(Fixed(),)),
        PathIntegral(4, energy=energy, candidates=3, controllers=(Fixed(),)),
        BestOf(4, energy=energy, candidates=3, controllers=(Fixed(),)),
    ):
        assert bool((search(still, X0)[:, 0] == 1).all())
    with pytest.raises(BeelineError, match="corrects states, for which there is no weight"):
        Particles(4, energy=TARGET, candidates=3, controllers=(Fixed(),))(still, X0)


def test_pareto_samples_have_their_own_preferences_and_cover_the_front():
    x0 = bl.Rng(1).normal(torch.empty(100, 2, dtype=torch.float64))
    search = ParetoBest(6, energies=BOTH, candidates=16)
    weights = search.preferences(x0)
    assert bool((weights >= 0).all()) and torch.allclose(weights.sum(1), torch.ones(100, dtype=x0.dtype))
    assert abs(float(weights[:, 0].mean()) - 0.5) < 0.12 and abs(float(weights[:, 0].var()) - 1 / 12) < 0.03
    made = search(bl.Flow(MODES.field()), x0)
    values = torch.stack([energy(made, torch.ones(100)) for energy in BOTH], 1)
    first = values[:, 0].argsort()
    assert float(weights[first[:30], 0].mean()) > float(weights[first[-30:], 0].mean()) + 0.2
    single = BestOf(6, energy=Chebyshev(BOTH, (0.5, 0.5)), candidates=16)(bl.Flow(MODES.field()), x0)
    one = torch.stack([energy(single, torch.ones(100)) for energy in BOTH], 1)
    reference = torch.tensor([40.0, 40.0], dtype=values.dtype)
    assert hypervolume(values, reference) > hypervolume(one, reference)


def test_fronts_by_brute_force():
    values = bl.Rng(2).uniform(60, torch.empty(1, dtype=torch.float64)).reshape(30, 2)
    brute = [not any(bool((o <= v).all() and (o < v).any()) for o in values) for v in values]
    assert nondominated(values).tolist() == brute
    grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    cells = torch.cartesian_prod(grid, grid)
    covered = (values[None] <= cells[:, None]).all(2).any(1).double().mean()
    assert abs(hypervolume(values, torch.ones(2)) - float(covered)) < 0.005
    assert hypervolume(values + 2, torch.ones(2)) == 0


def test_helpers_keep_candidates_apart():
    x = torch.arange(6.0)[:, None]
    assert tiled(x, 2)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    other = tiled(x, 2) + torch.tensor([0.0] * 6 + [10.0] * 6)[:, None]
    assert picked(other, torch.tensor([1, 0] * 3))[:, 0].tolist() == [10, 1, 12, 3, 14, 5]
    values = torch.tensor([[1.0, 5.0], [1.0 - 1e-7, 4.0], [2.0, 4.5]])
    assert lowest(values).tolist() == [0, 1], "the first among equals"


def test_a_bundle_samples_by_search(tmp_path):
    with bl.Rng(0).ambient():
        net = bl.Network(bl.networks.MLP(2, width=8, depth=1))
    search = GreedySearch(4, energy=Near([4.2, 0.6]), candidates=3)
    bundle = bl.Bundle(bl.Flow(net), lineage={"shape": [2]}, sampler=search)
    whole = bundle.sample(6)
    assert torch.allclose(bundle.sample(2, seeds=[2, 3]), whole[2:4], atol=1e-5)
    assert torch.allclose(bundle.sample(6, batch_size=4), whole, atol=1e-5)
    again = bl.load(bundle.save(tmp_path / "bundle"), device="cpu")
    assert again.sampler == bundle.sampler and torch.allclose(again.sample(6), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestOf(4, energy=TARGET, candidates=1), "candidates=1, which is no whole number"),
        (lambda: Particles(4, energy=TARGET, candidates=1), "candidates=1, which is no whole number"),
        (lambda: ParetoBest(4, energies=(TARGET,)), "give two or more, or use BestOf"),
        (lambda: RolloverBudget(10, energy=TARGET, candidates=8, budget=17), "a budget of at least candidates"),
        (lambda: RolloverBudget(1, energy=TARGET, candidates=8, budget=17), "steps of at least 2"),
        (lambda: FeynmanKac(4, powers=(2.0, -1.0)), "2 .* and 0 references|powers=.* and 0 references"),
        (lambda: FeynmanKac(4, powers=(0.5, -1.0), references=(Unconditional(),)), "their sum is above 0"),
        (lambda: FeynmanKac(4, powers=(2.0,), guidance=bl.CFG(2.0)), "Guide and 0 controllers"),
        (lambda: Chebyshev((TARGET,), (1.0, 2.0)), "1 energies, 2 weights"),
        (
            lambda: GreedySearch(4, energy=TARGET, solver=bl.solvers.HEUN)(RING, X0, COND),
            "GreedySearch got the solver RungeKutta",
        ),
        (
            lambda: Particles(4, energy=TARGET, solver=EulerMaruyama(White(bl.Rng(0)), Fading(0.0)))(RING, X0, COND),
            "zero at all times",
        ),
        (lambda: BestOf(4, energy=TARGET).invert(RING, X0, COND), "compares candidates in a run from noise"),
        (lambda: BestOf(4, energy=TARGET).seeded([1, 2])(RING, X0, COND), "2 seeds for a batch of 5"),
        (lambda: GreedySearch(4, energy=TARGET)(RING, X0, {"label": COND["label"][:2]}), "one row per sample"),
        (lambda: BestOf(4, energy=lambda x1, t, cond=None: x1.mean())(RING, X0, COND), "one number for each"),
        (lambda: hypervolume(torch.ones(3, 3), torch.ones(3)), "an area of two energies"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_flows_without_a_score_are_refused():
    with pytest.raises(BeelineError, match="independent"):
        GreedySearch(4, energy=TARGET)(replace(RING, independent=False), X0, COND)
