"""Controls against the network without them, explicit sums and attention to all tokens."""

import copy

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.controls.training import ControlTraining
from beeline.fields.flow import Flow, Network, bind
from beeline.networks.adapters.adapted import Adapted, adapted, merged
from beeline.networks.adapters.amounts import Window
from beeline.networks.adapters.delta import LoRA
from beeline.networks.controls.branches import ControlBranch, RelaCtrl, ShuffleMixer
from beeline.networks.controls.features import ControlNeXt, T2IAdapter, cross_normalized
from beeline.networks.controls.hints import Blur, Edges, LowResolution, Silhouette
from beeline.networks.controls.relevance import most_relevant, relevance
from beeline.networks.controls.tokens import SPEED, EasyControl
from beeline.networks.controls.with_control import WithControl, controlled, controls_of, with_strengths
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.mlp import MLP
from beeline.networks.patches import to_patches
from beeline.networks.published.presets import PixArt
from beeline.networks.transformer.blocks import modulated
from beeline.networks.transformer.layout import asked
from beeline.networks.transformer.mixing.convolutions import Deformable
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler

CONTROLS = [pytest.param(config.parse(f"controls.{name}()"), id=name) for name in CATALOGUE["controls"]]
LABEL = {"label": {"classes": 3}}
X, H = (Rng(0).fork(name).normal(torch.empty(3, 1, 8, 8)) for name in "xh")
T, L = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 3])
COND = {"label": L, "control": H}


def alive(net, size=0.1):
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn_like(p))
    return net


def base(kind=DiT, **more):
    with Rng(2).ambient():
        net = alive(Network(kind((1, 8, 8), width=16, heads=2, depth=3, conditions=LABEL, **more)))
    return net.requires_grad_(False)  # kernels of attention differ in the last bits where gradients are needed


@pytest.mark.parametrize(("kind", "more"), [(DiT, {}), (UViT, {}), (MMDiT, {"single": 1, "dual": 1}), (PixArt, {})])
@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_starts_at_the_network_which_stays(control, kind, more):
    net = base(kind, **more)
    before, plain = net(X, T, {"label": L}), copy.deepcopy(net.state_dict())
    with Rng(3).ambient():
        made = controlled(net, control)
    assert (made(X, T, COND) - before).abs().max() <= 1e-6, "the start"
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained and all(".control." in name or ".changes.0.numbers." in name for name in trained)
    alive(made, 0.3)
    changed = made(X, T, COND)
    assert (changed - before).abs().max() > 1e-4
    state = made.state_dict()
    assert {k.replace("backbone.field.", "backbone.") for k in state} >= plain.keys()
    assert all(torch.equal(state[k.replace("backbone.", "backbone.field.")], v) for k, v in plain.items())
    assert torch.equal(with_strengths(made, [0.0])(X, T, COND), before), "inactive is identical bit for bit"
    none = made(X, T, {"label": L, "control": H * torch.tensor([0.0, 1, 0])[:, None, None, None]})
    assert (none - before)[::2].abs().max() <= 1e-6 and torch.equal(none[1], changed[1])
    assert torch.equal(made(X, T), net(X, T))
    with Rng(9).ambient():
        again = config.build(config.describe(made))
    again.load_state_dict(state)
    assert torch.equal(again(X, T, COND), changed)
    half = alive(controlled(base(kind, **more).to(torch.bfloat16), control))
    assert half(X, T, COND).isfinite().all()


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.id != "ControlNeXt"])
def test_strengths_add(control):
    one = alive(controlled(base(), control))
    twice = controlled(one, control, name="again")
    twice.backbone.control.load_state_dict(one.backbone.control.state_dict())
    for layer in twice.modules():  # the LoRA of both
        if isinstance(layer, torch.nn.Linear) and "changes" in dict(layer.named_children()):
            layer.changes[1].load_state_dict(layer.changes[0].state_dict())
    both = {"label": L, "control": {"hint": H, "again": H}}
    for a, b in ((0.5, 0.5), (0.25, 0.75), (1.5, -0.5)):
        assert (with_strengths(twice, [a, b])(X, T, both) - one(X, T, COND)).abs().max() <= 1e-5
    only = {"label": L, "control": {"hint": H}}
    inside = Network(twice.backbone.field)(X, T, COND)
    assert torch.equal(twice(X, T, only), inside), "a control whose hint is left out is off"
    assert torch.equal(with_strengths(twice, {"again": 0})(X, T, both), inside)


