"""Every component and command on a second device: a simulated one, and CUDA where it is available."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import beeline as bl
from beeline.config.catalogue import CATALOGUE, member
from beeline.core.modes import AUTO, deferred, place_for, resolve_device
from beeline.data.energies.tables import Reader
from beeline.distillation.fit_solver import Bespoke
from beeline.distillation.store.checks import check_pairs
from beeline.distillation.store.conditions import Conditions
from beeline.distillation.store.filters import LowestEnergy, Nearest
from beeline.distillation.store.making import Maker
from beeline.evaluation.heldout import HeldOut
from beeline.networks.adapters.adapted import adapted, merged
from beeline.networks.adapters.members.mixture import fixed
from beeline.networks.branches.branched import branched
from beeline.networks.side.bits import Lean, saved_in_bits
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.scale_fusion import ScaleFused
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from tests.second_device import DEVICE, MixedDevicesError, SecondDevice, second_device

Rng = bl.Rng
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")],
)


@pytest.fixture(params=["second", CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device to run on; a simulated one inside ``second_device``."""
    if request.param == "cuda":
        yield torch.device("cuda", torch.cuda.current_device())
        return
    with second_device():
        yield DEVICE


def x_on(device: torch.device, n: int = 6, *shape: int, key: int = 0) -> Tensor:
    return Rng(key).normal(torch.empty(n, *(shape or (2,)))).to(device)


def net_on(device: torch.device, **more: Any) -> nn.Module:
    with Rng(0).ambient():
        net = bl.networks.Network(bl.networks.MLP(2, width=8, depth=1, **more))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):  # the last layer starts at zero
            p += 0.1 * Rng(1).fork(i).normal(p)
    return net.to(device)


def batch_on(device: torch.device, *shape: int, n: int = 6, cond: bool = False) -> bl.Batch:
    labels = {"label": (torch.arange(n) % 3).to(device)} if cond else None
    return bl.Batch(x_on(device, n, *shape), cond=labels)


def of(kind: str, name: str, *args: Any, **more: Any) -> Any:
    return member(f"{kind}.{name}")(*args, **more)


def parts(kind: str, without: tuple[str, ...] = (), **special: Any) -> list[Any]:
    """A factory for every member of a kind, by name; ``special`` has factories for members that need settings."""
    names = [n for n in CATALOGUE[kind] if n not in without]
    return [pytest.param(special.get(n, lambda n=n, k=kind: _made(k, n)), id=n) for n in names]


def _made(kind: str, name: str) -> Any:
    found = member(f"{kind}.{name}")
    return found() if isinstance(found, type) else found


def on(made: Any, device: torch.device) -> None:
    assert made.device == device, f"on {made.device}"


# ----------------------------------------------------------------------------------------------- the simulated device


def test_mixing_devices_raises() -> None:
    with second_device():
        x = torch.ones(2, device=DEVICE)
        assert (x * 2).device == x.clone().device == torch.zeros_like(x).device == x.new_ones(1).device == DEVICE
        assert x.cpu().device == x.to("cpu").device == torch.ones(2).device == torch.device("cpu")
        for wrong in (lambda: x + torch.ones(2), lambda: torch.stack([x, torch.ones(2)]), lambda: x.numpy()):
            with pytest.raises(MixedDevicesError):
                wrong()
        y = torch.ones(2, device=DEVICE, requires_grad=True)
        y.square().sum().backward()
        on(y.grad, DEVICE)
        on(torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1], DEVICE)


# ----------------------------------------------------------------------------------------------------- paths and times


@pytest.mark.parametrize(
    "make",
    parts(
        "paths",
        ("Geodesic", "TokenMixture", "Dirichlet", "GumbelSoftmax"),
        PartOfPath=lambda: of("paths", "PartOfPath", 0.9),
        Affine=lambda: of("paths", "Affine", lambda t: t**2, lambda t: 1 - t),
    ),
)
def test_paths(make: Any, device: torch.device) -> None:
    path, t = make(), torch.linspace(0.2, 0.8, 6, device=device)
    x, v = path.point(x_on(device), x_on(device, key=1), t, Rng(0))
    on(x, device), on(v, device)
    if hasattr(path, "ends"):
        for part in (*path.ends(x, v, t), path.velocity(x, t, x1=x), path.velocity(x, t, x0=x)):
            on(part, device)


SIMPLEX = {name: (lambda name=name: of("paths", name)) for name in ("TokenMixture", "Dirichlet", "GumbelSoftmax")}
STARTS = {"TokenMixture": "UniformTokens", "Dirichlet": "Simplex", "GumbelSoftmax": "GumbelSimplex"}


@pytest.mark.parametrize("name", SIMPLEX)
def test_simplex_paths(name: str, device: torch.device) -> None:
    path, source = SIMPLEX[name](), of("sources", STARTS[name])
    x1 = torch.eye(3).repeat(2, 1)[:, None].to(device)  # [6, 1, 3]
    x0 = source.sample(x1, Rng(0))
    on(x0, device)
    on(path.point(x0, x1, torch.linspace(0.1, 0.9, 6, device=device), Rng(1)).x, device)
    on(source.log_prob(x0), device)


@pytest.mark.parametrize("make", parts("spaces"))
def test_spaces(make: Any, device: torch.device) -> None:
    space = make()
    like = x_on(device, 6, 4)
    x0, x1 = space.sample(like, Rng(0)), space.sample(like, Rng(1))
    path = of("paths", "Geodesic", space)
    on(path.point(x0, x1, torch.linspace(0.1, 0.9, 6, device=device)).v, device)
    source = of("sources", "UniformOnSpace", space)
    on(source.log_prob(source.sample(like, Rng(2))), device)


@pytest.mark.parametrize("make", parts("times", At=lambda: of("times", "At", 0.5)))
def test_times(make: Any, device: torch.device) -> None:
    times = make()
    t = times(6, x_on(device), Rng(0))
    on(t, device)
    if t.ndim == 1:
        on(times.log_prob(t.clamp(0.01, 0.99)), device)


@pytest.mark.parametrize(
    "make",
    parts(
        "sources",
        ("UniformOnSpace", "UniformTokens", "MaskTokens", "Simplex", "GumbelSimplex"),
        Empirical=lambda: of("sources", "Empirical", x_on(torch.device("cpu"), 9)),
        DatasetSource=lambda: of("sources", "Empirical", x_on(torch.device("cpu"), 9)),
    ),
)
def test_sources(make: Any, device: torch.device) -> None:
    on(make().sample(x_on(device), Rng(0)), device)


