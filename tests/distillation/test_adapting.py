"""Adaptation with samples and answers of the base, and unlearning, against exact losses and mixtures."""

from dataclasses import replace

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.adapting import Adaptation, Continued, Unlearning
from beeline.distillation.personal.responses import Kept, Responses, Taught
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.delta import LoRA
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine

RING = GaussianMixture.ring(4, radius=3.0, std=0.3, labelled=True)
DATA = RING.batch(400, Rng(5), dtype=torch.float32)
FIVE = Batch(torch.tensor([[3.0, 3.0]]) + 0.1 * Rng(6).normal(torch.empty(5, 2)))


def network(depth=1, width=16):
    with Rng(0).ambient():
        net = Network(MLP(2, width=width, depth=depth, conditions={"label": {"classes": 4}}))
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return Flow(net, null={"label": 4})


def trained(method, flow, data, steps, **more):
    net = method.networks(flow)["student"]
    how = Training(steps=steps, batch_size=128, ema=None, **more)
    feed = method.supply(flow, data, data, Rng(3))
    return fit(net, method.objective(flow), feed, how, rng=Rng(4), log=lambda entry: None).eval()


def test_without_a_prior_it_is_plain_training_bit_for_bit():
    flow = network()
    with Rng(1).ambient():
        first = trained(Adaptation(LoRA(2)), flow, DATA, 3)
    with Rng(1).ambient():
        net = Adaptation(LoRA(2)).networks(flow)["student"]
    plain = Adaptation(LoRA(2)).matching(flow)
    second = fit(net, plain, DATA, Training(steps=3, batch_size=128, ema=None), rng=Rng(4), log=lambda entry: None)
    assert Adaptation().objective(flow) == plain
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_velocities_of_the_teacher_are_half_of_the_wanted_ones():
    """E |v - a|^2 + E |v - b|^2 = 2 E |v - (a + b) / 2|^2 + E |a - b|^2 / 2, with equal gradients."""
    flow, other = network(), network(width=16)
    with Rng(4).ambient():
        for p in other.field.parameters():
            torch.nn.init.normal_(p, std=0.2)
    assert Continued().objective(flow) == Adaptation().matching(flow)
    both = replace(Continued(teach=1.0).objective(flow), objective=FlowMatching())
    assert isinstance(both, Taught) and not any(p.requires_grad for p in both.base.parameters())
    example = FlowMatching().examples(DATA, Rng(2), other.field)
    with torch.no_grad():
        middle = (example.v + flow.field(example.x, example.t, DATA.cond)) / 2
    halves = 2 * (other.field(example.x, example.t, DATA.cond) - middle).square().mean()
    loss = both(other.field, DATA, Rng(2)).value
    parameters = list(other.field.parameters())
    found, wanted = (torch.autograd.grad(value, parameters) for value in (loss, halves))
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < 1e-5
    small = Continued().networks(flow)["student"]
    assert small is not flow.field and all(p.requires_grad for p in small.parameters())


@pytest.mark.parametrize("data", [FIVE, replace(FIVE, cond={"label": torch.full((5,), 2)})], ids=["plain", "labelled"])
def test_half_of_a_batch_are_samples_of_the_base_of_all_classes(data):
    flow, method = network(), Adaptation(prior=0.5, drawn=60, sampler=Sampler(3))
    feed = method.supply(flow, data, data, Rng(3))
    batch = feed.microbatch(7, 120)
    own = (batch.x1[:, None] == data.x1[None]).all(2).any(1)
    assert (
        int(own.sum()) == 60 and set(batch.weight[own].tolist()) == {2.0} and set(batch.weight[~own].tolist()) == {1.0}
    )
    assert set(batch.cond["label"][own].tolist()) == {4 if data.cond is None else 2}
    assert set(batch.cond["label"][~own].tolist()) == {0, 1, 2, 3}
    plain, x0 = FlowMatching(), Rng(9).normal(batch.x1)
    loss = plain(flow.field, replace(batch, x0=x0), Rng(8)).value
    apart = plain(flow.field, replace(batch, x0=x0, weight=None), Rng(8)).per_sample
    assert loss.item() == pytest.approx((apart[own].mean() + 0.5 * apart[~own].mean()).item(), rel=1e-5)