@pytest.mark.parametrize("kind", [DiT, MMDiT])
def test_several_kinds_act_together_in_any_order(kind):
    kinds = {"a": T2IAdapter(8), "b": EasyControl(2), "c": ControlBranch(1)}
    hints = {name: Rng(4).fork(name).normal(torch.empty(3, 1, 8, 8)) for name in kinds}
    made, net = [], base(kind)
    for order in ("abc", "cba"):
        several = net
        for name in order:
            several = controlled(several, kinds[name], name=name)
        own = {f"{n}.{k}": p for n in kinds for k, p in controls_of(several)[n].control.named_parameters()}
        lora = {k.rpartition("field.")[2]: p for k, p in several.named_parameters() if ".changes." in k}
        for key, p in (own | lora).items():
            p.data.copy_(0.2 * Rng(5).fork(key).normal(torch.empty(p.shape)))
        made.append(several(X, T, {"label": L, "control": hints}))
    assert (made[0] - made[1]).abs().max() <= 1e-5
    assert (made[0] - net(X, T, {"label": L})).abs().max() > 1e-3


def test_windows_switch_rows_and_the_rest_is_the_network():
    net = base()
    made = alive(controlled(net, ControlBranch(), strength=Window(0.0, 0.6)))
    always, before = with_strengths(made, [1.0])(X, T, COND), net(X, T, {"label": L})
    out = made(X, T, COND)
    assert torch.equal(out[2], before[2]) and (out[:2] - always[:2]).abs().max() <= 1e-6
    assert torch.equal(made(X, torch.full((3,), 0.7), COND), net(X, torch.full((3,), 0.7), {"label": L}))


@pytest.mark.parametrize("control", [T2IAdapter(8), EasyControl(2), ControlNeXt(8)])
def test_a_hint_is_read_once_for_all_steps_and_again_after_a_change(control, monkeypatch):
    made = alive(controlled(base(), control))
    module, seen = made.backbone.control, []
    read = type(module).read
    monkeypatch.setattr(type(module), "read", lambda self, *args: seen.append(1) or read(self, *args))
    flow = Flow(made, null={"label": 3})
    kept = Sampler(4)(flow, X, COND)
    assert len(seen) == 1
    slow = made.backbone
    monkeypatch.setattr(type(slow.memory), "get", lambda self, key, module, make: make())
    assert (Sampler(4)(flow, X, COND) - kept).abs().max() <= 1e-6 and len(seen) > 4
    monkeypatch.undo()
    monkeypatch.setattr(type(module), "read", lambda self, *args: seen.append(1) or read(self, *args))
    with torch.no_grad():
        seen.clear()
        Sampler(4, guidance=CFG(2.0))(flow, X, COND)
        assert len(seen) <= 1 + module.of_condition, "one for every condition"
        hint = H.clone()
        first = made(X, T, {"label": L, "control": hint})
        hint.mul_(-1)
        assert not torch.equal(made(X, T, {"label": L, "control": hint}), first), "changed in place"
        hint.mul_(-1)
        next(module.parameters()).mul_(2)
        before = len(seen)
        made(X, T, {"label": L, "control": hint})
        assert len(seen) == before + 1