@pytest.mark.parametrize(
    "make",
    parts(
        "couplings",
        Remembered=lambda: of("couplings", "Remembered", x_on(torch.device("cpu"), 9)),
        VelocityOT=lambda: of("couplings", "VelocityOT", net_on(torch.device("cpu"))),
        ConditionalOT=lambda: of("couplings", "ConditionalOT"),
        Annealed=lambda: of("couplings", "Annealed"),
    ),
)
def test_couplings(make: Any, device: torch.device) -> None:
    coupling = make()
    labels = type(coupling).__name__ in ("Independent", "Paired", "ConditionalOT", "PairedOrOT")
    batch = batch_on(device, cond=labels)
    batch = bl.Batch(batch.x1, x_on(device, key=2), batch.cond, weight=torch.ones(6, device=device))
    if type(coupling).__name__ in ("Remembered", "VelocityOT"):
        pytest.skip("made for the pairs of one data set; worked in the objectives below")
    made = coupling(batch, Rng(0))
    on(made.x0, device), on(made.x1, device), on(made.weight, device)
    if labels:
        on(made.cond["label"], device)


# -------------------------------------------------------------------------------------------------------------- using


WHITE = lambda: of("noises", "White", Rng(0))  # noqa: E731
SPECIAL = {
    "EulerMaruyama": lambda: of("solvers", "EulerMaruyama", of("noises", "Brownian", Rng(0))),
    "Overshoot": lambda: of("solvers", "Overshoot", WHITE()),
    "Refresh": lambda: of("solvers", "Refresh", of("noises", "White", Rng(0), seeds=tuple(range(6)))),
    "Langevin": lambda: of("solvers", "Langevin", WHITE()),
    "Fitted": lambda: of("solvers", "Fitted", (0, 0.5, 1), ((1,), (0.2, 0.8))),
    "StateWeights": lambda: state_weights(),
    "RungeKutta": lambda: of("solvers", "RungeKutta", 2, ((0.5,),), (0.0, 1.0)),
}
FITTED = ("Fitted", "StateWeights")  # for two steps, on their own times
ELSEWHERE = (
    "GeodesicEuler",
    "Projected",
    "TokenJumps",
    "ConfidentJumps",
    "LatentSDE",
    "FlowMapStep",
    "ConsistencyStep",
)  # flows of other kinds, below


def state_weights() -> Any:
    """Two steps of two hidden units, with 3 and 6 invariants."""
    base = of("solvers", "Fitted", (0, 0.5, 1), ((1,), (0.2, 0.8)))
    inner = tuple(((0.1,) * (k + 1),) * 2 for k in (3, 6))
    outer = (((0.1, 0.2),) * 2, ((0.1, 0.2),) * 3)
    return of("solvers", "StateWeights", base, ((0,) * 3, (0,) * 6), ((1,) * 3, (1,) * 6), inner, outer)


@pytest.mark.parametrize("make", parts("solvers", ELSEWHERE, **SPECIAL))
def test_solvers_of_one_time_and_of_times_per_sample(make: Any, device: torch.device) -> None:
    solver, flow = make(), bl.Flow(net_on(device))
    steps = 2 if type(solver).__name__ in FITTED else 4
    on(bl.Sampler(steps, solver=solver)(flow, x_on(device)), device)
    times = torch.linspace(0.1, 0.9, steps + 1, device=device)[:, None].repeat(1, 6)
    if type(solver).__name__ not in ("Adaptive", *FITTED, "Picard", "GaussSeidelJacobi", "Brownian", "Refresh"):
        x = x_on(device)
        state = solver.lift(x) if hasattr(solver, "lift") else x
        if not hasattr(solver, "score"):
            on(bl.integrate(lambda y, t: -y, state, times, solver), device)


def test_other_solvers(device: torch.device) -> None:
    jump = bl.networks.MapNetwork(bl.networks.MLP(2, width=8, depth=1, span=True)).to(device)
    for step in (bl.solvers.FlowMapStep(), of("solvers", "ConsistencyStep")):
        on(bl.Sampler(2, solver=step)(bl.Flow(jump), x_on(device)), device)
    halves = of("networks", "DecoupledTimes", bl.networks.MLP(2, width=8, depth=2), first=1).to(device)
    on(bl.Sampler(2, solver=bl.solvers.FlowMapStep())(bl.Flow(halves), x_on(device)), device)
    angles = of("networks", "FromTrigFlow", of("networks", "ToTrigFlow", net_on(device), 0.5), 0.5)
    on(angles(x_on(device), torch.linspace(0, 1, 6, device=device)), device)
    tokens, source = of("paths", "TokenMixture"), of("sources", "MaskTokens")
    even = bl.Flow(lambda x, t: tokens.mixture(x, t, torch.full_like(x, 1 / 3)), tokens, source)
    masked = source.sample(torch.empty(6, 2, 4, device=device), Rng(0))
    refined = of("samplers", "RefinedNoise", 2, refiner=net_on(device))
    on(refined(bl.Flow(net_on(device)), x_on(device)), device)
    on(bl.Sampler(2, solver=of("solvers", "ConfidentJumps", temperature=1.0))(even, masked), device)
    space = of("spaces", "Sphere")
    flow = bl.Flow(of("networks", "Tangent", net_on(device), space), of("paths", "Geodesic", space))
    start = space.sample(x_on(device), Rng(0))
    for solver in (of("solvers", "GeodesicEuler", space), of("solvers", "Projected", space=space)):
        on(bl.Sampler(3, solver=solver)(flow, start), device)


