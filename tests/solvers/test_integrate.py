"""The integration loop: callbacks, refusals, memory."""

import pytest
import torch

from beeline.solvers.integrate import IntegrationError, integrate
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.runge_kutta import EULER, HEUN

X = torch.zeros(3, 2)


def test_watch_after_and_done() -> None:
    seen: list[tuple[float, float]] = []
    memories: list[object] = []
    out = integrate(
        lambda x, t: torch.ones_like(x),
        X,
        torch.tensor([0.0, 0.25, 1.0]),
        EULER,
        after=lambda x, t: x * 2,
        watch=lambda x, t: seen.append((float(t[0]), float(x[0, 0]))),
        done=memories.append,
    )
    assert seen == [(0.0, 0.0), (0.25, 0.5), (1.0, 2.5)]
    assert torch.equal(out, torch.full((3, 2), 2.5)) and memories == [None]


def test_precision_is_float32_or_better() -> None:
    half = integrate(lambda x, t: torch.ones_like(x), X.half(), torch.tensor([0.0, 1.0]))
    assert half.dtype == torch.float32
    double = integrate(lambda x, t: torch.ones_like(x), X.double(), torch.tensor([0.0, 1.0]))
    assert double.dtype == torch.float64


def test_times_reach_the_field_materialised_with_the_batch_or_frame_shape() -> None:
    shapes = []

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(t.shape), t.stride()[0]))
        return torch.zeros_like(x)

    integrate(f, X, torch.tensor([0.0, 1.0]), EULER)
    integrate(f, X, torch.stack([torch.zeros(3, 2), torch.rand(3, 2) + 1e-3]).clamp(max=1), EULER)
    assert shapes == [((3,), 1), ((3, 2), 2)]


def test_memory_does_not_grow_with_the_steps() -> None:
    """Time vectors are created as needed, at most 64 at once."""
    alive: list[int] = []
    import gc

    def watch(x: torch.Tensor, t: torch.Tensor) -> None:
        if float(t[0]) in (0.5, 1.0):
            alive.append(
                sum(o.numel() for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.shape == (512,))
            )

    for steps in (128, 1024):
        integrate(lambda x, t: x, torch.zeros(512, 1), torch.linspace(0, 1, steps + 1), EULER, watch=watch)
    assert max(alive) <= 70 * 512


def test_gradients_through_integrate() -> None:
    x = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    for solver in (HEUN, AdamsBashforth(2)):
        assert torch.autograd.gradcheck(lambda x, s=solver: integrate(lambda y, t: -y * y, x, times, s), (x,))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([0.0, 0.5, 0.5]), "not strictly monotone"),
        (torch.tensor([0.0, 0.5, 0.2]), "not strictly monotone"),
        (torch.tensor([0.0, 1.5]), r"outside \[0, 1\]"),
        (torch.tensor([-0.1, 1.0]), r"outside \[0, 1\]"),
        (torch.tensor([0.0, float("nan")]), "not strictly monotone"),
        (torch.tensor([0.0]), "a step needs two times"),
        (torch.tensor([0, 1]), "floating point times"),
        (torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "for a state of shape"),
    ],
)
def test_invalid_times(times: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(lambda x, t: x, X, times)


def test_invalid_state() -> None:
    with pytest.raises(ValueError, match="pass a floating point tensor"):
        integrate(lambda x, t: x, torch.zeros(2, 2, dtype=torch.long), torch.tensor([0.0, 1.0]))


def test_a_field_of_another_shape_dtype_or_value_is_named_with_its_step() -> None:
    times = torch.linspace(0, 1, 5)
    for bad in (lambda x: x[:, :1], lambda x: x.double(), lambda x: x[0]):
        with pytest.raises(IntegrationError, match=r"in step 2, at t = 0.5, the field returned"):
            integrate(lambda x, t, bad=bad: bad(x) if t[0] >= 0.5 else x, X, times, EULER)
    with pytest.raises(IntegrationError, match="non-finite in step 2, from t = 0.5 to 0.75") as caught:
        integrate(lambda x, t: x + (torch.inf if t[0] >= 0.5 else 1.0), X, times, EULER)
    assert caught.value.t == 0.5 and bool(caught.value.x.isfinite().all()) and float(caught.value.x[0, 0]) == 0.5625


def test_a_large_finite_state_is_no_error() -> None:
    out = integrate(lambda x, t: torch.full_like(x, 3e38), X[:, :1], torch.tensor([0.0, 1.0]), EULER)
    assert bool(out.isfinite().all())