def test_tokens_of_a_hint_are_attended_to_and_see_themselves_alone():
    """With gates of 1 it is one attention in which rows of the hint may not see those of the datum."""
    net = base()
    made = controlled(net, EasyControl(2))
    backbone, inner = made.backbone, net.backbone
    with torch.no_grad():
        backbone.control.gate.fill_(1 / SPEED)
    e = torch.nn.functional.silu(inner.embed.total(T, {"label": L}))
    clean = torch.nn.functional.silu(inner.embed.total(torch.ones(3), {"label": L}))
    h, grid, turn = inner.tokens(X)
    h = torch.cat([h, backbone.control.inp(to_patches(H, 2)) + inner.tokens(0 * X)[0]], 1)
    n = h.shape[1] // 2
    mask = torch.ones(2 * n, 2 * n, dtype=torch.bool)
    mask[n:, :n] = False
    for block in inner.block:
        told = torch.cat([block.tell(v)[:, None].expand(-1, n, -1) for v in (e, clean)], 1).chunk(6, -1)
        q, k, v = block.mix.divided(modulated(h, told[0], told[1]))
        mixed = block.mix.joined(torch.nn.functional.scaled_dot_product_attention(q, k, v, mask))
        h = torch.addcmul(h, told[2], mixed)
        h = torch.addcmul(h, told[5], block.mlp(modulated(h, told[3], told[4]), None)[0])
    begun = inner.begun(X, T, {"label": L}, None, asked())
    wanted = begun.out(h[:, :n], *begun.told[-1])
    assert (made(X, T, COND) - wanted).abs().max() <= 1e-5


def test_shuffles_are_undone_and_cross_normalisation_has_the_moments():
    mixer = ShuffleMixer(8, 2, seed=5)
    u = torch.randn(2, 12, 8)
    groups = mixer.shuffled(u)
    assert groups.shape == (2, 2, 2, 6, 4) and torch.equal(mixer.restored(groups, u.shape), u)
    assert not torch.equal(groups.flatten(1), u.flatten(1))
    c, h = torch.randn(3, 5, 4), 2 + 3 * torch.randn(3, 5, 4)
    made = cross_normalized(c, h)
    for moment in (torch.mean, torch.std):
        assert (moment(made, (1, 2)) - moment(h, (1, 2))).abs().max() <= 1e-5
    assert cross_normalized(torch.ones(1, 5, 4), h[:1]).isfinite().all()


@pytest.mark.parametrize("control", [ControlBranch(3), T2IAdapter(8, taps=3), RelaCtrl(places=(0, 1, 2))])
def test_relevance_finds_the_visit_that_adds_nothing(control):
    net = base()
    made = alive(controlled(net, control, name="edges"), 0.3)
    with torch.no_grad():
        for p in made.backbone.control.out[1].parameters():
            p.zero_()
    target = made(X, T, COND).detach()
    found = relevance(made, lambda field: float((field(X, T, COND) - target).detach().square().mean()), "edges")
    assert found[1] == 0 < min(found[0], found[2]) and most_relevant(found, 2) == (0, 2)
    assert torch.equal(made(X, T, COND), target), "the field stays"
    with pytest.raises(BeelineError, match="no control 'hint'.*edges"):
        relevance(made, lambda field: 0.0)
    with pytest.raises(BeelineError, match="of a ControlBranch"):
        relevance(controlled(net, ControlNeXt()), lambda field: 0.0)
    with pytest.raises(BeelineError, match="4 visits .* of 3"):
        most_relevant(found, 4)


def test_hints_of_known_pictures():
    step = torch.where(torch.arange(6) < 3, -1.0, 1.0).expand(1, 3, 6, 6)
    edges = Edges()(step)
    assert edges.shape == (1, 1, 6, 6) and torch.equal(edges[0, 0, 0], torch.tensor([-1.0, -1, 1, 1, -1, -1]))
    assert torch.equal(Silhouette()(step)[0, 0, 0], step[0, 0, 0])
    assert torch.allclose(LowResolution(4)(step)[0, 0, 0], torch.tensor([-0.5, -0.5, -0.5, -0.5, 1.0, 1.0]))
    blurred = Blur(1.0)(step)
    assert torch.allclose(blurred, -blurred.flip(-1), atol=1e-6) and torch.allclose(
        blurred[..., 0, :], blurred[..., 5, :]
    )
    for hint in (Edges(), Blur(), Silhouette(), LowResolution()):
        made = hint(X.clamp(-1, 1))
        assert made.shape == X.shape and made.abs().max() <= 1 and torch.equal(hint(X.clamp(-1, 1)[1:]), made[1:])