@pytest.mark.parametrize("make", parts("schedules", CheckpointSchedule=lambda: of("schedules", "CheckpointSchedule",
        "sd3", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    DiffusionSchedule=lambda: of("schedules", "DiffusionSchedule", "DDIMScheduler", {"beta_schedule": "linear"}),
    FluxShifted=lambda: of("schedules", "FluxShifted", 64),
    ResolutionShifted=lambda: of("schedules", "ResolutionShifted", 64),
    Explicit=lambda: of("schedules", "Explicit", (0.0, 0.2, 0.6, 1.0)),
    Quantiles=lambda: of("schedules", "Quantiles", of("times", "LogitNormal"))))  # fmt: skip
def test_schedules(make: Any, device: torch.device) -> None:
    steps = 4 if type(make()).__name__ == "Windows" else 3
    on(bl.Sampler(steps, schedule=make(), solver=bl.solvers.EULER)(bl.Flow(net_on(device)), x_on(device)), device)


def test_guidance(device: torch.device) -> None:
    net = net_on(device, conditions={"label": {"classes": 3}})
    flow, cond = bl.Flow(net), {"label": torch.arange(6) % 3}  # conditions are moved to the state
    for null in (3, {"label": torch.full((6,), 3)}):
        for window in ((0.0, 1.0), (0.2, 0.6)):
            on(bl.Sampler(4, guidance=bl.CFG(2.0, null, window))(flow, x_on(device), cond), device)
    skipped = of("guidance", "SkippedWeak", bl.CFG(2.0, 3), times=(0.25, 0.5))
    on(bl.Sampler(4, guidance=skipped)(flow, x_on(device), cond), device)
    blocks = tuple(f"{name}.{i}" for name, stack in net.stacks.items() for i in range(len(stack)))
    short = of("guidance", "SkippedBlocks", ((0.25, blocks[:1]),), bl.CFG(2.0, 3))
    on(bl.Sampler(4, solver=bl.solvers.EULER, guidance=short)(flow, x_on(device), cond), device)
    frames = bl.Guide(of("references", "NoisedFrames", (0,)), of("rules", "Extrapolate", 2.0))
    still = bl.Flow(lambda x, t, cond=None: 0 * x)
    on(bl.Sampler(2, guidance=of("guidance", "GivenFrames", (0,), frames))(still, x_on(device, 6, 2, 3)), device)
    guide = bl.Guide(of("references", "Weak", net), of("rules", "Extrapolate", 2.0))
    on(bl.Sampler(4, guidance=guide)(flow, x_on(device), cond), device)
    for rule in (
        of("rules", "OverTime", 2.0, of("scale_shapes", "RaisedCosine")),
        of("rules", "OverTime", 2.0, of("scale_shapes", "PowerCosine"), over_steps=True),
        of("rules", "CFGPlusPlus"),
        of("rules", "ZeroStar", 2.0, start=0.1),
        of("rules", "Rescaled", of("rules", "Projected", 2.0, radius=1.0, momentum=-0.5)),
    ):
        reference = of("references", "PerturbedTime")
        on(bl.Sampler(4, guidance=bl.Guide(reference, rule))(flow, x_on(device), cond), device)
    on(bl.Sampler(4).invert(flow, x_on(device), cond), device)
    images = x_on(device, 6, 1, 4, 4)
    dit = bl.Network(bl.networks.DiT((1, 4, 4), width=16, depth=1, heads=2, conditions={"label": {"classes": 3}}))
    merging = of("guidance", "MergedTokens", bl.CFG(2.0, 3), 0.5)
    on(bl.Sampler(4, guidance=merging)(bl.Flow(dit.to(device)), images, cond), device)
    null = bl.guidance.Unconditional(3)
    for guidance in (
        of("guidance", "AdaptiveWeak", bl.CFG(2.0, 3), -1.0),
        of("guidance", "RectifiedCFGPlusPlus", 2.0, reference=null),
        of("guidance", "Nested", (of("references", "Without", ("label",), null),), (2.0,), ((0.2, 0.6),)),
        of("guidance", "Conjunction", (of("references", "OtherCondition", {"label": 1}),), (2.0, -1.0)),
        of("guidance", "Disjunction", (of("references", "OtherCondition", {"label": 1}),), (2.0, 1.0)),
        of("guidance", "Merged", (of("references", "OtherCondition", {"label": 1}),), ((1.0, 0.0),)),
    ):
        on(bl.Sampler(3, guidance=guidance)(flow, x_on(device), cond), device)
    zero = bl.guidance.Unconditional({"text": [0.0, 0.0]})
    tuned = of("guidance", "AnchoredNull", 2.0, rounds=2, reference=zero)
    towards = bl.Flow(lambda x, t, cond: cond["text"] - x)
    euler = bl.Sampler(2, solver=bl.solvers.EULER, guidance=tuned)
    on(euler(towards, x_on(device), {"text": x_on(device).cpu()}), device)
    labelled = bl.Flow(dit)
    weak, bands = (
        of("references", "Weak", dit),
        bl.Guide(bl.guidance.Unconditional(3), of("rules", "PerFrequency", (2.0, 1.0))),
    )
    regions = {**cond, "regions": (images[:, 0] > 0).long()}
    for guidance in (bands, of("guidance", "SaliencyFusion", bands, weak)):
        on(bl.Sampler(2, guidance=guidance)(labelled, images, cond), device)
    regional = of("guidance", "Regional", 2.0, of("regions", "GivenRegions"), null)
    on(bl.Sampler(2, guidance=regional)(labelled, images, regions), device)
    still = bl.Flow(lambda x, t, cond=None: 0 * x)
    on(bl.Sampler(4, guidance=of("guidance", "ProjectedFlow"))(still, images, {"guide": images.cpu()}), device)
    on(of("samplers", "Enlarging", 4)(still, images), device)
    on(of("samplers", "Anchored", 2, energy=near(), iterations=2)(bl.Flow(net_on(device)), x_on(device)), device)
    flow = bl.Flow(net_on(device, conditions={"label": {"classes": 3}}))
    confused = of("guidance", "ConfusedClass", lambda x1: x1[:, :1] * torch.arange(3, device=device))
    on(bl.Sampler(4, guidance=confused)(flow, x_on(device), cond), device)
    on(of("rotaries", "YaRN", 2.0, 8).frequencies(8, 100.0, images), device)
    net = of("networks", "DiT", (1, 2, 2), width=16, depth=1, heads=2, any_size=True).to(device)
    on(ScaleFused(net, (1, 1))(images, torch.zeros(6, device=device)), device)


def near() -> Any:
    return of("energies", "Near", (0.5, 1.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: of("controllers", "EnergyGuidance", near()),
        lambda: of("controllers", "TFG", near(), gamma=0.1, estimate=of("estimates", "SeveralSteps", 2)),
        lambda: of("controllers", "TFG", near(), kept=of("placements", "StateKept"), clip=0.5),
        lambda: of("controllers", "TFG", near(), rho=0.0, kept=of("placements", "VelocityKept")),
        lambda: of("controllers", "PeriodicOptimisation", near(), every=2, iterations=2),
        lambda: of("controllers", "Towards", (0.5, 1.0)),
        lambda: of("controllers", "Transported", (0.5, 1.0), until=1.0, balanced=True),
    ],
)
def test_controllers_of_gradients(make: Any, device: torch.device) -> None:
    for solver in (bl.solvers.HEUN, of("solvers", "TimeTravel")):
        on(bl.Sampler(3, solver=solver, controllers=(make(),))(bl.Flow(net_on(device)), x_on(device)), device)


def searches() -> list[Any]:
    near = tuple(of("energies", "Near", (end, 1.0)) for end in (0.0, 1.0))
    wanted = of("energies", "Chebyshev", near, (1.0, 2.0))
    pull = of("controllers", "EnergyGuidance", wanted)
    return [
        of("samplers", "BestOf", 4, energy=wanted, candidates=2),
        of("samplers", "ParetoBest", 4, energies=near, candidates=2),
        of("samplers", "GreedySearch", 4, energy=wanted, candidates=2),
        of("samplers", "PathIntegral", 4, energy=wanted, candidates=2),
        of("samplers", "RolloverBudget", 4, energy=wanted, candidates=2, budget=12),
        of("samplers", "Particles", 4, energy=wanted, candidates=4, controllers=(pull,)),
        of(
            "samplers",
            "FeynmanKac",
            4,
            powers=(2.0, -0.5),
            candidates=4,
            references=(of("references", "Unconditional", 3),),
        ),
    ]


@pytest.mark.parametrize("search", searches(), ids=lambda search: type(search).__name__)
def test_searches(search: Any, device: torch.device) -> None:
    flow, cond = bl.Flow(labelled(device)), {"label": torch.arange(6) % 3}
    for how in (search, search.seeded(range(6), 0)):
        on(how(flow, x_on(device), cond), device)


def test_energies(device: torch.device) -> None:
    x, t = x_on(device, 6, 3, 8, 8), torch.linspace(0, 1, 6, device=device)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).to(device)
    labels = of("energies", "Label", nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).to(device))
    colour, zero = of("energies", "MeanColour", (1.0, 0.5, 0.0)), torch.zeros(3, 8, 8)
    for energy in (
        of("energies", "Sum", (colour, of("energies", "Scheduled", colour, shape=of("scale_shapes", "Rising")))),
        of("energies", "Smoothed", colour),
        of("energies", "FeatureDistance", of("encoders", "RandomFeatures", 4), zero),
        of("energies", "PerceptualDistance", net, ("0", "1"), zero),
        labels,
    ):
        on(energy(x, t, (torch.arange(6) % 3).to(device)), device)
    flow = bl.Flow(labelled(device), null={"label": 3})
    distilled = of("energies", "ScoreDistillation", flow)
    on(distilled(x_on(device), t, {"label": (torch.arange(6) % 3).to(device)}), device)
    net = of("networks", "Equilibrium", 2, width=8).to(device)
    made = net(x_on(device), t)
    made.sum().backward()
    on(made, device), on(next(net.parameters()).grad, device)
    on(of("energies", "Motif", (0, 1))(x_on(device, 6, 5, 3).softmax(-1), t), device)
    rows = Reader(1, (-1.0, 0.0, 1.0), (0.0, 1.0, 5.0))
    on(of("energies", "ColumnSum", ("a",), 3.0, readers=(rows,))(x_on(device, 6, 3), t), device)
    on(of("energies", "ColumnRange", "a", 3.0, readers=(rows,))(x_on(device, 6, 3), t), device)


