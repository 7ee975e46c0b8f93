"""Fields and flows: predictions there and back, conditions that repeat, scores that are refused."""

import pytest
import torch

from beeline.core.declared import as_map
from beeline.core.errors import nearest
from beeline.core.rng import Rng
from beeline.core.types import expand_time, leaves, map_cond
from beeline.couplings.sources import Uniform
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.fields.flow import Data, Flow, Noise, Velocity, bind
from beeline.paths.affine import Cosine, Linear, Polynomial

X, V = (Rng(k).normal(torch.empty(4, 3, dtype=torch.float64)) for k in (0, 1))
T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("path", [Linear(), Cosine(), Polynomial(2.0)], ids=str)
@pytest.mark.parametrize("prediction", [Velocity(), Data(), Noise()], ids=str)
def test_predictions_are_inverse_to_velocities(prediction: object, path: object) -> None:
    assert torch.allclose(prediction.velocity(prediction.value(X, V, T, path), X, T, path), V, atol=1e-10)


def test_predictions_are_finite_at_the_ends() -> None:
    for end in (torch.zeros(4), torch.ones(4)):
        for prediction in (Velocity(), Data(), Noise()):
            assert bool(prediction.velocity(X, X, end.double(), Linear()).isfinite().all())


def test_scores() -> None:
    distribution = GaussianMixture(((1.0, 0.0), (-2.0, 1.0)), 0.5)
    x = X[:, :2]
    flow = Flow(distribution.field())
    assert torch.allclose(flow.score(x, T), distribution.score(x, T), atol=1e-9)
    assert torch.allclose(flow.score(x, T, v=distribution.field()(x, T)), distribution.score(x, T), atol=1e-9)
    gauss = Gaussian((0.5, 1.0), std=2.0)
    s = Flow(gauss.field(Cosine()), Cosine()).score(x, T)
    spread = (4 * Cosine().a(T) ** 2 + Cosine().b(T) ** 2)[:, None]
    mean = Cosine().a(T)[:, None] * torch.tensor([0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(s, -(x - mean) / spread, atol=1e-9)


def test_score_refusals() -> None:
    with pytest.raises(ValueError, match="with the source Uniform"):
        Flow(lambda x, t: x, source=Uniform()).score(X, T)
    with pytest.raises(ValueError, match="coupling was not independent"):
        Flow(lambda x, t: x, independent=False).score(X, T)
    with pytest.raises(ValueError, match="only on an affine path"):
        Flow(lambda x, t: x, path=object()).score(X, T)


def test_binding() -> None:
    assert torch.equal(bind(as_map(lambda x, t, cond=None, s=None: s[:, None] * x))(X, T), T[:, None] * X)
    cond = {"a": torch.tensor([1.0, 2.0]), "b": {"c": torch.tensor([[3.0], [4.0]])}}
    f = bind(lambda x, t, c: c["a"][:, None] + c["b"]["c"] + 0 * x, cond, repeat=True)
    assert f(X[:2], T[:2])[:, 0].tolist() == [4.0, 6.0]
    assert f(X, T)[:, 0].tolist() == [4.0, 6.0, 4.0, 6.0]  # two times of the batch at once


def test_trees_and_times() -> None:
    assert [name for name, _ in leaves({"a": X, "b": {"c": X}})] == ["a", "b.c"]
    with pytest.raises(ValueError, match="condition trees differ"):
        map_cond(lambda a, b: a, {"a": X}, {"b": X})
    assert expand_time(T, X).shape == (4, 1)
    with pytest.raises(ValueError, match="not a leading part of x's shape"):
        expand_time(torch.zeros(3), X)
    assert nearest("Uniformm", ["Uniform", "Mode"]).startswith("did you mean 'Uniform'")