def test_adapters_lie_beside_controls_and_are_not_merged_into_their_layers():
    made = alive(controlled(base(), EasyControl(2)))
    before = made(X, T, COND)
    both = adapted(made, LoRA(2), ["mlp.0"])
    assert torch.equal(both(X, T, COND), before)
    alive(both.backbone.field.requires_grad_(False))
    changed = adapted(made, LoRA(2))
    for name, p in changed.named_parameters():
        if ".changes.1." in name:
            p.data.add_(0.1)
    assert not torch.equal(changed(X, T, COND), before)
    changed.backbone = changed.backbone.at(0.0)
    assert torch.equal(changed(X, T, COND), before)
    with pytest.raises(BeelineError, match="which a control changes"):
        merged(changed)


def test_one_training_step_changes_the_control_alone():
    flow = Flow(base(), null=3)
    method = ControlTraining(RelaCtrl(places=(1,)), Silhouette())
    batch = method.data(flow, Batch(X, cond={"label": L}), Rng(0))
    assert torch.equal(batch.cond["control"], Silhouette()(X))
    net = method.networks(flow)["student"]
    objective = method.objective(flow)
    loss = objective(net, batch, Rng(1)) if callable(objective) else objective.loss(net, batch, Rng(1))
    loss.value.backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(".control.out." in name for name in moved), (
        "of projections that are zero the last learns first"
    )
    student = method.student(flow, {"student": net})[0]
    assert student.null == {"label": 3} and set(controls_of(student.field)) == {"silhouette"}
    more = method.data(student, batch, Rng(0)).cond["control"]
    assert set(more) == {"silhouette"}


def test_mistakes_say_what_fits():
    net = base()
    made = controlled(net, T2IAdapter(8), name="edges")
    two = controlled(made, T2IAdapter(8), 3, name="low")
    wrong = [
        (lambda: made(X, T, {"label": L}), "no hint, only .*'label'.* controls edges; give"),
        (lambda: made(X, T, {"label": L, "control": H[:, :, :4]}), r"shape \(3, 1, 4, 8\).*\(3, 1, 8, 8\).*resize"),
        (lambda: made(X, T, {"label": L, "control": {"edge": H}}), "no control 'edge'.*edges"),
        (lambda: two(X, T, {"label": L, "control": H}), "one picture for the controls edges, low; give several"),
        (lambda: two(X, T, {"label": L, "control": {"low": H}}), r"\(3, 3, 8, 8\)"),
        (lambda: made(X, T, L), "a Tensor for a network with the controls"),
        (lambda: with_strengths(two, [1.0]), "1 strengths .* edges, low; give one for each"),
        (lambda: with_strengths(two, {"lo": 1.0}), "no control 'lo'.*low"),
        (lambda: controlled(made, T2IAdapter(8), name="edges"), "named 'edges' beside .*another"),
        (lambda: controlled(net, T2IAdapter(8), 0), "channels=0"),
        (lambda: controlled(Network(MLP(2)), T2IAdapter()), "given to a MLP.*DiT"),
        (lambda: controlled(net, ControlBranch(4)), "blocks=4 .* with 3.*at most 3"),
        (lambda: controlled(net, RelaCtrl(places=(1, 3))), r"places=\[1, 3\].*0 to 2"),
        (lambda: controlled(net, RelaCtrl(groups=3)), "groups=3.*divisor of 16"),
        (lambda: controlled(base(mixer=Deformable()), EasyControl()), "mixer=Deformable.*T2IAdapter"),
        (lambda: controlled(Adapted(net.backbone, LoRA(), amount=Window()), T2IAdapter()), "depends on the time"),
        (lambda: Edges()(torch.zeros(2, 3)), r"shape \(2, 3\).*pictures"),
    ]
    for call, message in wrong:
        with pytest.raises(BeelineError, match=message):
            call()
    assert isinstance(controls_of(two)["low"], WithControl)
    assert bind(two, {"label": L, "control": {}})(X, T).shape == X.shape
