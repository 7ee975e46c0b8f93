"""Protocol tests of all backbones."""

from __future__ import annotations

import json

import pytest
import torch
from torch.func import grad, jacfwd, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import MapNetwork, Network
from beeline.networks.dit import DiT
from beeline.networks.hooks import block_hooks, named_blocks
from beeline.networks.mlp import MLP
from beeline.networks.patches import from_patches, to_patches
from beeline.networks.transformer.positions import sincos
from beeline.networks.unet import UNet
from tests.networks.zoo import LABEL, ZOO, alive, inputs

every = pytest.mark.parametrize("name", ZOO)


@every
def test_rebuilt_from_plain_data_it_is_the_same_network(name: str) -> None:
    net, shape = alive(name, conditions={**LABEL, "size of it": {"size": 2}}, span=True, dropout=0.1)
    again = config.build(json.loads(json.dumps(config.describe(net), sort_keys=True))).eval()
    assert again.describe() == net.describe()
    assert again.load_state_dict(net.state_dict()) is not None
    x, t, label = inputs(shape, 3)
    cond = {"label": label, "size of it": x.flatten(1)[:, :2]}
    assert torch.equal(again(x, t, cond, t.sqrt()), net(x, t, cond, t.sqrt()))


@every
def test_starts_as_the_zero_velocity(name: str) -> None:
    make, shape = ZOO[name]
    with Rng(0).ambient():
        net = make(conditions=LABEL, span=True)
    x, t, label = inputs(shape, 3)
    out = net(x, t, label, t.sqrt())
    assert torch.equal(out, torch.zeros_like(x))


@every
def test_no_condition_is_the_null_label(name: str) -> None:
    net, shape = alive(name, conditions=LABEL)
    x, t, label = inputs(shape, 4)
    null = torch.full((4,), 10)
    assert torch.equal(net(x, t), net(x, t, null))
    assert torch.equal(net(x, t, {"label": label}), net(x, t, label))
    assert (net(x, t, label) - net(x, t)).abs().flatten(1).amax(1).min() > 1e-4