def test_answers_are_kept_on_noisy_data_under_all_classes_and_the_null():
    flow = network()
    other = network().field.requires_grad_(True)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    plain = Adaptation().matching(flow)
    kept = Adaptation(keep=2.0).objective(flow)
    assert isinstance(kept, Kept)
    alone, both = plain(other, DATA, Rng(2)), kept(other, DATA, Rng(2))
    assert (both.value - alone.value).item() == pytest.approx(2 * both.terms["kept"].item(), rel=1e-5)
    assert kept(flow.field, DATA, Rng(2)).terms["kept"] == 0, "the base keeps its own answers"
    assert torch.equal(replace(kept, strength=0.0)(other, DATA, Rng(2)).value, alone.value)


def test_the_minimum_of_responses_is_the_base_under_other_conditions():
    exact = RING.field()
    swapped = Responses(exact, become={0: 1})

    def renamed(x, t, cond=None):
        return exact(x, t, {"label": torch.where(cond["label"] == 0, 1, cond["label"])})

    assert swapped(renamed, DATA, Rng(0)).value == 0 and Responses(exact)(exact, DATA, Rng(0)).value == 0
    per_sample = swapped(exact, DATA, Rng(0)).per_sample
    assert (per_sample[DATA.cond["label"] != 0] == 0).all() and per_sample[DATA.cond["label"] == 0].mean() > 0.5
    own = exact(DATA.x1, torch.full((400,), 0.5), DATA.cond)
    beyond = Responses(lambda x, t, cond: cond["label"][:, None] + 0 * x, become={0: 3}, push=0.5)
    target = lambda x, t, cond: torch.where(cond["label"] == 0, 4.5, cond["label"].float())[:, None] + 0 * x  # noqa: E731
    assert beyond(target, DATA, Rng(0)).value == 0 and own.shape == (400, 2)


@pytest.mark.parametrize("settings, said", [({}, "classes="), ({"classes": (4,)}, "from 0 to 3"),
                                            ({"classes": (1,), "towards": 1}, "another one")])  # fmt: skip
def test_classes_that_cannot_be_taken_away_are_refused(settings, said):
    with pytest.raises(BeelineError, match=said):
        Unlearning(**settings).objective(network())
    with pytest.raises(BeelineError, match="towards="):
        Unlearning(classes=(1,)).objective(replace(network(), null=None))


def test_an_unlearned_class_is_not_drawn_and_the_others_are():
    flow = network(depth=2, width=32)
    rate = {"lr": WarmupCosine(3e-3, 30)}
    data = RING.batch(4000, Rng(7), dtype=torch.float32)
    how = Training(steps=250, batch_size=128, ema=None, **rate)
    learned = fit(flow.field, Adaptation().matching(flow), data, how, rng=Rng(0), log=lambda entry: None)
    flow = replace(flow, field=learned.eval())
    made = trained(Unlearning(LoRA(8), classes=(2,), towards=0), flow, data, 120, **rate)
    means = RING.parts().means.float()
    x0, labels = Rng(9).normal(torch.empty(400, 2)), torch.arange(400) % 4
    drawn = {}
    for name, field in (("before", flow.field), ("after", made)):
        with torch.no_grad():
            x = Sampler(10)(replace(flow, field=field), x0, {"label": labels})
        drawn[name] = torch.cdist(x, means).argmin(1)
    assert (drawn["before"] == labels).float().mean() > 0.95, "the base draws its classes"
    assert (drawn["after"][labels == 2] == 2).float().mean() < 0.05
    assert (drawn["after"][labels != 2] == labels[labels != 2]).float().mean() > 0.95