@pytest.mark.parametrize("make", parts("spans"))
def test_spans_and_splits(make: Any, device: torch.device) -> None:
    t, s, _ = make()(6, x_on(device), Rng(0))
    on(t, device), on(s, device)
    for name in CATALOGUE["splits"]:
        on(of("splits", name)(t, s, Rng(0)), device)


@pytest.mark.parametrize("make", parts("derivatives"))
def test_derivatives(make: Any, device: torch.device) -> None:
    net, x, t = net_on(device), x_on(device), torch.linspace(0, 1, 6, device=device)
    for part in make()(net, (x, t), (x_on(device, key=1), torch.ones_like(t))):
        on(part, device)


@pytest.mark.parametrize("gradient", ["Stored", "Checkpointed", "Adjoint"])
@pytest.mark.parametrize("name", ["Exact", "Hutchinson", "HutchPlusPlus"])
def test_likelihood(name: str, gradient: str, device: torch.device) -> None:
    divergence = of("divergences", name) if name == "Exact" else of("divergences", name, Rng(0), 3)
    net, x = net_on(device), x_on(device)
    made = bl.log_prob(bl.Flow(net), x, steps=3, divergence=divergence, gradient=of("gradients", gradient))
    on(made, device)
    made.sum().backward()
    on(next(net.parameters()).grad, device)


def test_fields_and_predictions(device: torch.device) -> None:
    t = torch.linspace(0.1, 0.9, 6, device=device)
    for name in CATALOGUE["predictions"]:
        with Rng(0).ambient():
            net = bl.networks.Network(bl.networks.MLP(2, width=8, depth=1), prediction=of("predictions", name))
        on(net.to(device)(x_on(device), t), device)
    linear, cosine = bl.paths.Linear(), bl.paths.Cosine()
    on(of("networks", "Converted", net_on(device), linear, cosine)(x_on(device), t), device)
    on(bl.Flow(net_on(device)).score(x_on(device), t), device)
    mixture = bl.distributions.GaussianMixture([[0.0, 1.0], [2.0, -1.0]], 0.5)
    for distribution in (mixture, bl.distributions.Checkerboard(), bl.distributions.TwoMoons()):
        on(distribution.field()(x_on(device), t), device), on(distribution.log_prob(x_on(device)), device)


# ----------------------------------------------------------------------------------------------------------- learning


def labelled(device: torch.device) -> nn.Module:
    return net_on(device, conditions={"label": {"classes": 3}})


def causal_on(device: torch.device) -> nn.Module:
    with Rng(0).ambient():
        net = of(
            "networks", "CausalFlow", (2,), width=8, blocks=2, depth=1, heads=2, conditions={"label": {"classes": 3}}
        )
    return net.to(device)


DROP = Drop(0.3, 3)


def maps_on(identity: str, device: torch.device) -> tuple[Any, nn.Module]:
    """An objective of flow maps with guidance in its target, and a network with two times."""
    with Rng(0).ambient():
        net = bl.networks.MapNetwork(
            bl.networks.MLP(2, width=8, depth=1, span=True, conditions={"label": {"classes": 3}})
        )
    teacher = of("velocities", "OfTeacher", bl.Flow(labelled(device)))
    return of(
        "objectives",
        "FlowMapMatching",
        identity=of("identities", identity),
        velocity=of("velocities", "GuidedTarget", teacher, window=(0.2, 0.9)),
        distance=of("distances", "NormalisedTangent"),
        spans=of("spans", "Ordered", backward=0.5),
        drop=DROP,
    ), net.to(device)


