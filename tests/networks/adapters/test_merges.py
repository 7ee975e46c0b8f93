"""Merged networks, extracted changes and aligned units against exact answers."""

import copy

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import Adapted, merged
from beeline.networks.adapters.alignment import Units, aligned, plan
from beeline.networks.adapters.amounts import PerLayer, Window
from beeline.networks.adapters.delta import LoRA, changed_layers, layers_of, weight_of
from beeline.networks.adapters.factors import Factors, factored, floor, overlap, split, stacked
from beeline.networks.adapters.members.blocks import PHM, Ether, MiSS, Reflections
from beeline.networks.adapters.members.low_rank import AdapterBias, DoRA, Hydra, Principal
from beeline.networks.adapters.members.sparse import SVFT, Fourier, Sparse
from beeline.networks.adapters.merges import (
    Average,
    Dare,
    Orthogonal,
    Slerp,
    Sum,
    Ties,
    fisher_merged,
    merged_networks,
)
from beeline.networks.adapters.starts import extract, oriented
from beeline.networks.mlp import MLP

X, T = torch.linspace(-1, 1, 12).view(6, 2), torch.linspace(0, 1, 6)


def alive(net, seed=1, size=0.1):
    with Rng(seed).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn_like(p))
    return net


def base():
    with Rng(2).ambient():
        return alive(MLP(2, width=16, depth=2))


def tuned(net, delta, seed, amount=1.0):
    with Rng(seed).ambient():
        made = Adapted(copy.deepcopy(net), delta, amount=amount)
    for layer in changed_layers(made).values():
        alive(layer.changes, seed)
    return made


def random(*shape, seed=0):
    return Rng(seed).normal(torch.empty(*shape, dtype=torch.float64))


def test_the_algebra_of_factors_is_that_of_their_matrices():
    a, b = (Factors(random(9, r, seed=r), random(r, 7, seed=10 + r)) for r in (2, 3))
    d, e = a.dense(), b.dense()
    assert torch.allclose((a + b.scaled(-2.0)).dense(), d - 2 * e)
    assert torch.allclose(a.inner(b), (d * e).sum()) and torch.allclose(a.norm(), d.norm())
    assert torch.allclose((a + b).singular_values(), torch.linalg.svdvals(d + e)[:5])
    wanted = floor(d + e, 2)
    assert float(((a + b).truncated(2).dense() - d - e).norm() / (d + e).norm()) == pytest.approx(wanted)
    assert factored(d).rank == 2 and torch.allclose(factored(d).dense(), d) and floor(a, 2) < 1e-12
    assert overlap(a, a) == pytest.approx(1) and 0 < overlap(a, b) < 1
    assert torch.allclose(stacked([a, b]).dense(), torch.cat([d, e]))
    assert torch.allclose(torch.cat([p.dense() for p in split(a, [4, 5])]), d)


RANKS = [(LoRA(2), 2), (Hydra(2, 2), 4), (PHM(4), 32), (MiSS(8), 32), (SVFT(), 32), (Fourier(80), 32), (Ether(4), 16)]