@every
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    net, shape = alive(name, conditions=LABEL)
    x, t, label = inputs(shape, 5)
    together = net(x, t, label)
    for i in range(5):
        alone = net(x[i : i + 1], t[i : i + 1], label[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-5, rtol=1e-5)


@every
def test_every_parameter_has_a_gradient(name: str) -> None:
    net, shape = alive(name, conditions={**LABEL, "c": {"size": 2}}, span=True)
    x, t, label = inputs(shape, 4)
    net(x, t, {"label": label, "c": x.flatten(1)[:, :2]}, t.sqrt()).square().sum().backward()
    for key, p in net.named_parameters():
        assert p.grad is not None and p.grad.any(), key


@every
def test_forward_derivatives_are_finite_differences(name: str) -> None:
    net, shape = alive(name, conditions=LABEL, span=True)
    net = net.double()
    x, t, label = inputs(shape, 2, torch.float64)
    t = 0.2 + 0.6 * t
    s = t + 0.1
    dx, dt, ds = x.flip(0), torch.ones_like(t), t - 0.5

    def f(x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return net(x, t, label, s)

    value, slope = jvp(f, (x, t, s), (dx, dt, ds))
    h = 1e-6
    numeric = (f(x + h * dx, t + h * dt, s + h * ds) - f(x - h * dx, t - h * dt, s - h * ds)) / (2 * h)
    assert torch.allclose(value, f(x, t, s), atol=1e-12)
    assert (slope - numeric).norm() < 1e-6 * slope.norm()
    # and the derivative of that derivative by the weights exists: few-step students are trained through it
    jvp(f, (x, t, s), (dx, dt, ds))[1].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every
def test_forward_over_reverse_agrees_with_reverse_over_reverse(name: str) -> None:
    net, shape = alive(name)
    net = net.double()
    x, t, _ = inputs(shape, 1, torch.float64)
    d = x.flip(-1)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return net(x, t).square().sum()

    forward = jvp(grad(energy), (x,), (d,))[1]
    with sdpa_kernel(SDPBackend.MATH):
        reverse = grad(lambda x: (grad(energy)(x) * d).sum())(x)
    assert torch.allclose(forward, reverse, rtol=1e-8, atol=1e-10)


def test_a_jacobian_of_the_transformer() -> None:
    net, shape = alive("DiT")
    net = net.double()
    x, t, _ = inputs(shape, 1, torch.float64)
    whole = jacfwd(lambda x: net(x, t))(x).reshape(64, 64)
    row = torch.autograd.grad(net(x.requires_grad_(), t).flatten()[5], x)[0].flatten()
    assert torch.allclose(whole[5], row, atol=1e-12)


@every
def test_a_flow_map_with_the_weights_of_a_field_is_that_field(name: str) -> None:
    net, shape = alive(name, conditions=LABEL)
    make, _ = ZOO[name]
    jumps = make(conditions=LABEL, span=True).eval()
    missing, unexpected = jumps.load_state_dict(net.state_dict(), strict=False)
    assert missing and all(".span." in key for key in missing) and not unexpected
    x, t, label = inputs(shape, 3)
    assert torch.equal(jumps(x, t, label, torch.ones_like(t)), net(x, t, label))
    u, v = MapNetwork(jumps), Network(net)
    assert torch.equal(u(x, t, label, t), v(x, t, label))


@every
def test_a_jump_of_no_length_is_the_default(name: str) -> None:
    net, shape = alive(name, span=True)
    x, t, _ = inputs(shape, 3)
    assert torch.equal(net(x, t), net(x, t, None, t))
    assert not torch.allclose(net(x, t), net(x, t, None, t + 0.3))


@every
def test_half_precision_keeps_time_and_norms_in_float32(name: str) -> None:
    net, shape = alive(name, conditions=LABEL)
    x, t, label = inputs(shape, 8)
    t = torch.linspace(0.5, 0.5 + 1e-3, 8)  # in bfloat16 these are one time
    wanted = net(x, t, label)
    short = net.to(torch.bfloat16)
    made = Network(short)(x, t, label)
    assert made.dtype == torch.float32 and made.isfinite().all()
    assert (made - wanted).norm() < 0.05 * wanted.norm()
    e = short.get_submodule("embed")(t, label)
    assert e.dtype == torch.float32
    assert len(short.get_submodule("embed")(t).unique(dim=0)) == 8


@every
def test_autocast_does_not_apply_to_the_time(name: str) -> None:
    net, shape = alive(name)
    _, t, _ = inputs(shape, 4)
    plain = net.get_submodule("embed")(t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net.get_submodule("embed")(t), plain)


@every
def test_dropout_applies_in_training_only(name: str) -> None:
    net, shape = alive(name, dropout=0.5)
    x, t, _ = inputs(shape, 3)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    with Rng(1).ambient():
        one, two = net(x, t), net(x, t)
    assert not torch.equal(one, two)
    with Rng(1).ambient():
        assert torch.equal(net(x, t), one)


@every
def test_every_block_can_be_read_and_replaced(name: str) -> None:
    net, shape = alive(name)
    wrapped = Network(net)
    x, t, _ = inputs(shape, 2)
    plain = wrapped(x, t)
    seen: dict[str, torch.Tensor] = {}
    names = list(named_blocks(wrapped))
    assert len(names) == sum(len(stack) for stack in net.stacks.values()) > 0
    with block_hooks(wrapped, {k: lambda h, k=k: seen.update({k: h}) for k in names}):
        assert torch.equal(wrapped(x, t), plain)
    assert list(seen) == names  # and in the order in which they run
    for k in names:
        with block_hooks(wrapped, {k: lambda h: h * h.abs()}):
            assert not torch.allclose(wrapped(x, t), plain, atol=1e-6), k
        with block_hooks(wrapped, {k: lambda h, k=k: seen[k]}):
            assert torch.equal(wrapped(x, t), plain)
    with pytest.raises(RuntimeError, match="stop"), block_hooks(net, {names[0]: _fail}):
        net(x, t)
    assert torch.equal(wrapped(x, t), plain)  # the taps are gone, also after an error


def _fail(_: torch.Tensor) -> None:
    raise RuntimeError("stop")


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 9, 13), (4, 1, 5), (1, 1, 1)])
@pytest.mark.parametrize("patch", [0, 1, 3])
def test_images_of_any_size(shape: tuple[int, int, int], patch: int) -> None:
    with Rng(0).ambient():
        net = DiT(shape, patch, width=16, depth=1, heads=1) if patch else UNet(shape, width=8)
        torch.nn.init.normal_(net.out.weight)
    x, t, _ = inputs(shape, 2)
    made = net(x, t)
    assert made.shape == x.shape and made.is_contiguous() and made.abs().flatten(1).amax(1).min() > 0


def test_a_unet_works_at_sizes_it_was_not_built_for() -> None:
    net, _ = alive("UNet")
    x, t, _ = inputs((2, 11, 4), 2)
    assert net(x, t).shape == x.shape


def test_patches_and_back() -> None:
    for shape, patch in (((2, 6, 4), 2), ((3, 5, 7), 3)):
        net = DiT(shape, patch, width=8, depth=1, heads=1)
        x = inputs(shape, 2)[0]
        tokens = to_patches(x, net.patch)
        assert torch.equal(from_patches(tokens, net.shape, net.patch), x)
        assert torch.equal(tokens[0, 1, : patch * patch].reshape(patch, patch), x[0, 0, :patch, patch : 2 * patch])