OBJECTIVES = {
    "FlowMatching": lambda d: (FlowMatching(drop=DROP), labelled(d)),
    "Score": lambda d: (FlowMatching(prediction=of("predictions", "Score")), labelled(d)),
    "ModelGuidance": lambda d: (of("objectives", "ModelGuidance", FlowMatching(drop=DROP)), labelled(d)),
    "Anticipating": lambda d: (of("objectives", "Anticipating", FlowMatching(drop=DROP)), labelled(d)),
    "Contrastive": lambda d: (of("objectives", "Contrastive", FlowMatching(), labelled(d)), labelled(d)),
    "Dispersed": lambda d: (of("objectives", "Dispersed", FlowMatching(), "backbone.block.0"), labelled(d)),
    "SmoothSteps": lambda d: (of("objectives", "SmoothSteps"), labelled(d)),
    "SelfRectified": lambda d: (of("objectives", "SelfRectified"), labelled(d)),
    "SelfPerceptual": lambda d: (
        of("objectives", "SelfPerceptual", FlowMatching(), labelled(d), "backbone.block.0"),
        labelled(d),
    ),
    "GuidanceDistilled": lambda d: (
        of("objectives", "GuidanceDistilled", bl.Flow(labelled(d), null={"label": 3})),
        net_on(d, conditions={"label": {"classes": 3}, "beta": {"size": 1}}),
    ),
    "Windowed": lambda d: (of("objectives", "Windowed", bl.Flow(labelled(d))), labelled(d)),
    "DecodingMatching": lambda d: (
        of("objectives", "DecodingMatching", bl.Flow(labelled(d)), 8, 4, data_free=True),
        of("networks", "HeadBank", labelled(d), 8, 2),
    ),
    **{name: lambda d, name=name: maps_on(name, d) for name in CATALOGUE["identities"] if name != "Truncated"},
    "TrajectoryConsistency": lambda d: (of("objectives", "TrajectoryConsistency"), maps_on("Eulerian", d)[1]),
    "InductiveMoments": lambda d: (of("objectives", "InductiveMoments"), maps_on("Eulerian", d)[1]),
    "MarginalTransport": lambda d: (of("objectives", "MarginalTransport", bl.Flow(labelled(d))), labelled(d)),
    "CausalLikelihood": lambda d: (of("objectives", "CausalLikelihood"), causal_on(d)),
    "MinibatchOT": lambda d: (FlowMatching(coupling=bl.couplings.MinibatchOT(by="label")), labelled(d)),
    "VelocityOT": lambda d: (FlowMatching(coupling=of("couplings", "VelocityOT", labelled(d))), labelled(d)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str, device: torch.device) -> None:
    objective, net = OBJECTIVES[name](device)
    batch = batch_on(device, n=8, cond=True)
    if name in ("Windowed", "VelocityOT"):
        batch = bl.Batch(batch.x1, x_on(device, 8, key=3), batch.cond)
    loss = objective(net, batch, Rng(0))
    on(loss.value, device), on(loss.per_sample, device), on(loss.t, device)
    loss.value.backward()
    on(next(p.grad for p in net.parameters() if p.grad is not None), device)


SCORES = member("score_weights.NoiseUnits")
GAMES = {
    "AllTerms": lambda: {
        "term": of("student_terms", "TermSum", tuple(make.values[0]() for make in TERMS), (1.0,) * len(TERMS)),
        "adversarial": of("adversarial", "Adversarial", r1=0.1),
    },
    **{
        name: lambda name=name: {
            "term": of(
                "student_terms", "ScoreDifference", of("f_divergences", name), of("score_weights", "NoiseUnits")
            ),
            "adversarial": of("adversarial", "Adversarial", loss=of("adversarial_losses", "Hinge"), on_fake=True),
        }
        for name in ("ForwardKL", "JensenShannon", "SoftenedReverseKL", "SquaredHellinger", "Jeffreys", "Neyman")
    },
    **{
        name: lambda name=name: {
            "generation": of("generations", name, 2),
            "noising": of("noisings", "SharedTimes" if name == "BackwardSimulation" else "Fresh"),
            "adversarial": of("adversarial", "Adversarial", real=of("real_samples", "OwnCleaner")),
            "term": of("student_terms", "ScoreDifference", weight=of("score_weights", "ScoreUnits")),
        }
        for name in ("FromNoisedData", "BackwardSimulation", "Phases")
    },
    "RandomScale": lambda: {"scales": (1.0, 3.0), "adversarial": None},
}
TERMS = parts("student_terms", ("TermSum",))


@pytest.mark.parametrize("name", GAMES)
def test_score_games(name: str, device: torch.device) -> None:
    game = of("objectives", "ScoreGame", bl.Flow(labelled(device), null={"label": 3}), **GAMES[name]())
    nets = {k: net.to(device) for k, net in game.networks().items()}
    batch = batch_on(device, n=8, cond=True)
    for player in game.players(student=labelled(device), **nets):
        loss = player.loss(batch, Rng(0))
        on(loss.value, device), on(loss.per_sample, device), on(loss.t, device)
        loss.value.backward()
        on(next(p.grad for p in player.parameters if p.grad is not None), device)
    on(game(labelled(device), batch, Rng(0)).per_sample, device)


def test_pairs_for_students(device: torch.device) -> None:
    flow, batch = bl.Flow(labelled(device), null={"label": 3}), batch_on(device, n=8, cond=True)
    method = bl.Reflow(bl.Sampler(2), online=True, real=0.25, reverse=0.25).fitted(flow, batch, Rng(0))
    made = method.supply(flow, method.data(flow, batch, Rng(0)), batch, Rng(0)).microbatch(1, 8)
    on(made.x0, device), on(made.x1, device), on(made.cond["label"], device)
    maker = Maker(flow, bl.Sampler(2), Rng(0), torch.empty(0, 2), Conditions.of(batch.cond, Rng(0)), (Nearest(0.5),))
    stored = maker.tensors(range(6), torch.bfloat16)
    assert len(stored["x1"]) == 3 and stored["x1"].dtype == torch.bfloat16
    pairs = maker.batch(range(6))
    on(pairs.x1, device)
    check_pairs(flow, bl.Sampler(2), pairs)
    on(Nearest()(pairs), device)
    on(LowestEnergy(of("energies", "Near", (0.5, 1.0)))(pairs), device)


def test_networks_for_distilled_guidance(device: torch.device) -> None:
    net, flow = labelled(device), bl.Flow(labelled(device), null={"label": 3})
    batch, how = batch_on(device, n=8, cond=True), member("distillations.GuidanceDistillation")
    for name in ("IntoNetwork", "IntoAdapters", "IntoSide"):
        method = how(of("guided_students", name), rollout=3)
        student = method.networks(bl.Flow(net))["student"]
        loss = method.objective(flow)(student, batch, Rng(0))
        loss.value.backward()
        on(loss.value, device), on(next(p.grad for p in student.parameters() if p.grad is not None), device)


def test_a_causal_rollout(device: torch.device) -> None:
    with Rng(0).ambient():
        net = of("networks", "Network", of("networks", "MLP", shape=(3, 2), width=8, depth=1, frames=3)).to(device)
    game = of("objectives", "ScoreGame", bl.Flow(net), of("generations", "CausalRollout", 2))
    loss = game.student_loss(net, net, None, bl.Batch(x_on(device, 6, 3, 2)), Rng(0))
    on(loss.value, device)
    on(game(net, bl.Batch(x_on(device, 6, 3, 2)), Rng(0)).per_sample, device)


def test_causal_flows_are_inverted(device: torch.device) -> None:
    flow = causal_on(device)
    flow.choose_plan(x_on(device), tough=0.5, segments=2)
    with torch.no_grad():
        on(bl.Sampler(1, solver=bl.solvers.EULER)(bl.Flow(flow), x_on(device)), device)


WEIGHTS = {n: None for n in CATALOGUE["weights"]}


@pytest.mark.parametrize(
    "make", parts("weights", ByDensity=lambda: of("weights", "ByDensity", of("times", "LogitNormal")))
)
def test_weights(make: Any, device: torch.device) -> None:
    on(make()(torch.linspace(0.1, 0.9, 6, device=device)), device)


@pytest.mark.parametrize("make", parts("distances", Perceptual=lambda: of("distances", "Perceptual", nn.Identity()),
    FeatureWeighted=lambda: of("distances", "FeatureWeighted", nn.Identity()),
    Combined=lambda: of("distances", "Combined", nn.Identity()),
    Bregman=lambda: of("distances", "Bregman")))  # fmt: skip
def test_distances(make: Any, device: torch.device) -> None:
    try:
        objective = FlowMatching(distance=make())
    except TypeError:
        pytest.skip("needs settings of its own")
    on(objective(net_on(device), batch_on(device), Rng(0)).value, device)


@pytest.mark.parametrize("name", ["Uncertain", "Balanced", "Importance"])
def test_training_moves_networks_teachers_and_data(name: str, device: torch.device) -> None:
    objective = of("objectives", name, FlowMatching())
    data = x_on(torch.device("cpu"), 16)
    made = fit(
        net_on(torch.device("cpu")),
        objective,
        data,
        Training(steps=3, batch_size=8, microbatches=2, ema=EMA(1.0), watch_every=2),
        device=device,
        rng=Rng(0),
        log=lambda entry: None,
        callbacks=(HeldOut(FlowMatching(), bl.Batch(data), train=bl.Batch(data), every=1),),
    )
    on(next(made.parameters()), device)


def test_a_teacher_is_copied_for_training(device: torch.device) -> None:
    teacher = labelled(torch.device("cpu"))
    data = bl.Batch(x_on(torch.device("cpu"), 16), cond={"label": torch.arange(16) % 3})
    objective = of("objectives", "Contrastive", FlowMatching(), teacher)
    training = Training(steps=2, batch_size=4, ema=None)
    made = fit(labelled(torch.device("cpu")), objective, data, training, device=device, rng=Rng(0), log=lambda e: None)
    on(next(made.parameters()), device), on(next(teacher.parameters()), torch.device("cpu"))


# --------------------------------------------------------------------------------------------------------------- verbs


def test_pairs_are_computed_on_the_device_of_the_flow_and_stored_with_the_data(device: torch.device) -> None:
    flow, data = bl.Flow(labelled(device)), bl.Batch(x_on(torch.device("cpu")), cond={"label": torch.arange(6) % 3})
    pairs = bl.reflow_pairs(flow, bl.Sampler(2), data, Rng(0))
    on(pairs.x0, torch.device("cpu")), on(pairs.x1, torch.device("cpu"))
    for method in (bl.Reflow(bl.Sampler(2), reverse=0.5), bl.OneStep(bl.Sampler(2))):
        made = method.data(flow, data, Rng(0))
        on(made.x0, torch.device("cpu"))
        training = Training(steps=1, batch_size=4)
        nets = fit(
            method.networks(flow), method.objective(flow), made, training, device=device, rng=Rng(0), log=lambda e: None
        )
        student, sampler = method.student(flow, nets)
        on(sampler(student, x_on(device), {"label": torch.arange(6) % 3}), device)


def test_a_bundle_is_moved_saved_and_sampled(device: torch.device, tmp_path: Any) -> None:
    bundle = bl.Bundle(bl.Flow(net_on(torch.device("cpu"))), bl.Sampler(2), lineage={"shape": [2]})
    there = bundle.to(device)
    assert there.device == device and bundle.device == torch.device("cpu")
    made = there.sample(4)
    on(made, device)
    assert torch.allclose(made.cpu(), bundle.sample(4), atol=1e-5)
    loaded = bl.load(there.save(tmp_path / "bundle"), device=device)
    assert torch.equal(loaded.sample(4).cpu(), made.cpu())


def test_evaluation_and_fitting(device: torch.device) -> None:
    mixture = bl.distributions.GaussianMixture([[0.0, 1.0], [2.0, -1.0]], 0.5)
    flow = bl.Flow(net_on(torch.device("cpu")))
    report = bl.evaluate(flow, bl.Sampler(2), None, mixture.sample(40, Rng(0)).float(), 40, Rng(1), device=device)
    assert report.provenance["device"] == str(device)
    there = bl.Flow(net_on(device))
    on(
        bl.fit_solver(there, 2, like=x_on(device, 64), rng=Rng(0), method=Bespoke(iterations=2))(there, x_on(device)),
        device,
    )


def test_auto_uses_the_accelerator_of_the_networks(device: torch.device) -> None:
    assert place_for(AUTO, net_on(device)) == device == resolve_device(device)


# ------------------------------------------------------------------------------------------------------------- waiting


def waits(work: Any) -> int:
    with second_device() as mode:
        work(mode)
        return sum(mode.waits.values())


ITERATIVE = ("Adaptive", "FixedPoint", "Symmetric", "Picard", "GaussSeidelJacobi")  # decide by values of the state


@pytest.mark.parametrize("name", [n for n in CATALOGUE["identities"] if n != "Truncated"])
def test_objectives_of_flow_maps_do_not_wait(name: str) -> None:
    """All checks of values of a step are read together; without classes there are none."""

    def run(mode: SecondDevice) -> None:
        objective, net = maps_on(name, DEVICE)
        batch = batch_on(DEVICE, n=8, cond=True)
        mode.waits.clear()
        with deferred():
            objective(net, batch, Rng(0)).value.backward()

    assert waits(run) <= 1


REFERENCES = (
    *("RandomCondition", "PerturbedTime", "SkippedLayers", "PerturbedAttention", "SmoothedAttention"),
    *("SparseAttention", "History"),
)


def referred(name: str, device: torch.device) -> Any:
    """A sampler with a reference, and its arguments."""
    dit = bl.Network(bl.networks.DiT((1, 4, 4), width=16, depth=1, heads=2, conditions={"label": {"classes": 3}}))
    guide = bl.Guide(of("references", name), of("rules", "Extrapolate", 2.0))
    given = (bl.Flow(dit.to(device)), x_on(device, 6, 1, 4, 4), {"label": torch.arange(6) % 3})
    return bl.Sampler(3, solver=bl.solvers.EULER, guidance=guide).seeded(range(6)), given


@pytest.mark.parametrize("name", REFERENCES)
def test_references(name: str, device: torch.device) -> None:
    sampler, given = referred(name, device)
    on(sampler(*given), device)
    if name != "History":  # it is not evaluated, so that Substituted refuses it
        on(bl.Sampler(2, guidance=of("guidance", "Substituted", of("references", name)))(*given), device)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_run_with_a_reference_synchronises_once(name: str) -> None:
    def run(mode: SecondDevice) -> None:
        sampler, given = referred(name, DEVICE)
        mode.waits.clear()
        sampler(*given)

    assert waits(run) == 1


@pytest.mark.parametrize("solver", parts("solvers", (*ELSEWHERE, *ITERATIVE), **SPECIAL))
@pytest.mark.parametrize("guidance", [bl.guidance.Plain(), bl.guidance.CFG(2.0, 3, window=(0.2, 0.7))])
def test_a_sampling_run_synchronises_once(solver: Any, guidance: Any) -> None:
    def run(mode: SecondDevice) -> None:
        flow, x, cond = bl.Flow(labelled(DEVICE)), x_on(DEVICE), {"label": torch.arange(6) % 3}
        made = solver()
        mode.waits.clear()
        bl.Sampler(2 if type(made).__name__ in FITTED else 5, solver=made, guidance=guidance)(flow, x, cond)

    assert waits(run) == 1


@pytest.mark.parametrize("search", searches(), ids=lambda search: type(search).__name__)
def test_a_search_synchronises_once(search: Any) -> None:
    def work(mode: SecondDevice) -> None:
        flow, x, cond = bl.Flow(labelled(DEVICE)), x_on(DEVICE), {"label": torch.arange(6) % 3}
        mode.waits.clear()
        search.seeded(range(6), 0)(flow, x, cond)

    assert waits(work) == 1


def test_labels_are_checked_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, aminmax = [], torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda x: calls.append(x) or aminmax(x))
    device = torch.device("cpu")
    for _ in range(2):
        bl.Sampler(10)(bl.Flow(labelled(device)), x_on(device), {"label": torch.arange(6) % 3})
    assert len(calls) == 2


