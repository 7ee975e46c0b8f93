"""Recipes for training methods: small runs that differ from a plain one in one slot."""

from __future__ import annotations

from dataclasses import replace

from beeline.couplings.basic import Independent, MinibatchOT
from beeline.couplings.heavy_tailed import StudentT
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.point_files import DistributionData
from beeline.fields.prediction import Boundary
from beeline.objectives.alignment import Dispersed, SelfRectified, SmoothSteps
from beeline.objectives.guided import Anticipating, GuidanceFree, ModelGuidance
from beeline.objectives.matching import Drop, FlowMatching
from beeline.paths.affine import Cosine
from beeline.recipes.images import digits
from beeline.recipes.points import two_moons
from beeline.runs.run import Run
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.guidance.temperature import Temperature
from beeline.sampling.sampler import Sampler
from beeline.times.composed import NormalSNR, Stratified
from beeline.times.samplers import LogitNormal

BASE = FlowMatching(drop=Drop(0.1, null=10))  # the labels of the digits are 0 to 9, and 10 is the null


def ring() -> Run:
    """Eight Gaussians on a circle, without labels: the baseline of the following recipes.

    >>> len(ring().data.distribution.means)
    8
    """
    return replace(two_moons(), data=DistributionData(GaussianMixture.ring()))


def transport() -> Run:
    """The ring with minibatch optimal transport, for few steps.

    >>> transport().objective.coupling.independent
    False
    """
    return replace(ring(), objective=FlowMatching(coupling=MinibatchOT()), sampler=Sampler(4))


def transport_by_label() -> Run:
    """The digits with optimal transport within each label, which keeps noise and label independent.

    >>> transport_by_label().objective.coupling.by
    'label'
    """
    objective = FlowMatching(coupling=MinibatchOT(by="label"), drop=BASE.drop)
    return replace(digits(), objective=objective, sampler=Sampler(8))


def middle_times() -> Run:
    """The digits with stratified logit-normal training times.

    >>> middle_times().objective.times.each
    LogitNormal(mean=0.0, std=1.0)
    """
    return replace(digits(), objective=replace(BASE, times=Stratified(LogitNormal())))


def cosine() -> Run:
    """The ring on the cosine path, with a normal distribution of the log signal-to-noise ratio.

    >>> cosine().objective.path
    Cosine()
    """
    return replace(ring(), objective=FlowMatching(Cosine(), times=NormalSNR(Cosine(), 0.0, 2.5)))


def boundary() -> Run:
    """The ring with a velocity that is exact at the data end, for stochastic sampling and scores.

    >>> boundary().objective.prediction
    Boundary(source=False, mean=0.0)
    """
    return replace(ring(), objective=FlowMatching(prediction=Boundary()))


def heavy_tails() -> Run:
    """The ring from Student noise with 64 degrees of freedom (PFGM++).

    >>> heavy_tails().objective.coupling.source.degrees
    64.0
    """
    return replace(ring(), objective=FlowMatching(coupling=Independent(StudentT(64.0))))


def guidance_free() -> Run:
    """The digits with guidance-free training, sampled at scale 1.5 with one network pass per evaluation.

    >>> guidance_free().sampler.guidance
    Temperature(scale=1.5)
    """
    return replace(digits(), objective=GuidanceFree(BASE), sampler=Sampler(16, guidance=Temperature(1.5)))


def model_guidance() -> Run:
    """The digits with model guidance of scale 1.5 in the training target.

    >>> model_guidance().objective.scale
    1.5
    """
    return replace(digits(), objective=ModelGuidance(BASE, scale=1.5))


def anticipating() -> Run:
    """The digits trained for sampling with guidance of scale 1.5.

    >>> anticipating().objective.scale
    1.5
    """
    return replace(digits(), objective=Anticipating(BASE, scale=1.5), sampler=Sampler(16, guidance=CFG(1.5, null=10)))


def dispersed() -> Run:
    """The digits with a dispersive loss on the features of a middle block.

    >>> dispersed().objective.block
    'backbone.block.2'
    """
    return replace(digits(), objective=Dispersed(BASE, "backbone.block.2"))


def smooth() -> Run:
    """The ring with the local solver error as a penalty, for adaptive solvers.

    >>> smooth().objective.strength
    0.1
    """
    return replace(ring(), objective=SmoothSteps(FlowMatching()))


def self_rectified() -> Run:
    """The ring trained on states reconstructed from the model's own estimates.

    >>> self_rectified().objective.strength
    1.0
    """
    return replace(ring(), objective=SelfRectified(FlowMatching()))