@pytest.mark.parametrize(("delta", "rank"), [*RANKS, (Sparse(0.1), 32)], ids=repr)
def test_the_rank_of_changes_and_the_floor_of_lora_of_equal_count(delta, rank):
    w = random(48, 32).float() / 32**0.5
    with Rng(3).ambient():
        p = delta.start(w)
        moved = {k: v if k.startswith("_") else v + 0.5 * torch.randn_like(v) for k, v in p.items()}
    d = (delta.weight(w, moved) - w).double()
    assert int((torch.linalg.svdvals(d) > 1e-5 * torch.linalg.svdvals(d)[0]).sum()) <= rank
    count = sum(v.numel() for k, v in p.items() if not k.startswith("_"))
    equal = max(1, -(-count // 80))
    assert (floor(d, equal) < 1e-3) == isinstance(delta, LoRA | Hydra)


def test_members_are_their_formulas():
    w, b, i = random(6, 4), random(6, seed=1), torch.eye(6, dtype=torch.float64)
    p = {"up": random(6, 1), "down": random(1, 4), "after_up": random(6, 1, seed=2), "after_down": random(1, 6, seed=3)}
    hydra, after = Hydra(1, 1), i + p["after_up"] @ p["after_down"]
    assert torch.allclose(hydra.weight(w, p), w + p["up"] @ p["down"] + (after - i) @ w)
    assert torch.allclose(hydra.bias(b, w, p), after @ b)
    shift, x = {**p, "offset": random(1)}, random(4)
    y = AdapterBias().weight(w, shift) @ x + AdapterBias().bias(b, w, shift)
    assert torch.allclose(y, w @ x + b + (p["down"] @ x + shift["offset"]) * p["up"][:, 0])
    q = {"up": random(6, 2), "down": random(2, 4), "length": torch.arange(1.0, 7.0).double()}
    assert torch.allclose(torch.linalg.vector_norm(DoRA(2).weight(w, q), dim=1), q["length"])
    with Rng(0).ambient():
        whole = Reflections(1).start(random(6, 8))
        assert float((Reflections(1).weight(torch.eye(8), whole) - torch.eye(8)).norm()) == pytest.approx(2, abs=1e-5)
        four = Reflections(4).start(random(6, 8))
        assert float((Reflections(4).weight(torch.eye(8), four) - torch.eye(8)).norm()) == pytest.approx(4, abs=1e-5)
    a, s = random(2, 2, 2), random(2, 3, 2)
    kron = sum(torch.kron(a[k], s[k]) for k in range(2))
    assert torch.allclose(PHM(2).weight(w, {"a": a, "s": s}), w + kron)
    tiles = random(3, 2, 2)
    made = MiSS(2).weight(w, {"tiles": tiles})
    assert torch.allclose(made[2:4, 2:4], w[2:4, 2:4] @ (torch.eye(2) + tiles[1]) + tiles[1])
    u, _, v = torch.linalg.svd(w, full_matrices=False)
    p = SVFT().start(w) | {"coefficients": torch.ones(4).double()}
    assert torch.allclose(SVFT().weight(w, p), w + u @ v)
    f = Fourier(3, scale=2.0)
    with Rng(1).ambient():
        p = f.start(w) | {"coefficients": torch.ones(3)}
    plane = torch.zeros(24)
    plane[p["_places"]] = 1
    assert torch.allclose(f.weight(w, p), w + 2 * torch.fft.ifft2(plane.view(6, 4)).real)


def test_biases_move_and_are_merged():
    made = tuned(base(), Hydra(2, 2), 4)
    layer = next(iter(changed_layers(made).values()))
    assert not torch.equal(layer.bias, layer._parameters["bias"])
    assert (made.merged()(X, T) - made(X, T)).abs().max() <= 1e-6


def test_amounts_by_layer_and_by_time():
    net = base()
    made = tuned(net, LoRA(2), 4)
    first = next(iter(layers_of(net)))
    part = made.at(PerLayer({first: 0.5}, others=0.0))
    for name, layer in changed_layers(part).items():
        own, now = layer.own, weight_of(layer)
        whole = weight_of(changed_layers(made)[name])
        share = 0.5 if name == f"field.{first}" else 0.0
        assert torch.allclose(now, own + share * (whole - own), atol=1e-6)
    timed = made.at(Window(0.3, 0.7, inside=1.0, outside=0.0))
    inside = (T >= 0.3) & (T <= 0.7)
    assert inside.any() and not inside.all()
    out = timed(X, T)
    assert torch.allclose(out[inside], made(X, T)[inside], atol=1e-6)
    assert torch.allclose(out[~inside], net(X, T)[~inside], atol=1e-6)
    assert torch.equal(timed(X, torch.full((6,), 0.9)), net(X, torch.full((6,), 0.9)))
    with pytest.raises(BeelineError, match="different at every time"):
        timed.merged()
    with pytest.raises(BeelineError, match="outside of its Adapted network"):
        weight_of(next(iter(changed_layers(timed).values())))


def test_several_adapters_are_the_sum_of_their_branches():
    net = base()
    one, two = tuned(net, LoRA(2), 4), tuned(net, LoRA(3), 5)
    both = Adapted(copy.deepcopy(one), LoRA(3))
    for name, layer in changed_layers(both).items():
        layer.changes[-1].load_state_dict(changed_layers(two)[name.removeprefix("field.")].changes[0].state_dict())
    wanted = merged_networks(net, [merged(one), merged(two)], Sum())
    assert (both(X, T) - wanted(X, T)).abs().max() <= 1e-5
    assert (both.merged()(X, T) - both(X, T)).abs().max() <= 1e-5
    back = merged_networks(net, [merged(one), merged(one)], Sum(), [1.0, -1.0])
    assert torch.equal(back(X, T), net(X, T)), "a change and its negative"


def test_rules_of_merging_on_tensors():
    d, e = random(24, 16), random(24, 16, seed=1)
    assert torch.allclose(Average()([d, e], [1, 3], "w"), 0.25 * d + 0.75 * e)
    assert torch.equal(Ties(1.0)([d, d], [1, 1], "w"), d)
    kept = Ties(0.25)([d], [1.0], "w")
    assert int((kept != 0).sum()) == 96 and torch.equal(kept[kept != 0], d[kept != 0])
    assert float(kept[kept != 0].abs().min()) >= float(d[kept == 0].abs().max())
    draws = torch.stack([Dare(0.5, seed)([d], [1.0], "w") for seed in range(400)])
    assert float((draws.mean(0) - d).norm() / d.norm()) < 0.08, "its mean is the sum"
    arc = Slerp()([d, e * d.norm() / e.norm()], [1, 1], "w")
    assert float(arc.norm()) == pytest.approx(float(d.norm()))
    tasks = [random(24, 16, seed=k) for k in range(4)]
    first, added = tasks[0], Orthogonal()(tasks[:2], [1, 1], "w")
    size = (tasks[0].norm() + tasks[1].norm()) / 2
    assert float(added.norm()) == pytest.approx(float(size))
    ratio = added - first * ((added * first).sum() / first.square().sum())
    assert float((ratio * first).sum()) == pytest.approx(0, abs=1e-9)
    made = Orthogonal()(tasks, [1] * 4, "w")
    cosines = [float((made * t).sum() / made.norm() / t.norm()) for t in tasks]
    assert all(0.35 < c < 0.65 for c in cosines)


def test_soups_of_affine_fields_and_fisher_means():
    nets = [nn.Linear(3, 2) for _ in range(3)]
    zero = copy.deepcopy(nets[0])
    soup = merged_networks(zero, nets, Average())
    x = torch.ones(1, 3)
    assert torch.allclose(soup(x), torch.stack([net(x) for net in nets]).mean(0), atol=1e-6)
    three, two = merged_networks(zero, nets, Average()), merged_networks(zero, nets[:2], Average())
    again = merged_networks(zero, [three, nets[2]], Sum(), [1.5, -0.5])
    assert torch.allclose(again(x), two(x), atol=1e-6), "a network is removed from a soup"
    one = {n: torch.ones_like(p) for n, p in nets[0].named_parameters()}
    none = {n: torch.zeros_like(p) for n, p in nets[0].named_parameters()}
    assert torch.allclose(fisher_merged(nets[:2], [one, none])(x), nets[0](x))
    with pytest.raises(BeelineError, match="differ in name or size"):
        merged_networks(zero, [nn.Linear(3, 3)])


def test_a_change_is_extracted_with_its_floor():
    net = base()
    made = merged(tuned(net, LoRA(3), 4))
    whole = extract(made, net)
    assert (whole.network(X, T) - made(X, T)).abs().max() <= 1e-5 and not whole.left
    assert {layer.changes[0].delta for layer in changed_layers(whole.network).values()} == {LoRA(3)}
    part = extract(made, net, rank=1)
    for name, error in part.errors.items():
        layer = changed_layers(part.network)[f"field.{name}"]
        d = weight_of(made.get_submodule(name)) - weight_of(net.get_submodule(name))
        near = weight_of(layer) - layer.own
        assert float((near - d).norm() / d.norm()) == pytest.approx(error, rel=1e-3)
        assert error == pytest.approx(floor(d.double(), 1), rel=1e-4)
    last = list(net.named_parameters())[-2][0]  # of a layer with two outputs
    wide = copy.deepcopy(made)
    wide.get_parameter(last).data.add_(torch.randn(wide.get_parameter(last).shape, generator=torch.manual_seed(0)))
    small = extract(wide, net, energy=1.0)
    assert small.limited == {last.removesuffix(".weight"): 2}
    assert (small.network(X, T) - wide(X, T)).abs().max() <= 1e-5
    inside, other = (Adapted(copy.deepcopy(n), LoRA(2)) for n in (net, wide))
    other.load_state_dict({k: v for k, v in inside.state_dict().items() if ".changes." in k}, strict=False)
    again = extract(other, inside, energy=1.0)
    assert (again.network(X, T) - other(X, T)).abs().max() <= 1e-5, "a base with an adapter inside"
    with pytest.raises(BeelineError, match="no change to extract"):
        extract(net, net)


def test_starts_at_principal_components_and_at_data():
    net = base()
    made = tuned(net, Principal(2), 4)
    start = Adapted(copy.deepcopy(net), Principal(2))
    name, layer = next(iter(changed_layers(start).items()))
    plain = name.removeprefix("field.")
    moments = {n: torch.eye(weight_of(m).shape[1]) for n, m in layers_of(net).items()}
    same = changed_layers(oriented(start, moments, damping=0.0))[name].changes[0]
    assert torch.allclose(same.numbers["up"] @ same.numbers["down"],
                          layer.changes[0].numbers["up"] @ layer.changes[0].numbers["down"], atol=1e-5)  # fmt: skip
    into = weight_of(net.get_submodule(plain)).shape[1]
    x = random(400, into) * torch.logspace(0, -3, into).double()
    moments[plain] = x.mT @ x / 400
    carried = {}
    for largest in (True, False):
        with_data = oriented(Adapted(copy.deepcopy(net), Principal(2, largest)), moments)
        assert (with_data(X, T) - net(X, T)).abs().max() <= 1e-5
        p = changed_layers(with_data)[name].changes[0].numbers
        out = x.float() @ weight_of(net.get_submodule(plain)).mT
        carried[largest] = float((x.float() @ (p["up"] @ p["down"]).mT).norm() / out.norm())
    assert carried[True] > 0.85 and carried[False] < 0.1
    assert (made.merged()(X, T) - made(X, T)).abs().max() <= 1e-5


def chain(width=12, seed=0):
    with Rng(seed).ambient():
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


UNITS = (Units("0", "2"), Units("2", "4"))


def permuted(net):
    made = copy.deepcopy(net)
    with torch.no_grad():
        for k, (a, b) in enumerate(UNITS):
            order = Rng(5).fork(k).permutation(12)
            first, then = made.get_submodule(a), made.get_submodule(b)
            first.weight.copy_(first.weight[order])
            first.bias.copy_(first.bias[order])
            then.weight.copy_(then.weight[:, order])
    return made


def test_units_are_matched_and_permuted_copies_average_to_themselves():
    net, x = chain(), random(50, 4).float()
    other = permuted(net)
    assert torch.allclose(other(x), net(x), atol=1e-5)
    back = aligned(other, net, UNITS)
    assert torch.allclose(back(x), net(x), atol=1e-5)
    plain, matched = (merged_networks(net, [net, n], Average()) for n in (other, back))
    assert (matched(x) - net(x)).norm() < 1e-4 < 0.1 < (plain(x) - net(x)).norm()


def test_units_are_transported_to_another_number():
    net, x = chain(), random(50, 4).float()
    double = chain(24)
    with torch.no_grad():
        for k in (0, 2, 4):
            w, b = net[k].weight, net[k].bias
            w = w if k == 4 else w.repeat_interleave(2, 0)
            double[k].weight = nn.Parameter(w if k == 0 else w.repeat_interleave(2, 1) / 2)
            double[k].bias = nn.Parameter(b if k == 4 else b.repeat_interleave(2, 0))
    assert torch.allclose(double(x), net(x), atol=1e-5)
    small = aligned(double, net, UNITS)
    assert small[0].out_features == 12 and torch.allclose(small(x), net(x), atol=1e-5)
    assert torch.allclose(plan(random(4, 6)).sum(1), torch.full((4,), 0.25).double())
