"""Optimizers: reference implementations, convergence, and exact resume of each."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Loss
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant, WarmupConstantCooldown
from beeline.training.optim.optimizers import AdamW, DAdaptAdam, DAdaptSGD, DoG, Muon, Prodigy, ScheduleFree
from beeline.training.optim.steppers import orthogonal

LIBRARIES = {"Prodigy": "prodigyopt", "ScheduleFree": "schedulefree"}


@pytest.fixture(params=[AdamW(weight_decay=0.1), Muon(weight_decay=0.1), DoG(first=1e-2), DoG(1e-2, layers=True),
                        DAdaptSGD(1e-2), DAdaptAdam(first=1e-3), Prodigy(), ScheduleFree()],
                ids=lambda o: type(o).__name__)  # fmt: skip
def optimizer(request):
    """Every optimizer whose library is installed."""
    if type(request.param).__name__ in LIBRARIES:
        pytest.importorskip(LIBRARIES[type(request.param).__name__])
    return request.param


class Quadratic:
    """A quadratic loss with a known minimum."""

    def __call__(self, net, batch, rng):
        error = (net.weight - 1).square().mean() + (net.bias - 2).square().mean()
        error = error + 0.01 * (rng.normal(net.bias) * net.bias).mean()
        return Loss(error, {}, error.detach()[None], torch.zeros(1))


def plan(optimizer, **more):
    lr = 1.0 if optimizer.lr_free else 0.05
    ema = None if optimizer.averages else EMA(5.0)
    return Training(**{"steps": 200, "batch_size": 2, "optimizer": optimizer, "lr": Constant(lr), "ema": ema} | more)


def linear():
    with Rng(0).ambient():
        return nn.Linear(6, 4)


def test_every_optimizer_converges(optimizer):
    if isinstance(optimizer, DAdaptSGD):
        pytest.skip("dual averaging takes thousands of steps; its own test checks the formula and the bound")
    if type(optimizer).__name__ in ("AdamW", "Muon"):
        optimizer = type(optimizer)()  # weight decay would shift the minimum
    net = linear()
    peak = 0.2 if isinstance(optimizer, Muon) else plan(optimizer).lr.peak  # its steps have a fixed spectral norm
    lr = WarmupConstantCooldown(peak, 0, 0.7)
    steps = 600 if isinstance(optimizer, Prodigy) else 200
    training = plan(optimizer, clip=None, lr=lr, steps=steps)
    made = fit(net, Quadratic(), torch.ones(4, 1), training, rng=Rng(0), log=lambda e: None)
    start = linear()
    assert (made.weight - 1).abs().mean() < 0.2 * (start.weight - 1).abs().mean()
    assert (made.bias - 2).abs().mean() < 0.2 * (start.bias - 2).abs().mean()


def test_every_optimizer_resumes_bit_for_bit(optimizer, tmp_path):
    def run(name, steps, **more):
        where, training = tmp_path / name, plan(optimizer, steps=steps)
        fit(
            linear(),
            Quadratic(),
            torch.ones(4, 1),
            training,
            rng=Rng(0),
            log=lambda e: None,
            checkpoint_dir=where,
            **more,
        )
        return checkpoint.read(checkpoint.newest(where))

    a = run("a", 14)
    run("b", 7)
    b = run("b", 14, resume=tmp_path / "b")
    assert a.state["optimizers"] == b.state["optimizers"] and a.tensors.keys() == b.tensors.keys()
    for group in a.tensors:
        for name, tensor in a.tensors[group].items():
            assert torch.equal(tensor, b.tensors[group][name]), (group, name)


def test_newton_schulz_approximates_the_polar_factor():
    for shape in ((6, 10), (10, 6), (7, 7)):
        x = Rng(0).normal(torch.empty(shape, dtype=torch.float64))
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        s = torch.linalg.svdvals(orthogonal(x, 5))
        assert s.max() < 1.25 and s.min() > 0.3
        assert (orthogonal(x, 5) * (u @ v)).sum() / math.sqrt(u.shape[1] * (orthogonal(x, 5) ** 2).sum()) > 0.95


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
def test_muon_equals_torch_muon_on_matrices():
    a, b = linear(), linear()
    ours = Muon().build(list(a.parameters()), 0.01)
    theirs = torch.optim.Muon([b.weight], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for n in range(5):
        g = Rng(n).normal(a.weight)
        a.weight.grad, b.weight.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
    moved = (b.weight - linear().weight).norm()
    assert (a.weight - b.weight).norm() < 0.05 * moved  # theirs works in bfloat16


def test_muon_equals_adam_on_vectors():
    p, q = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    ours, theirs = Muon().build([p], 0.01), torch.optim.Adam([q], lr=0.01, betas=(0.9, 0.99))
    for n in range(4):
        p.grad = Rng(n).normal(p.detach())
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    assert torch.allclose(p, q, atol=1e-6)


def test_dog_follows_its_formula():
    p = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    stepper = DoG(first=1e-2).build([p], 1.0)
    start, far, power = p.detach().clone(), 1e-2 * 6.0, 0.0
    expected = start.clone()
    for n in range(5):
        g = Rng(n).normal(start)
        far, power = max(far, float((expected - start).norm())), power + float(g.norm()) ** 2
        expected = expected - far / math.sqrt(power + 1e-8) * g
        p.grad = g
        stepper.step()
    assert torch.allclose(p.detach(), expected, atol=1e-12)


def test_vectors_have_no_weight_decay():
    net = linear()
    groups = AdamW(weight_decay=0.1).build(list(net.parameters()), 1e-3).param_groups
    assert [(g["weight_decay"], g["params"][0].ndim) for g in groups] == [(0.1, 2), (0.0, 1)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(betas=(0.9, 1.0)),
        lambda: AdamW(weight_decay=-1.0),
        lambda: Muon(momentum=1.0),
        lambda: DoG(first=0.0),
        lambda: Training(optimizer=Prodigy()),
        lambda: Training(optimizer=ScheduleFree()),
    ],
)
def test_invalid_settings_are_refused(make):
    with pytest.raises(BeelineError):
        make()


def test_a_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(BeelineError, match=r"pip install 'beeline\[optim\]'"):
        Prodigy().build([nn.Parameter(torch.ones(1))], 1.0)


def iterate(optimizer, x0, gradient, steps, lr=1.0):
    """The iterates of an optimizer for a gradient function, and the torch optimizer."""
    parts = [nn.Parameter(x.clone()) for x in x0]
    stepper = optimizer.build(parts, lr)
    seen = []
    for _ in range(steps):
        for p, g in zip(parts, gradient([p.detach() for p in parts]), strict=True):
            p.grad = g
        stepper.step()
        seen.append([p.detach().clone() for p in parts])
    return seen, stepper


def test_d_adaptation_follows_its_formula_and_never_exceeds_the_distance():
    x0, target = torch.zeros(3, dtype=torch.float64), torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)

    def gradient(parts):
        return [(parts[0] - target) / (parts[0] - target).norm()]

    x, s, d, gradients, bounds = x0.clone(), torch.zeros_like(x0), 1e-3, [], []
    for _ in range(150):  # the algorithm, with sums over all steps
        g = gradient([x])[0]
        gradients.append((d, float(g.norm())))
        s = s + d * g
        lengths = [n**2 for _, n in gradients]
        gammas = [1 / math.sqrt(sum(lengths[: max(1, i)])) for i in range(len(lengths) + 1)]
        spent = sum(gammas[i] * e**2 * n**2 for i, (e, n) in enumerate(gradients))
        x = x0 - gammas[-1] * s
        d = max(d, float((gammas[-1] * s.norm() ** 2 - spent) / (2 * s.norm())))
        bounds.append(d)
    seen, stepper = iterate(DAdaptSGD(1e-3), [x0], gradient, 150)
    assert torch.allclose(seen[-1][0], x, rtol=1e-9) and math.isclose(stepper.param_groups[0]["d"], d, rel_tol=1e-9)
    assert bounds == sorted(bounds) and 1 < bounds[-1] <= 13  # from a thousandth towards |x0 - x*| = 13


def test_d_adaptation_of_adam_follows_its_formula_and_the_library():
    target = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)

    def gradient(parts):
        return [scale * torch.sign(p - target[: len(p)])[: len(p)] for p in parts]

    b1, b2, eps = 0.9, 0.99, 1e-8
    b3, x, d, sums = math.sqrt(b2), torch.zeros(3, dtype=torch.float64), 1e-3, []
    gradients, weights, bounds = [], [], []
    for n in range(200):  # the moving averages written as sums over all steps
        gradients.append(gradient([x])[0])
        weights.append(d)
        q = sum((1 - b2) * b2 ** (n - i) * g**2 for i, g in enumerate(gradients))
        m = sum((1 - b1) * b1 ** (n - i) * w * g for i, (w, g) in enumerate(zip(weights, gradients, strict=True)))
        s = sum((1 - b3) * b3 ** (n - i) * w * g for i, (w, g) in enumerate(zip(weights, gradients, strict=True)))
        last_s, last_q = sums[-1] if sums else (torch.zeros(3, dtype=torch.float64), torch.zeros(3).double())
        sums.append((s, q))
        inner = float((gradients[-1] * last_s / (last_q.sqrt() + eps)).sum())
        bounds.append(d * inner)
        r = sum((1 - b3) * b3 ** (n - i) * v for i, v in enumerate(bounds))
        d = max(d, r / ((1 - b3) * float(s.abs().sum())))
        x = x - m / (q.sqrt() + eps)
    seen, stepper = iterate(DAdaptAdam(first=1e-3), [torch.zeros(3).double()], gradient, 200)
    assert torch.allclose(seen[-1][0], x, rtol=1e-9) and math.isclose(stepper.param_groups[0]["d"], d, rel_tol=1e-9)
    assert 1 < d < 1.05 * 12 and weights == sorted(weights)  # from a thousandth to the largest distance
    library = pytest.importorskip("dadaptation")
    p = nn.Parameter(torch.zeros(3).double())
    theirs = library.DAdaptAdam([p], betas=(b1, b2), d0=1e-3, weight_decay=0.1, decouple=True)
    q = nn.Parameter(torch.zeros(3, 1).double())  # a matrix, so that it decays
    mine = DAdaptAdam(first=1e-3, weight_decay=0.1).build([q], 1.0)
    for _ in range(200):
        p.grad, q.grad = gradient([p.detach()])[0], gradient([q.detach()[:, 0]])[0][:, None]
        theirs.step()
        mine.step()
    assert torch.allclose(p, q[:, 0], rtol=1e-9)


def test_layerwise_dog_equals_dog_on_each_tensor():
    def slopes(parts):
        return [2 * parts[0] - 1, *(100 * part for part in parts[1:])]

    a, b = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[1.0], [0.0]])
    both, _ = iterate(DoG(1e-2, layers=True), [a, b], slopes, 30)
    one, _ = iterate(DoG(1e-2), [a], slopes, 30)
    alone, _ = iterate(DoG(1e-2, layers=True), [a], slopes, 30)
    assert all(torch.equal(x[0], y[0]) and torch.equal(x[0], z[0]) for x, y, z in zip(both, one, alone, strict=True))
    other, _ = iterate(DoG(1e-2, layers=True), [b], lambda parts: [100 * parts[0]], 30)
    assert all(torch.equal(x[1], y[0]) for x, y in zip(both, other, strict=True))
    scaled, _ = iterate(DoG(1e-2, layers=True), [b], lambda parts: [3e4 * parts[0]], 30)
    assert torch.allclose(scaled[-1][0], other[-1][0], rtol=1e-4)  # invariant to the scale of the loss