@pytest.mark.parametrize("path", [bl.paths.Linear(), bl.paths.Cosine()])
def test_a_training_step_synchronises_once(path: Any) -> None:
    counts = []

    def work(mode: SecondDevice) -> None:
        mode.waits.clear()
        data = bl.Batch(x_on(torch.device("cpu"), 16), cond={"label": torch.arange(16) % 3})

        def log(entry: dict[str, Any]) -> None:
            counts.append(sum(mode.waits.values()))

        training = Training(steps=6, batch_size=8, microbatches=2, watch_every=100)
        fit(labelled(DEVICE), FlowMatching(path, drop=DROP), data, training, device=DEVICE, rng=Rng(0), log=log)

    waits(work)
    assert [b - a for a, b in zip(counts, counts[1:], strict=False)][:-1] == [1] * 4  # after the last it is checked


def test_the_first_non_finite_step_is_reported_after_the_run() -> None:
    with second_device():
        x = torch.ones(2, 1, device=DEVICE)
        field = lambda x, t: torch.where(t[:, None] >= 0.5, torch.nan, 1.0) + 0 * x  # noqa: E731
        with pytest.raises(bl.IntegrationError, match=r"non-finite in step 5, from t = 0.5 to 0.6") as caught:
            bl.integrate(field, x, torch.linspace(0, 1, 11), bl.solvers.EULER)
        assert torch.allclose(caught.value.x.cpu(), torch.full((2, 1), 1.5)) and caught.value.t == pytest.approx(0.5)


