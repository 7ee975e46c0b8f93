"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from typing import Any

from beeline.core.protocols.flows import FlowMap, VelocityField
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, Cond, Dynamics, Loss, Point
from beeline.density.likelihood import Exact, Hutchinson, HutchPlusPlus, bits, bits_per_dimension, log_prob
from beeline.distillation.fit_solver import fit_solver
from beeline.distillation.pairs import reflow_pairs
from beeline.distillation.students import OneStep, Reflow
from beeline.evaluation.evaluate import evaluate
from beeline.evaluation.scores import Report, Score
from beeline.fields.flow import Data, Flow, MapNetwork, Network, Noise, Velocity
from beeline.objectives.matching import Drop
from beeline.runs.bundle import Bundle, load
from beeline.runs.run import Run, train
from beeline.sampling.auto import auto_sampler
from beeline.sampling.guidance.guide import CFG, Guide
from beeline.sampling.sampler import Sampler
from beeline.shelves import Namespace
from beeline.solvers.integrate import IntegrationError, integrate
from beeline.training.config import Training
from beeline.training.fit import fit

__version__ = "0.1.0"

paths = Namespace("paths", "latents", "spaces", "pyramids")
times = Namespace("times")
schedules = Namespace("schedules")
sources = Namespace("sources")
couplings = Namespace("couplings")
solvers = Namespace("solvers", "tableaus", "noises", "diffusions", "clocks")
guidance = Namespace("guidance", "references", "rules")
objectives = Namespace("objectives", "weights", "distances", "costs", "drops")
optimizers = Namespace("optimizers")
rates = Namespace("lr_schedules")
averages = Namespace("averages")
fits = Namespace("fits")
gradients = Namespace("gradients")
distillations = Namespace("distillations")
networks = Namespace("networks")
laws = Namespace("distributions")
metrics = Namespace("metrics", "features")


def __getattr__(name: str) -> Any:
    """TabularFlow needs scikit-learn, which takes a second to import: only when it is asked for."""
    if name == "TabularFlow":
        from beeline.estimators.tabular import TabularFlow

        return TabularFlow
    raise AttributeError(f"module 'beeline' has no attribute {name!r}")
