"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from typing import TYPE_CHECKING

from beeline.core.namespaces import Namespace, lazy

if TYPE_CHECKING:  # what the package offers; ``lazy`` imports each name when it is used
    from beeline.config.registry import register as register
    from beeline.core.errors import BeelineError as BeelineError
    from beeline.core.errors import IntegrationError as IntegrationError
    from beeline.core.protocols.flows import FlowMap as FlowMap
    from beeline.core.protocols.flows import VelocityField as VelocityField
    from beeline.core.rng import Rng as Rng
    from beeline.core.types import Batch as Batch
    from beeline.core.types import Cond as Cond
    from beeline.core.types import Dynamics as Dynamics
    from beeline.core.types import Loss as Loss
    from beeline.core.types import Point as Point
    from beeline.density.likelihood import Exact as Exact
    from beeline.density.likelihood import Hutchinson as Hutchinson
    from beeline.density.likelihood import HutchPlusPlus as HutchPlusPlus
    from beeline.density.likelihood import bits as bits
    from beeline.density.likelihood import bits_per_dimension as bits_per_dimension
    from beeline.density.likelihood import log_prob as log_prob
    from beeline.distillation.fit_solver import fit_solver as fit_solver
    from beeline.distillation.pairs import reflow_pairs as reflow_pairs
    from beeline.distillation.students import OneStep as OneStep
    from beeline.distillation.students import Reflow as Reflow
    from beeline.estimators.tabular import TabularFlow as TabularFlow
    from beeline.evaluation.evaluate import evaluate as evaluate
    from beeline.evaluation.scores import Report as Report
    from beeline.evaluation.scores import Score as Score
    from beeline.fields.flow import Flow as Flow
    from beeline.fields.flow import MapNetwork as MapNetwork
    from beeline.fields.flow import Network as Network
    from beeline.fields.flow import Velocity as Velocity
    from beeline.hub.loading import load as load
    from beeline.objectives.matching import Drop as Drop
    from beeline.recipes.distilling import distill as distill
    from beeline.recipes.training import train as train
    from beeline.runs.bundle import Bundle as Bundle
    from beeline.runs.features.names import features_named as features_named
    from beeline.runs.pairs.job import pairs as pairs
    from beeline.runs.pairs.opening import open_pairs as open_pairs
    from beeline.runs.run import Run as Run
    from beeline.sampling.auto import auto_sampler as auto_sampler
    from beeline.sampling.guidance.guide import CFG as CFG
    from beeline.sampling.guidance.guide import Guide as Guide
    from beeline.sampling.sampler import Sampler as Sampler
    from beeline.solvers.integrate import integrate as integrate
    from beeline.training.compute import Compute as Compute
    from beeline.training.config import Training as Training
    from beeline.training.fit import fit as fit

__version__ = "0.2.0"

schedules = Namespace("beeline.schedules", "schedules")
sources = Namespace("beeline.sources", "sources")
predictions = Namespace("beeline.predictions", "predictions")
guidance = Namespace("beeline.guidance", "references", "rules", "guidance")
steering = Namespace("beeline.steering", "controllers", "energies", "operators", "estimates", "placements")
editing = Namespace(
    "beeline.editing", "edits", "inversions", "edit_regions", "thresholds", "layer_operations", "pair_operations"
)
samplers = Namespace("beeline.samplers", "samplers")
optimizers = Namespace("beeline.optimizers", "optimizers")
lr_schedules = Namespace("beeline.lr_schedules", "lr_schedules")
averages = Namespace("beeline.averages", "averages")
fits = Namespace("beeline.fits", "fits")
gradients = Namespace("beeline.gradients", "gradients")
distillations = Namespace("beeline.distillations", "distillations")
games = Namespace(
    "beeline.games",
    "generations",
    "noisings",
    "student_terms",
    "f_divergences",
    "score_weights",
    "adversarial",
    "adversarial_losses",
    "real_samples",
    "guided_students",
)
pair_filters = Namespace("beeline.pair_filters", "pair_filters")
distributions = Namespace("beeline.distributions", "distributions")
metrics = Namespace("beeline.metrics", "features", "metrics")

__getattr__, __dir__ = lazy(__name__)