def test_a_label_out_of_range_is_refused_after_the_run() -> None:
    with second_device(), contextlib.ExitStack():
        net, cond = labelled(DEVICE), {"label": torch.tensor([0, 1, 2, 3, 4, 0], device=DEVICE)}
        with pytest.raises(bl.BeelineError, match="contains the label 4, outside its range"):
            bl.Sampler(2)(bl.Flow(net), x_on(DEVICE), cond)


# --------------------------------------------------------------------------------------------------------------- edits


ATTENTION = tuple(name for name, place in CATALOGUE["edits"].items() if "editing.attention" in place)
OTHER = tuple(name for name in CATALOGUE["edits"] if name not in ATTENTION)
OF_PICTURES = ("Layered", "LayeredScene", "MaskedKeys", "Pan")


@pytest.mark.parametrize(
    "make",
    parts(
        "edits",
        (*OF_PICTURES, *ATTENTION, "TrainedEditor", "ResampledViews"),
        Within=lambda: of("edits", "Within", FlowEdit(), GivenRegion((1.0, 0.0))),
    ),
)
def test_edits(make: Any, device: torch.device) -> None:
    net, x = net_on(device, conditions={"label": {"classes": 3}}), x_on(device)
    old, new = ({"label": torch.full((6,), k)} for k in (0, 1))
    outcome = edited(make(), bl.Flow(net), x, old, new, bl.Sampler(2), Rng(0), region=GivenRegion((1.0, 1.0)))
    for part in (outcome.x, outcome.region, outcome.change, outcome.kept):
        on(part, device)


LEFT = ((1.0, 1.0, 0.0, 0.0),)


@pytest.mark.parametrize("name", OF_PICTURES)
def test_edits_of_pictures(name: str, device: torch.device) -> None:
    net = bl.Network(bl.networks.DiT((1, 4, 4), width=16, depth=1, heads=2, conditions={"label": {"classes": 3}}))
    given = (
        GivenRegion(LEFT),
        tuple(of("layer_operations", n) for n in CATALOGUE["layer_operations"] if n != "Remove"),
    )
    edit = {"MaskedKeys": given[:1], "Pan": (1, -1)}.get(name, given)
    old, new = ({"label": torch.full((6,), k)} for k in (0, 1))
    made = of("edits", name, *edit)(bl.Flow(net.to(device)), x_on(device, 6, 1, 4, 4), old, new, bl.Sampler(2), Rng(0))
    on(made, device)


@pytest.mark.parametrize("name", [n for n in CATALOGUE["edit_regions"] if n != "AttentionRegion"])
def test_regions(name: str, device: torch.device) -> None:
    net = bl.Network(bl.networks.DiT((1, 4, 4), width=16, depth=1, heads=2, conditions={"label": {"classes": 3}}))
    made: dict[str, Any] = {"GivenRegion": (LEFT,), "Union": ((GivenRegion(LEFT),),), "Difference": ()}
    old, new = ({"label": torch.full((6,), k)} for k in (0, 1))
    for threshold in CATALOGUE["thresholds"]:
        difference = of("edit_regions", "Difference", 0.5, 2, of("thresholds", threshold))
        region = difference if name == "Difference" else of("edit_regions", name, *made.get(name, (difference,)))
        on(region(bl.Flow(net.to(device)), x_on(device, 6, 1, 4, 4), old, new, Rng(0)), device)


