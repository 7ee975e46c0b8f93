"""Distillation of guidance: students of all kinds come near to the guided teacher, alone or merged."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.guided.distilled import GuidanceDistillation
from beeline.distillation.guided.students import IntoAdapters, IntoLoRA, IntoNetwork, IntoSide
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.guided import GuidanceDistilled
from beeline.objectives.matching import FlowMatching
from beeline.runs.bundle import Bundle, load
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant


@pytest.fixture(scope="module")
def teacher():
    with Rng(0).ambient():
        net = Network(MLP(2, width=16, depth=2, conditions={"label": {"classes": 2}}))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.15 * Rng(0).fork(i).normal(p)
    return Flow(net, null={"label": 2})


DATA = Batch(Rng(1).normal(torch.empty(512, 2)), cond={"label": torch.arange(512) % 2})


def velocity_error(teacher, field, scale):
    x, t = DATA.x1, Rng(3).uniform(512, DATA.x1)
    strong, weak = teacher.field(x, t, DATA.cond), teacher.field(x, t, {"label": torch.full((512,), 2)})
    wanted = weak + scale * (strong - weak)
    cond = DATA.cond | {"beta": torch.full((512, 1), 1 / scale)}
    with torch.no_grad():
        found = field(x, t, cond)
    return float((found - wanted.detach()).square().mean().sqrt())


@pytest.mark.parametrize("into", [IntoNetwork(), IntoAdapters(8), IntoSide(16)])
def test_students_of_a_range_of_scales(into, teacher, tmp_path):
    how = GuidanceDistillation(into, (1.0, 3.0))
    nets = how.networks(teacher)
    before = {k: v.clone() for k, v in teacher.field.state_dict().items()}
    plain = velocity_error(teacher, lambda x, t, c: teacher.field(x, t, {"label": c["label"]}), 2.5)
    training = Training(steps=150, batch_size=64, lr=Constant(5e-3), ema=None)
    made = fit(nets, how.objective(teacher), DATA, training, rng=Rng(4), log=lambda entry: None)
    flow, sampler = how.student(teacher, made)
    assert velocity_error(teacher, flow.field, 2.5) < 0.5 * plain
    assert all(torch.equal(v, before[k]) for k, v in teacher.field.state_dict().items())
    assert sampler.guidance.scale == 1.5 and sampler.evaluations == Sampler(20).evaluations
    Bundle(flow, sampler).save(tmp_path / "bundle")
    again = load(tmp_path / "bundle")
    x0 = DATA.x1[:8]
    cond = {"label": torch.arange(8) % 2}
    assert torch.equal(again.sampler(again.flow, x0, cond), sampler(flow, x0, cond))


def test_a_low_rank_change_is_merged(teacher, tmp_path):
    pytest.importorskip("peft")
    how = GuidanceDistillation(IntoLoRA(4), (2.5, 2.5))
    nets = how.networks(teacher)
    trained = sum(p.numel() for p in nets["student"].parameters() if p.requires_grad)
    assert 0 < trained < sum(p.numel() for p in teacher.field.parameters())
    training = Training(steps=150, batch_size=64, lr=Constant(5e-3), ema=None)
    made = fit(nets, how.objective(teacher), DATA, training, rng=Rng(4), log=lambda entry: None)
    x, t = DATA.x1, Rng(3).uniform(512, DATA.x1)
    with torch.no_grad():
        live = made["student"](x, t, DATA.cond)
    flow, _ = how.student(teacher, made)
    assert set(flow.field.state_dict()) == set(teacher.field.state_dict())
    with torch.no_grad():
        assert torch.allclose(flow.field(x, t, DATA.cond), live, atol=1e-5)
        assert torch.allclose(made["student"](x, t, DATA.cond), live)  # the trained one is left as it is
    plain = velocity_error(teacher, lambda x, t, c: teacher.field(x, t, {"label": c["label"]}), 2.5)
    assert velocity_error(teacher, lambda x, t, c: flow.field(x, t, {"label": c["label"]}), 2.5) < 0.5 * plain
    with pytest.raises(BeelineError, match="learns one scale"):
        GuidanceDistillation(IntoLoRA(), (1.0, 2.0))
    with pytest.raises(BeelineError, match="does not take the scale"):
        GuidanceDistilled(teacher, scales=(1.0, 2.0), given=False)


def test_states_of_guided_sampling_are_those_of_the_sampler(teacher):
    """With scale two for all, the states are those of Euler steps with guidance."""
    objective = GuidanceDistilled(teacher, FlowMatching(), scales=(2.0, 2.0), rollout=4)
    seen = []

    def student(x, t, cond):
        seen.append((x, t))
        return x

    times = set()
    for key in range(8):
        objective(student, DATA, Rng(key))
        (x, t), x0 = seen[-1], FlowMatching().examples(DATA, Rng(key)).batch.x0
        known = []
        Sampler(4, solver=EULER, guidance=CFG(2.0))(teacher, x0, DATA.cond, watch=lambda x, t, k=known: k.append(x))
        assert torch.allclose(x, known[round(float(t[0]) * 4)], atol=1e-5)
        times.add(float(t[0]))
    assert len(times) > 1 and max(times) < 1
