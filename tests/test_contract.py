"""The public contract: the names and signatures that code outside this repository calls."""

from __future__ import annotations

import inspect

import pytest
import torch

import beeline as bl

NAMES = {
    "paths": ["Linear", "Cosine", "VariancePreserving", "Polynomial", "Bridge", "Affine"],
    "times": ["Uniform", "LogitNormal", "Mode", "CosMap", "UShaped", "Bifocal", "At", "Frames"],
    "schedules": ["Uniform", "Shifted", "Quantiles", "Explicit"],
    "sources": ["Gaussian", "Uniform", "Empirical"],
    "couplings": ["Independent", "MinibatchOT", "Sinkhorn", "Immiscible", "Paired"],
    "solvers": [
        "EULER",
        "MIDPOINT",
        "HEUN",
        "RK4",
        "AdamsBashforth",
        "MidpointReuse",
        "DPMSolver",
        "Adaptive",
        "FlowMapStep",
    ],
    "guidance": ["Guide", "CFG", "Plain", "Unconditional", "Extrapolate"],
    "objectives": ["FlowMatching"],
    "distributions": ["Gaussian", "GaussianMixture", "TwoMoons", "Checkerboard"],
}


@pytest.mark.parametrize(("namespace", "name"), [(s, n) for s, names in NAMES.items() for n in names])
def test_namespaces_have_their_names(namespace: str, name: str) -> None:
    assert getattr(getattr(bl, namespace), name) is not None


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (bl.Batch, ["x1", "x0", "cond", "weight"]),
        (bl.Point, ["x", "v"]),
        (bl.Loss, ["value", "terms", "per_sample", "t"]),
        (bl.Flow, ["field", "path", "source", "independent"]),
        (bl.integrate, ["f", "x", "times", "solver", "after", "watch"]),
        (bl.log_prob, ["flow", "x1", "cond", "steps", "solver", "divergence"]),
        (bl.Sampler, ["steps", "schedule", "solver", "guidance", "controllers"]),
        (bl.Sampler.__call__, ["self", "flow", "x0", "cond", "start", "end", "watch"]),
        (bl.Sampler.invert, ["self", "flow", "x1", "cond"]),
        (bl.guidance.Guide, ["reference", "rule", "window"]),
        (bl.guidance.CFG, ["scale", "null", "window"]),
        (bl.objectives.FlowMatching, ["path", "coupling", "times", "prediction", "weight", "distance", "drop"]),
        (bl.Training, ["steps", "batch_size", "microbatches", "optimizer", "lr", "ema", "clip", "checkpoint_every"]),
        (
            bl.fit,
            "networks objective data training rng device parallel callbacks checkpoint_dir resume".split(),
        ),
        (bl.distributions.GaussianMixture, ["means", "stds", "weights"]),
        (bl.distributions.GaussianMixture.sample, ["self", "n", "rng"]),
        (bl.load, ["directory_or_hub_id"]),
        (bl.Bundle.sample, ["self", "n", "cond", "seed", "seeds", "sampler", "batch_size"]),
    ],
)  # fmt: skip
def test_signatures(call: object, names: list[str]) -> None:
    assert [n for n in inspect.signature(call).parameters if n in names] == names  # type: ignore[arg-type]


def test_calls_of_the_contract() -> None:
    x0, x1, t = torch.zeros(4, 2), torch.ones(4, 2), torch.full((4,), 0.25)
    rng, path, mixture = bl.Rng(0), bl.paths.Linear(), bl.distributions.GaussianMixture([[0.0, 1.0], [2.0, -1.0]], 0.5)
    assert (
        rng.fork("a", 1) == bl.Rng(0, ("a", 1)) and rng.normal(x0).shape == (4, 2) and rng.uniform(3, x0).shape == (3,)
    )
    assert rng.rows([4, 2], x0).shape == (2, 2)
    x, v = path.point(x0, x1, t, rng=rng)
    assert torch.equal(path.ends(x, v, t)[1], x1) and torch.equal(path.velocity(x, t, x1=x1), v)
    assert path.score(x, v, t).shape == x.shape
    assert bl.times.LogitNormal(mean=0.0, std=1.0)(5, x0, rng).shape == (5,)
    assert bl.times.UShaped(a=4.0).log_prob(t).shape == (4,)
    assert bl.schedules.Shifted(3.0)(4, start=0.0, end=1.0).shape == (5,)
    batch = bl.couplings.Independent(source=bl.sources.Gaussian())(bl.Batch(x1), rng)
    assert batch.x0 is not None
    flow = bl.Flow(mixture.field(path=path), path=path, source=bl.sources.Gaussian(), independent=True)
    made = bl.Sampler(steps=4, solver=bl.solvers.HEUN)(flow, mixture.sample(4, rng))
    assert made.shape == (4, 2) and bl.Sampler(steps=4).invert(flow, made).shape == (4, 2)
    assert bl.Sampler(steps=20).evaluations == 40
    assert bl.log_prob(flow, made, steps=4, solver=bl.solvers.HEUN, divergence=bl.Exact()).shape == (4,)
    assert bl.log_prob(flow, made, steps=4, divergence=bl.Hutchinson(rng, 2)).shape == (4,)
    assert mixture.log_prob(made).shape == mixture.density(made, torch.ones(4)).shape == (4,)
    assert mixture.score(made, torch.full((4,), 0.5)).shape == (4, 2)
    y, memory = bl.solvers.RK4.step(lambda x, t: -x, x1, t, t + 0.1, None)
    assert y.shape == x1.shape and bl.solvers.RK4.order == 4
    loss = bl.objectives.FlowMatching()(lambda x, t, cond=None: -x, bl.Batch(x1), rng)
    assert loss.value.ndim == 0 and loss.per_sample.shape == loss.t.shape == (4,)


