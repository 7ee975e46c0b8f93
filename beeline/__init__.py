"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from typing import TYPE_CHECKING

from beeline.core.namespaces import Namespace, lazy

if TYPE_CHECKING:  # what the package offers; ``lazy`` imports each name when it is used
    from beeline.config.registry import register
    from beeline.core.errors import BeelineError, IntegrationError
    from beeline.core.protocols.flows import FlowMap, VelocityField
    from beeline.core.rng import Rng
    from beeline.core.types import Batch, Cond, Dynamics, Loss, Point
    from beeline.density.likelihood import Exact, Hutchinson, HutchPlusPlus, bits, bits_per_dimension, log_prob
    from beeline.distillation.fit_solver import fit_solver
    from beeline.distillation.pairs import reflow_pairs
    from beeline.distillation.students import OneStep, Reflow
    from beeline.estimators.tabular import TabularFlow
    from beeline.evaluation.evaluate import evaluate
    from beeline.evaluation.scores import Report, Score
    from beeline.fields.flow import Flow, MapNetwork, Network, Velocity
    from beeline.objectives.matching import Drop
    from beeline.runs.bundle import Bundle, load
    from beeline.runs.run import Run, train
    from beeline.sampling.auto import auto_sampler
    from beeline.sampling.guidance.guide import CFG, Guide
    from beeline.sampling.sampler import Sampler
    from beeline.solvers.integrate import integrate
    from beeline.training.compute import Compute
    from beeline.training.config import Training
    from beeline.training.fit import fit

__version__ = "0.2.0"

schedules = Namespace("beeline.schedules", "schedules")
sources = Namespace("beeline.sources", "sources")
predictions = Namespace("beeline.predictions", "predictions")
guidance = Namespace("beeline.guidance", "references", "rules", "guidance")
optimizers = Namespace("beeline.optimizers", "optimizers")
lr_schedules = Namespace("beeline.lr_schedules", "lr_schedules")
averages = Namespace("beeline.averages", "averages")
fits = Namespace("beeline.fits", "fits")
gradients = Namespace("beeline.gradients", "gradients")
distillations = Namespace("beeline.distillations", "distillations")
distributions = Namespace("beeline.distributions", "distributions")
metrics = Namespace("beeline.metrics", "features", "metrics")

__getattr__, __dir__ = lazy(__name__)
