"""The equilibrium block: its fixed point and its implicit gradients, exactly."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.maps.equilibrium import Equilibrium, fixed_point


def test_a_linear_block_has_the_closed_form_and_its_gradients():
    a = (0.4 * Rng(0).normal(torch.empty(3, 3, dtype=torch.float64)) / 3**0.5).requires_grad_(True)
    b = Rng(1).normal(torch.empty(5, 3, dtype=torch.float64)).requires_grad_(True)
    z = fixed_point(lambda z: z @ a.T + b, torch.zeros_like(b), 200)
    exact = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - a, b.T).T
    assert torch.allclose(z, exact, atol=1e-12)
    wanted = Rng(2).normal(z)
    found = torch.autograd.grad((z * wanted).sum(), [a, b])
    known = torch.autograd.grad((exact * wanted).sum(), [a, b])
    assert all(torch.allclose(f, k, atol=1e-11) for f, k in zip(found, known, strict=True))


def net():
    with Rng(0).ambient():
        made = Equilibrium(2, width=16, conditions={"label": {"classes": 3}}, iterations=60).double()
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p += 0.5 * Rng(1).fork(i).normal(p)
    return made


X, T = Rng(3).normal(torch.empty(6, 2, dtype=torch.float64)), torch.linspace(0, 1, 6, dtype=torch.float64)
COND = {"label": torch.arange(6) % 3}


def test_the_features_are_a_fixed_point_with_the_gradients_of_all_iterations():
    made = net()
    w = made.contracting()
    assert torch.linalg.matrix_norm(w, 2) <= 0.8 + 1e-12
    z = made.features(X, T, COND)
    told = made.inp(X) + made.tell(made.embed(T, COND, None))
    assert torch.allclose(torch.tanh(z @ w.T + told), z, atol=0.8**55)
    unrolled = torch.zeros_like(z)
    for _ in range(150):
        unrolled = torch.tanh(unrolled @ w.T + told)
    parameters = [made.again.weight, made.inp.weight, made.tell.bias]
    wanted = Rng(4).normal(z)
    found = torch.autograd.grad((z * wanted).sum(), parameters)
    known = torch.autograd.grad((unrolled * wanted).sum(), parameters)
    for f, k in zip(found, known, strict=True):
        assert torch.allclose(f, k, rtol=1e-5, atol=1e-6)
    # the error falls with every iteration
    errors = [(made.features(X, T, COND, n) - z).abs().max().item() for n in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2]


def test_gradients_without_a_graph_and_wrong_settings():
    made = net()
    with torch.no_grad():
        assert not made(X, T, COND).requires_grad
    with pytest.raises(BeelineError, match="between 0 and 1"):
        Equilibrium(2, contraction=1.0)
    with pytest.raises(BeelineError, match="no second time"):
        made(X, T, COND, T)
    with pytest.raises(BeelineError, match="size=D"):
        Equilibrium()
