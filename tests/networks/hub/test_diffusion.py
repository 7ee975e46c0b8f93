"""Diffusion networks as velocity fields: path, times of the network, and other solvers than that of the checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.fields.conversion import convert_flow
from beeline.fields.flow import bind
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.diffusion import Diffused, DiffusionSchedule, Rotation
from tests.networks.hub import tiny_diffusions
from tests.networks.hub.tiny import df


@pytest.fixture(scope="module")
def case():
    df.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    made = tiny_diffusions.stable_diffusion()
    made.pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def bundle(case):
    made = from_pipeline(case.pipe, **case.size)
    return replace(made, sampler=replace(made.sampler, guidance=bl.guidance.Plain()))


def test_the_path_has_the_noise_levels_of_the_scheduler(case, bundle):
    kept = case.pipe.scheduler.alphas_cumprod.double()
    path = bundle.flow.path
    t = 1 - torch.atan2((1 - kept).sqrt(), kept.sqrt()) / path.start
    assert torch.allclose(path.a(t), kept.sqrt(), atol=1e-7)
    assert torch.allclose(path.b(t), (1 - kept).sqrt(), atol=1e-7)
    assert torch.allclose(path.time_of_ratio(path.a(t), path.b(t)), t)


def test_the_rotation_by_a_right_angle_is_the_cosine_path():
    t = torch.linspace(0, 1, 9)
    for found, wanted in zip(Rotation(math.pi / 2).coefficients(t), bl.paths.Cosine().coefficients(t), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_whole_times_are_met_and_others_are_between_them(bundle):
    field = bundle.flow.field
    x = torch.zeros(1000, 1, 1, 1)
    whole = field._tau((1 - field.angles / field.path.start).float(), x)
    assert torch.equal(whole, torch.arange(1000.0))
    middle = field._tau((1 - (field.angles[1:] + field.angles[:-1]) / 2 / field.path.start).float(), x[1:])
    assert (middle - torch.arange(999.0) - 0.5).abs().max() < 0.05


def exact(prediction):
    """The output of a network for data of one point: x0 = (x - a m) / b, x1 = m."""

    def call(net, x, tau, c, settings):
        kept = c["kept"][tau.long()].sqrt().view(-1, 1, 1, 1)
        noise = (x - kept * c["m"]) / (1 - kept**2).sqrt()
        return {
            "epsilon": noise,
            "sample": c["m"].expand_as(x),
            "v_prediction": kept * noise - (1 - kept**2).sqrt() * c["m"],
        }[prediction]

    return call


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_gives_the_velocity_of_the_path(case, prediction):
    scheduler = tiny_diffusions.ddim(prediction_type=prediction)
    family = replace(from_pipeline(case.pipe, **case.size).modality.family, call=exact(prediction))
    field = Diffused(torch.nn.Identity(), family, {}, scheduler)
    m, x0 = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unsqueeze(1)
    t = (1 - field.angles[[700]] / field.path.start).float()
    point = field.path.point(x0, m, t)
    v = field(point.x, t, {"kept": scheduler.alphas_cumprod, "m": m})
    assert torch.allclose(v, point.v, atol=2e-4)


def test_the_step_of_ddim_is_that_of_euler_on_the_straight_path(case, bundle):
    """Of the same states: the straight one is the rotated one divided by the sum of its coefficients."""
    straight = convert_flow(bundle.flow, bl.paths.Linear())
    path, times = bundle.flow.path, bundle.sampler.schedule(6)
    with torch.no_grad():
        wanted = case.theirs(6, False)
    total = path.a(times) + path.b(times)
    levels = (path.a(times) / total).double()
    found = bl.integrate(bind(straight.field, case.cond), case.x0 / total[0], levels.float(), bl.solvers.EULER)
    assert (found * total[-1] - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_grid_that_ends_without_noise_ends_at_one():
    more = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    case = tiny_diffusions.stable_diffusion(tiny_diffusions.ddim(set_alpha_to_one=True, **more))
    case.pipe.set_progress_bar_config(disable=True)
    made = from_pipeline(case.pipe, **case.size)
    sampler = replace(made.sampler, steps=5, guidance=bl.guidance.Plain())
    assert sampler.times()[[0, -1]].tolist() == [0.0, 1.0]
    with torch.no_grad():
        wanted = case.theirs(5, False)
    assert (sampler(made.flow, case.x0, case.cond) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_inversion_and_second_order_meet_the_same_flow(case, bundle):
    ddim = replace(bundle.sampler, steps=16, schedule=bl.schedules.Uniform())
    fine = replace(ddim, steps=64, solver=bl.solvers.RK4)
    inside = dict(start=0.1, end=0.9)
    wanted, first, second = (
        sampler(bundle.flow, case.x0, case.cond, **inside)
        for sampler in (fine, ddim, replace(ddim, solver=bl.solvers.DPMSolver(2, bundle.flow.path)))
    )
    assert (second - wanted).norm() < 0.75 * (first - wanted).norm() < 0.05 * wanted.norm()
    back = fine.invert(bundle.flow, wanted, case.cond, start=0.9, end=0.1)
    assert (back - case.x0).norm() < 1e-4 * case.x0.norm()


def test_a_class_is_a_number_or_a_name_and_none_is_the_null():
    modality = from_pipeline(tiny_diffusions.dit().pipe, height=64, width=64).modality
    made = modality.condition({"prompt": ["99", "gold fish"], "negative_prompt": ""}, 2)
    assert made["label"].tolist() == [99, 7] and made["negative"]["label"].tolist() == [1000, 1000]
    with pytest.raises(BeelineError, match="'goldfish' is no class of the model; did you mean 'gold fish'"):
        modality.condition("goldfish", 1)


def test_a_scheduler_of_another_kind_is_refused():
    with pytest.raises(BeelineError, match="EDMEulerScheduler, whose configuration has no beta_schedule"):
        DiffusionSchedule("EDMEulerScheduler", {})