def test_calls_of_flows_with_keywords_as_published() -> None:
    x0, x1, t = torch.zeros(4, 2), torch.ones(4, 2), torch.full((4,), 0.25)
    path = bl.paths.Linear()
    point = path.point(x0, x1, t, rng=None)
    assert isinstance(point, bl.Point) and torch.equal(path.velocity(point.x, t, x0=x0), point.v)
    assert torch.equal(path.velocity(point.x, t, x0=x0, x1=x1), point.v)
    assert [end.shape for end in path.ends(point.x, point.v, t)] == [x0.shape, x1.shape]
    seen: list[float] = []
    times = bl.schedules.Uniform()(4)
    y = bl.integrate(
        lambda x, t: torch.ones_like(x),
        x0,
        times,
        bl.solvers.HEUN,
        after=lambda x, t: x + 1,
        watch=lambda x, t: seen.append(float(t[0])),
    )
    assert torch.equal(y, torch.full((4, 2), 5.0)) and seen == times.tolist()
    assert torch.equal(bl.integrate(lambda x, t: torch.ones_like(x), x0, times), x1)
    cfg = bl.guidance.CFG(3.0, null=10, window=(0.0, 1.0))
    label = torch.tensor([0, 1, 2, 3])
    field = lambda x, t, cond=None: (cond == 10).float()[:, None].expand_as(x)  # noqa: E731
    assert torch.equal(cfg(field, label)(x0, t), torch.full((4, 2), -2.0))  # weak + scale (strong - weak)
    defaults = {n: p.default for n, p in inspect.signature(bl.Sampler.__call__).parameters.items()}
    assert (defaults["cond"], defaults["start"], defaults["end"], defaults["watch"]) == (None, 0.0, 1.0, None)
    kinds = {n: p.kind for n, p in inspect.signature(bl.Sampler.__call__).parameters.items()}
    assert kinds["start"] == kinds["end"] == kinds["watch"] == inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("stds", [0.5, torch.tensor([0.5, 1.0])])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0])])
def test_a_gaussian_mixture_has_the_calls_of_the_contract(stds: object, weights: object) -> None:
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0]])  # [K,D]
    mixture = bl.distributions.GaussianMixture(means, stds, weights=weights)  # type: ignore[arg-type]
    assert mixture == bl.distributions.GaussianMixture(means=means.tolist(), stds=stds, weights=weights)  # type: ignore[arg-type]
    x = mixture.sample(64, bl.Rng(0))
    assert x.shape == (64, 2) and x.dtype == torch.float32
    assert torch.equal(x, mixture.sample(n=64, rng=bl.Rng(0)))
    # the density is that of torch.distributions
    mixing = torch.distributions.Categorical(torch.ones(2) if weights is None else weights)  # type: ignore[arg-type]
    scales = torch.as_tensor(stds).expand(2)[:, None].expand(2, 2)
    parts = torch.distributions.Independent(torch.distributions.Normal(means, scales), 1)
    known = torch.distributions.MixtureSameFamily(mixing, parts)
    assert torch.allclose(mixture.log_prob(x), known.log_prob(x), atol=1e-5)
    t = torch.full((64,), 0.5)
    assert mixture.density(x, t).shape == (64,) and torch.allclose(
        mixture.density(x, torch.ones(64)), known.log_prob(x).exp(), atol=1e-5
    )
    # velocity and score of x_t = t x1 + (1 - t) x0 belong together
    for field in (mixture.field(), mixture.field(path=bl.paths.Linear())):
        v = field(x, t)
        assert v.shape == x.shape and torch.allclose(mixture.score(x, t), (0.5 * v - x) / 0.5, atol=1e-4)
