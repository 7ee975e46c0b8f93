"""The formulas of score games against exact gradients of the divergences, on Gaussians in one dimension."""

import math

import numpy as np
import pytest
import torch

from beeline.objectives.games import divergences, formulas
from beeline.objectives.games.divergences import (
    ForwardKL,
    Jeffreys,
    JensenShannon,
    Neyman,
    ReverseKL,
    SoftenedReverseKL,
    SquaredHellinger,
)

TEACHER = (0.4, 1.1)  # mean and standard deviation
STUDENT = torch.tensor([-0.2, 0.8], dtype=torch.float64)
T = 0.6

NODES, WEIGHTS = (torch.as_tensor(part) for part in np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
Z, E = (part.flatten() for part in torch.meshgrid(NODES, NODES, indexing="ij"))
MASS = (WEIGHTS[:, None] * WEIGHTS).flatten()  # of (z, e), both standard normal


def made_and_noised(theta):
    """Samples of the student and their noised states, at the nodes of the quadrature."""
    made = theta[0] + theta[1] * Z
    return made, T * made + (1 - T) * E


def data(x, mean, std):
    """The expected datum of a Gaussian at a state."""
    return mean + T * std**2 / (T**2 * std**2 + (1 - T) ** 2) * (x - T * mean)


def log_density(x, mean, std):
    variance = T**2 * std**2 + (1 - T) ** 2
    return -((x - T * mean) ** 2) / (2 * variance) - 0.5 * torch.log(torch.as_tensor(2 * math.pi * variance))


def wide_nodes(theta):
    """Nodes and weights of a quadrature over x with the density of a fixed wide Gaussian divided out."""
    x = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    return x, torch.full_like(x, float(x[1] - x[0]))


F_OF = {
    ReverseKL: lambda r: -r.log(),
    ForwardKL: lambda r: r * r.log(),
    JensenShannon: lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    SoftenedReverseKL: lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    SquaredHellinger: lambda r: 4 * (1 - r.sqrt()),
    Jeffreys: lambda r: (r - 1) * r.log(),
    Neyman: lambda r: 1 / (2 * r),
}


@pytest.mark.parametrize("kind", F_OF)
def test_the_weights_of_f_divergences_give_their_exact_gradients(kind):
    """The gradient of D_f = E_student f(p_T / p_student) by quadrature, with autograd, and that of the score game."""
    theta = STUDENT.clone().requires_grad_(True)
    x, dx = wide_nodes(theta)
    ours = log_density(x, *theta)
    r = (log_density(x, *TEACHER) - ours).exp()
    exact = torch.autograd.grad((dx * ours.exp() * F_OF[kind](r)).sum(), theta)[0]
    made, state = made_and_noised(theta)
    fake, teacher = data(state.detach(), *STUDENT), data(state.detach(), *TEACHER)
    t = torch.full((len(Z),), T, dtype=torch.float64)
    ratio = (log_density(state.detach(), *TEACHER) - log_density(state.detach(), *STUDENT)).exp()
    direction = kind().weight(ratio) * T * formulas.score_difference(fake, teacher, t)
    found = torch.autograd.grad((MASS * direction * made).sum(), theta)[0]
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-8), (found, exact)
    assert kind().ratio == (kind is not ReverseKL)


def test_towards_gives_the_direction_as_its_gradient():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    direction = torch.ones(3, 4)
    assert torch.allclose(torch.autograd.grad(formulas.towards(x, direction).sum(), x)[0], direction / 4)
    wanted = torch.zeros(3, 4)
    w = formulas.normaliser(x, wanted, 1e-3)
    assert torch.allclose(w[:, 0], 1 / x.abs().mean(1)) and not w.requires_grad
    assert torch.equal(formulas.normaliser(wanted, wanted, 0.5), torch.full((3, 1), 2.0))


def fisher_divergence(theta):
    _, state = made_and_noised(theta)
    return (MASS * (data(state, *TEACHER) - data(state, *theta)) ** 2).sum()


