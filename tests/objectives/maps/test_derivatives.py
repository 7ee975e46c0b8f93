"""Derivatives along a direction, and the check of one against finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from beeline.core.errors import BeelineError
from beeline.networks.attention import SelfAttention
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.objectives.maps.derivatives import FiniteDifference, ForwardMode, check_derivative


def curve(x: Tensor, t: Tensor) -> Tensor:
    return x.sin() * (3 * t).exp()[:, None] + t[:, None] ** 2


def exact(x: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (x.cos() * v + 3 * x.sin() * w[:, None]) * (3 * t).exp()[:, None] + 2 * (t * w)[:, None]


def sample(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(6, 3, generator=generator, dtype=dtype) for _ in range(2))
    t = torch.tensor([0.0, 1e-4, 0.3, 0.7, 1 - 1e-4, 1.0], dtype=dtype)
    return x, t, v, torch.tensor([1.0, -1.0, 0.0, 0.5, 1.0, 2.0], dtype=dtype)


@pytest.mark.parametrize(
    ("derivative", "dtype", "inside", "ends"),
    [
        (ForwardMode(), torch.float64, 1e-14, 1e-14),
        (ForwardMode(), torch.float32, 1e-6, 1e-6),
        (FiniteDifference(1e-5), torch.float64, 1e-9, 1e-4),  # one-sided at the ends of time
        (FiniteDifference(1e-3), torch.float32, 1e-3, 1e-2),
    ],
)
def test_derivative_of_a_known_function(derivative: Any, dtype: torch.dtype, inside: float, ends: float) -> None:
    x, t, v, w = sample(dtype)
    value, slope = derivative(curve, (x, t), (v, w))
    assert torch.equal(value, curve(x, t))
    expected = exact(x, t, v, w)
    error = (slope - expected).abs() / (1 + expected.abs())
    assert error.max() < ends and error[2:4].max() < inside


def test_finite_difference_stays_within_the_times() -> None:
    seen: list[Tensor] = []

    def f(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x * t[:, None]

    x, t, v, w = sample(torch.float32)
    slope = FiniteDifference(0.1)(f, (x, t), (v, w))[1]
    assert all(bool(((times >= 0) & (times <= 1)).all()) for times in seen)
    assert (slope - (v * t[:, None] + x * w[:, None])).abs().max() < 0.25  # v w h at the ends, where it is one-sided


def test_finite_difference_shares_the_random_numbers_of_its_evaluations() -> None:
    net = nn.Sequential(nn.Linear(3, 512), nn.Dropout(0.5), nn.Linear(512, 3)).double()
    x, _, v, _ = sample(torch.float64)
    torch.manual_seed(0)
    value, slope = FiniteDifference(1e-5)(net, (x,), (v,))
    after = torch.rand(1)
    torch.manual_seed(0)
    expected = torch.func.jvp(net, (x,), (v,))
    assert torch.equal(after, torch.rand(1))  # as after one evaluation
    assert torch.allclose(value, expected[0]) and torch.allclose(slope, expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("derivative", [ForwardMode(), FiniteDifference()])
def test_inputs_in_half_precision_and_autocast_give_derivatives_in_float32(derivative: Any) -> None:
    net = MLP(3, width=32, depth=1)
    x, t, v, w = sample(torch.float32)
    x, v = x.bfloat16().float(), v.bfloat16().float()
    expected = derivative(net, (x, t), (v, w))
    with torch.autocast("cpu", torch.bfloat16):
        found = derivative(net, (x.bfloat16(), t), (v.bfloat16(), w))
    assert all(part.dtype == torch.float32 for part in found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradients_flow_through_value_and_derivative() -> None:
    net = MLP(3, width=16, depth=1).double()
    x, t, v, w = sample(torch.float64)
    grads = []
    for derivative in (ForwardMode(), FiniteDifference(1e-4)):
        net.zero_grad()
        value, slope = derivative(net, (x, t), (v, w))
        (value.square().sum() + slope[2:4].square().sum()).backward()  # type: ignore[no-untyped-call]
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        assert not any(part.requires_grad for part in ForwardMode()(net, (x, t), (v, w)))


def test_attention_takes_a_kernel_with_a_forward_derivative() -> None:
    net = SelfAttention(16, heads=2)
    generator = torch.Generator().manual_seed(1)
    x, v = (torch.randn(2, 5, 16, generator=generator) for _ in range(2))
    for fused in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(fused), torch.no_grad():
            slope = ForwardMode()(net, (x,), (v,))[1]
            assert torch.allclose(slope, FiniteDifference(5e-3)(net, (x,), (v,))[1], atol=1e-3)
    check_derivative(net, (x,), (v,))


def test_check_passes_for_the_networks_of_the_package() -> None:
    torch.manual_seed(0)
    dit = DiT((1, 8, 8), width=32, depth=2, heads=2, span=True)
    for p in dit.parameters():
        nn.init.normal_(p, std=0.1)  # the last layer starts at zero
    generator = torch.Generator().manual_seed(1)
    x, v = (torch.randn(4, 1, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([0.0, 0.2, 0.5, 0.9])
    s = torch.tensor([0.1, 1.0, 0.7, 1.0])
    check_derivative(lambda x, t, s: dit(x, t, None, s), (x, t, s), (v, torch.ones(4), torch.zeros(4)))
    with pytest.raises(BeelineError, match="relative error"):  # the derivative in another direction
        wrong = ForwardMode()
        check_derivative(
            lambda x, t, s: dit(x, t, None, s),
            (x, t, s),
            (v, torch.ones(4), torch.zeros(4)),
            lambda f, inputs, tangents: wrong(f, inputs, (tangents[0], torch.zeros(4), torch.zeros(4))),
        )


def test_check_names_error_kernel_and_remedy() -> None:
    x, t, v, w = sample(torch.float32)

    def broken(x: Tensor, t: Tensor) -> Tensor:
        with torch.autograd.forward_ad._set_fwd_grad_enabled(False):
            return curve(x, t)

    with pytest.raises(BeelineError, match=r"error is 1 .*\(attention kernels in use: .*math.*FiniteDifference\(\)"):
        check_derivative(broken, (x, t), (v, w))
    check_derivative(broken, (x, t), (v, w), FiniteDifference())
    check_derivative(lambda x, t: curve(x, t) * torch.nan, (x, t), (v, w))  # reported by the training itself


def test_rounding_raises_no_error() -> None:
    net = MLP(3, width=32, depth=2).bfloat16()

    def f(x: Tensor, t: Tensor) -> Tensor:
        return net(x.bfloat16(), t).float()

    x, t, v, w = sample(torch.float32)
    check_derivative(f, (x, t), (v, w))


def test_operation_without_forward_derivative_is_named() -> None:
    q = torch.randn(1, 2, 4, 8)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(BeelineError, match="without a forward derivative"):
        ForwardMode()(lambda q: nn.functional.scaled_dot_product_attention(q, q, q), (q,), (torch.ones_like(q),))


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ForwardMode()(nn.Linear(2, 2), (torch.ones(1, 3),), (torch.ones(1, 3),))


def test_check_passes_with_dropout_and_leaves_the_random_numbers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Dropout(0.3), nn.Linear(32, 3))
    x, _, v, _ = sample(torch.float32)
    state = torch.get_rng_state()
    check_derivative(net, (x,), (v,))
    assert torch.equal(torch.get_rng_state(), state)