def test_positions_are_distinct() -> None:
    table = sincos((5, 7), 16)
    assert table.shape == (35, 16)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.1
    assert torch.allclose(table[:, 0], torch.sin(torch.arange(35) // 7 / 10000.0), atol=1e-6)


def test_each_frame_has_its_own_time() -> None:
    net, shape = alive("MLP of a shape", span=True)
    x, t, _ = inputs(shape, 2)
    same = t[:, None].repeat(1, 3)
    assert torch.equal(net(x, t), net(x, same))
    own = same + torch.tensor([0.0, 0.1, 0.2])
    assert not torch.allclose(net(x, own), net(x, same))
    assert torch.equal(net(x, own), net(x, own, None, own))


def test_a_small_network_learns_a_known_field_in_seconds() -> None:
    """Data N(m, 0.25), source N(0, 1): v = m + (t/4 - (1 - t)) / (t^2/4 + (1-t)^2) (x - t m)."""
    m = torch.tensor([1.0, -0.5])

    def distribution(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t[:, None]
        return m + (t / 4 - (1 - t)) / (t * t / 4 + (1 - t) ** 2) * (x - t * m)

    rng = Rng(0)
    with rng.ambient():
        net = MLP(2, width=64, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)

    def draw(n: int, rng: Rng) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x1 = m + 0.5 * rng.fork("x1").normal(torch.empty(n, 2))
        x0 = rng.fork("x0").normal(x1)
        t = rng.fork("t").uniform(n, x1)
        return torch.lerp(x0, x1, t[:, None]), t, x1 - x0

    for i in range(300):
        x, t, slope = draw(256, rng.fork(i))
        optimizer.zero_grad()
        (net(x, t) - slope).square().mean().backward()
        optimizer.step()
        rate.step()
    x, t, _ = draw(4000, rng.fork("held out"))
    with torch.no_grad():
        error = (net(x, t) - distribution(x, t)).square().mean() / distribution(x, t).square().mean()
    assert error < 0.02  # of the field's energy; what remains is the noise of 300 batches


REFUSALS = {
    "no size": (lambda: MLP(), "number of coordinates"),
    "two sizes": (lambda: MLP(3, shape=(2, 2)), "product is the size"),
    "no depth": (lambda: MLP(2, depth=0), "depth=0"),
    "low scale": (lambda: MLP(2, scale=0.5), "highest frequency"),
    "no image": (lambda: UNet((8, 8)), r"\(channels, height, width\)"),
    "no levels": (lambda: UNet((1, 8, 8), multipliers=()), "one level for each"),
    "uneven heads": (lambda: DiT((1, 8, 8), width=40, heads=3), "multiple of heads"),
    "odd width": (lambda: DiT((1, 8, 8), width=30, heads=3), "multiple of 4"),
    "other state": (lambda: MLP(2)(torch.zeros(4, 3), torch.zeros(4)), r"built for \[B, 2\]"),
    "other channels": (lambda: UNet((1, 8, 8), width=8)(torch.zeros(2, 3, 8, 8), torch.zeros(2)), "any, any"),
    "other size": (lambda: DiT((1, 8, 8), width=32)(torch.zeros(2, 1, 8, 9), torch.zeros(2)), r"\[B, 1, 8, 8\]"),
    "other times": (lambda: MLP(2)(torch.zeros(4, 2), torch.zeros(3)), "one time per sample"),
    "one time": (lambda: MLP(2)(torch.zeros(4, 2), torch.tensor(0.5)), "one time per sample"),
    "frames": (lambda: MLP(2)(torch.zeros(4, 2), torch.zeros(4, 2)), "with frames"),
    "more frames": (lambda: MLP(6, frames=3)(torch.zeros(4, 6), torch.zeros(4, 2)), "3 frames"),
    "no span": (lambda: MLP(2)(torch.zeros(4, 2), torch.zeros(4), None, torch.ones(4)), "span=True"),
    "no such tap": (lambda: block_hooks(MLP(2), {"blok.0": _fail}).__enter__(), "did you mean 'block.0'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    call, message = REFUSALS[case]
    with pytest.raises(BeelineError, match=message):
        call()


@pytest.mark.parametrize("dropout", [float("nan"), -0.1, 1.0])
@pytest.mark.parametrize("build", [lambda d: MLP(2, dropout=d), lambda d: UNet((1, 8, 8), dropout=d)])
def test_dropout_is_a_probability(build, dropout):
    with pytest.raises(ValueError, match="probability below 1"):
        build(dropout)