def test_score_identity_and_fisher_are_exact_where_they_say_so():
    theta = STUDENT.clone().requires_grad_(True)
    exact = torch.autograd.grad(fisher_divergence(theta), theta)[0]
    made, state = made_and_noised(theta)
    fake, teacher = data(state, *STUDENT), data(state, *TEACHER)  # the weights of both are held, the state is not
    column = [part[:, None] for part in (made, fake, teacher)]
    identity = 2 * formulas.score_identity(*column, alpha=0.5)
    assert torch.allclose(torch.autograd.grad((MASS * identity).sum(), theta, retain_graph=True)[0], exact, rtol=1e-9)
    half = formulas.fisher(*column, correction=1.0)
    assert torch.allclose(2 * torch.autograd.grad((MASS * half).sum(), theta, retain_graph=True)[0], exact, rtol=1e-9)
    plain = formulas.fisher(*column, correction=0.0)  # without the change of the fake network it is another gradient
    assert not torch.allclose(2 * torch.autograd.grad((MASS * plain).sum(), theta)[0], exact, rtol=0.1)


def test_score_implicit_matching_is_the_gradient_at_fixed_states():
    scale = 0.3
    theta = STUDENT.clone().requires_grad_(True)
    _, fixed = made_and_noised(STUDENT)
    y = data(fixed, *theta) - data(fixed, *TEACHER)
    exact = torch.autograd.grad((MASS * ((y**2 + scale**2).sqrt() - scale)).sum(), theta)[0]
    made, state = made_and_noised(theta)
    column = [part[:, None] for part in (made, data(state, *STUDENT), data(state, *TEACHER))]
    found = torch.autograd.grad((MASS * formulas.score_implicit(*column, scale)).sum(), theta)[0]
    assert torch.allclose(found, exact, rtol=1e-5)


def test_differences_of_data_noise_and_scores_agree():
    x, t = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None], torch.full((7,), T, dtype=torch.float64)
    fake, teacher = data(x, *STUDENT), data(x, *TEACHER)
    velocities = [(d - x) / (1 - T) for d in (fake, teacher)]
    assert torch.allclose(formulas.data_difference(*velocities, t), fake - teacher)
    noises = [(x - T * d) / (1 - T) for d in (fake, teacher)]
    a, b = torch.tensor(T, dtype=torch.float64), torch.tensor(1 - T, dtype=torch.float64)
    assert torch.allclose(formulas.noise_difference(fake, teacher, a, b), noises[1] - noises[0])
    known = torch.autograd.functional.jacobian(lambda y: (log_density(y, *STUDENT) - log_density(y, *TEACHER)).sum(), x)
    assert torch.allclose(formulas.score_difference(fake, teacher, t), known)


def test_adversarial_losses_have_their_minimum_where_they_say():
    """The critic of the softplus loss is the log ratio, also with unequal densities."""
    p, q = torch.tensor([0.7]), torch.tensor([0.1])
    d = torch.tensor([0.3], requires_grad=True)
    for _ in range(300):
        loss = p * formulas.softplus_critic(d, torch.full((1,), -50.0)) + q * formulas.softplus_critic(
            torch.full((1,), 50.0), d
        )
        d = (d - 2.0 * torch.autograd.grad(loss.sum(), d)[0]).detach().requires_grad_(True)
    assert torch.allclose(d, (p / q).log(), atol=1e-3)
    assert torch.equal(formulas.hinge_critic(torch.ones(2), -torch.ones(2)), torch.zeros(2))
    assert formulas.hinge_student(torch.tensor([2.0])) == -2 and formulas.softplus_student(torch.zeros(1)) > 0
    x = torch.tensor([0.2])
    near = formulas.r1(x**2, (x + 1e-4) ** 2, 1e-4)  # |d/dx x^2|^2 along one direction
    assert torch.allclose(near, (2 * x) ** 2, rtol=2e-2)
    assert torch.equal(formulas.density_ratio(torch.tensor([-99.0, 0.0, 99.0])), torch.tensor([0.1, 1.0, 20.0]))


def test_guidance_augmentation_is_the_guided_part_of_the_gradient():
    """-(w-1)(D(c) - D(0)) and the unguided difference are together the difference to the guided teacher."""
    strong, weak, fake = torch.tensor([[1.0]]), torch.tensor([[0.25]]), torch.tensor([[-0.5]])
    guided = weak + 3.0 * (strong - weak)
    assert torch.allclose(formulas.augmentation(strong, weak, 3.0) + fake - strong, fake - guided)


def test_every_divergence_is_at_its_minimum_for_equal_densities():
    for name in (
        "ReverseKL",
        "ForwardKL",
        "JensenShannon",
        "SoftenedReverseKL",
        "SquaredHellinger",
        "Jeffreys",
        "Neyman",
    ):
        h = getattr(divergences, name)().weight(torch.ones(1))
        assert 0 < h <= 2