@pytest.mark.parametrize("make", parts("edits", OTHER))
def test_attention_edits(make: Any, device: torch.device) -> None:
    with Rng(0).ambient():
        net = bl.Network(bl.networks.DiT((1, 4, 4), width=8, heads=2, depth=2, conditions={"label": {"classes": 3}}))
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    old, new = ({"label": torch.full((2,), k)} for k in (0, 1))
    flow = bl.Flow(net.to(device), null={"label": 3})
    on(make()(flow, x_on(device, 2, 1, 4, 4), old, new, bl.Sampler(2), Rng(0)), device)


def test_trained_editors(device: torch.device) -> None:
    x, rng = x_on(device, 6, 1, 2, 2), Rng(0)
    objective = of("objectives", "Instructed", (of("pair_operations", "Inverted"), of("pair_operations", "Turned")))
    with rng.ambient():
        inner = bl.Network(bl.networks.MLP(shape=(1, 2, 2), width=8, depth=1))
    net = objective.wrap(inner, bl.Batch(x), rng).to(device)
    loss = objective(net, bl.Batch(x), rng)
    on(loss.value, device)
    edit = of("edits", "TrainedEditor", 1, ((0.5,),))
    on(edit(bl.Flow(net), x, None, None, bl.Sampler(2), rng), device)
    with rng.ambient():
        views = bl.Network(bl.networks.MLP(shape=(8, 1, 1), width=8, depth=1, conditions={"times": {"size": 4}}))
    field, x = of("networks", "ViewField", views, "times").to(device), x_on(device, 6, 4, 2, 1, 1)
    on(of("objectives", "Recomposed")(field, bl.Batch(x), rng).value, device)
    on(of("edits", "ResampledViews", (0,))(bl.Flow(field), x, None, None, bl.Sampler(2), rng), device)


# -------------------------------------------------------------------------------------------------------------- deltas


DELTAS = [
    pytest.param(name, marks=[pytest.mark.skipif(not find_spec("peft"), reason="needs peft")] * (name == "Peft"))
    for name in CATALOGUE["deltas"]
]


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DELTAS)
def test_deltas_are_trained_and_merged(name: str, narrow: bool, device: torch.device) -> None:
    base = net_on(device).to(torch.bfloat16 if narrow else torch.float32)
    with Rng(2).ambient():
        net = adapted(base, member(f"deltas.{name}")())
    trained = [p for p in net.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    for _ in range(2):  # the second factor of a product has no gradient in the first step
        loss = FlowMatching()(net, batch_on(device, n=8), Rng(0)).value
        gradients = torch.autograd.grad(loss, trained)
        with torch.no_grad():
            for p, g in zip(trained, gradients, strict=True):
                on(g, device)
                assert p.dtype == g.dtype == torch.float32 and bool(g.isfinite().all())
                p -= 0.1 * g
    assert any(bool((p != old).any()) for p, old in zip(trained, before, strict=True))
    own, x, t = merged(net), x_on(device), torch.full((6,), 0.5, device=device)
    assert {p.dtype for p in own.parameters()} == {p.dtype for p in base.parameters()}
    with torch.no_grad():
        found, wanted = own(x, t), net(x, t)
    on(found, device)
    assert float((found - wanted).abs().max()) <= 1e-5 * (1 + float(wanted.abs().max()))


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_gates_of_mixtures_are_trained(narrow: bool, device: torch.device) -> None:
    flow = bl.Flow(labelled(device).to(torch.bfloat16 if narrow else torch.float32), null={"label": 3})
    for gate in (of("gates", "Token"), of("gates", "Task", tasks=3)):
        with Rng(2).ambient():
            net = adapted(flow.field, of("deltas", "Mixture", gate=gate))
        loss = FlowMatching()(net, batch_on(device, n=8, cond=True), Rng(0)).value
        for g in torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad]):
            on(g, device)
            assert g.dtype == torch.float32 and bool(g.isfinite().all())
    on(merged(fixed(net, 1))(x_on(device), torch.full((6,), 0.5, device=device)), device)


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(CATALOGUE["branches"]))
def test_branches_are_trained(name: str, narrow: bool, device: torch.device) -> None:
    with Rng(0).ambient():
        base = bl.networks.Network(bl.networks.DiT((1, 4, 4), width=8, depth=2, heads=2))
    with Rng(2).ambient():
        net = branched(base.to(device, torch.bfloat16 if narrow else torch.float32), of("branches", name, rank=2))
        with torch.no_grad():
            for p in net.parameters():
                p += 0.1 * torch.randn_like(p)
        loss = FlowMatching()(net, batch_on(device, 1, 4, 4, n=8), Rng(0)).value
    trained = [p for p in net.parameters() if p.requires_grad]
    for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True):
        on(g, device)
        assert p.dtype == g.dtype == torch.float32 and bool(g.isfinite().all())
    with torch.no_grad():
        on(net.eval()(x_on(device, 6, 1, 4, 4), torch.full((6,), 0.5, device=device)), device)


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_networks_beside_a_frozen_one(narrow: bool, device: torch.device) -> None:
    def base() -> nn.Module:
        return net_on(device).to(torch.bfloat16 if narrow else torch.float32).backbone

    reader, bridge = of("networks", "DepthReader", base(), 8, 4), of("networks", "Bridged", base(), base(), [8], [8])
    for net in (bl.networks.Network(reader), bl.networks.Network(bridge)):
        with saved_in_bits(nn.ModuleList([net, nn.SiLU()])):
            loss = FlowMatching()(net, batch_on(device), Rng(0)).value
        trained = [p for p in net.parameters() if p.requires_grad]
        for g in torch.autograd.grad(loss, trained, allow_unused=net.backbone is reader):
            assert g is None or (g.dtype == torch.float32 and bool(g.isfinite().all()))
            on(loss if g is None else g, device)
    x = x_on(device).requires_grad_()
    (g,) = torch.autograd.grad(Lean(nn.SiLU())(x).sum(), x)
    on(g, device)


def test_adaptations_with_samples_and_answers_of_the_base(device: torch.device) -> None:
    flow, batch = bl.Flow(labelled(device), null={"label": 3}), batch_on(device, n=8, cond=True)
    for how in (
        of("distillations", "Adaptation", prior=1.0, keep=1.0, drawn=5, sampler=bl.Sampler(2)),
        of("distillations", "Unlearning", classes=(1,), push=1.0),
        of("distillations", "SideTuned", rank=4),
        of("distillations", "Continued", teach=1.0),
    ):
        net = how.networks(flow)["student"]
        data = how.supply(flow, batch, batch, Rng(0))
        loss = how.objective(flow)(net, data if isinstance(data, bl.Batch) else data.microbatch(0, 8), Rng(1))
        loss.value.backward()
        on(loss.value, device)
