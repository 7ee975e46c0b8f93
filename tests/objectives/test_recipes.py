"""Every recipe of a training choice trains, and the choices can be set by name."""

import dataclasses

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE, member
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.point_files import DistributionData
from beeline.objectives.matching import FlowMatching
from beeline.recipes import learning
from beeline.runs.run import prepare
from beeline.sampling.guidance.temperature import Temperature
from beeline.training.fit import fit

RECIPES = [name for name, place in CATALOGUE["recipes"].items() if place.startswith("beeline.recipes.learning:")]


def small(run):
    data = dataclasses.replace(run.data, n=400) if isinstance(run.data, DistributionData) else run.data
    return config.change(dataclasses.replace(run, data=data), {"training.steps": 2, "training.batch_size": 16})


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_samples(name):
    run = small(getattr(learning, name)())
    assert config.build(config.describe(run)) == run
    work = prepare(run)
    net = fit(work.networks, work.objective, work.data, run.training, rng=Rng(0), log=lambda entry: None)
    bundle = work.finish(net)
    cond = {"label": "3"} if bundle.modality.conditions else None
    assert len(bundle.sample(2, cond=cond, seed=0)) == 2


@pytest.mark.parametrize(
    "setting, value",
    [
        ("objective.times", f"times.{n}")
        for n in ("Mode", "CosMap", "UShaped", "Bifocal", "Beta", "Stratified", "Binned")
    ]
    + [("objective.coupling", f"couplings.{n}") for n in ("MinibatchOT", "Sinkhorn", "Unbalanced", "StableMatching")]
    + [("objective.coupling", "couplings.Immiscible"), ("objective.path", "paths.VarianceExploding")]
    + [("objective.path", "paths.ConstantAcceleration"), ("objective.prediction", "predictions.Boundary")]
    + [("objective.distance", f"distances.{n}") for n in ("Huber", "Direction", "Bregman")]
    + [("objective.weight", f"weights.{n}") for n in ("MinSNR", "SigmoidSNR", "PowerWeight")]
    + [("objective", f"objectives.{n}") for n in ("SmoothSteps", "SelfRectified", "DeepSupervision")],
)
def test_a_choice_by_name_alone(setting, value):
    run = config.change(small(learning.ring()), {setting: value})
    work = prepare(run)
    name = value.partition(".")[2]
    if name == "DeepSupervision":  # a network without heads is refused
        with pytest.raises(BeelineError, match="wrap the network in Deep"):
            work.objective(work.networks.network, work.data, Rng(0))
    fit(work.networks, work.objective, work.data, run.training, rng=Rng(0), log=lambda entry: None)
    assert isinstance(run.objective, FlowMatching | member(f"objectives.{name}")) if setting == "objective" else True


def test_temperature_is_checked():
    with pytest.raises(BeelineError, match="scales from 1"):
        Temperature(0.5)
    with pytest.raises(BeelineError, match="named conditions"):
        Temperature(2.0)(lambda x, t, cond: x, torch.zeros(2))
    assert Temperature(2.0).calls(0.5) == 1
