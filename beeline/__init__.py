"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from typing import Any

from beeline.bundle import Bundle, load
from beeline.core.field import Data, Flow, FlowMap, MapNetwork, Network, Noise, Velocity, VelocityField
from beeline.core.integrate import IntegrationError, integrate
from beeline.core.likelihood import Exact, Hutchinson, HutchPlusPlus, bits, bits_per_dimension, log_prob
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, Cond, Dynamics, Loss, Point
from beeline.evaluate import evaluate
from beeline.learn.distill import OneStep, Reflow
from beeline.learn.fit_solver import fit_solver
from beeline.learn.objective import Drop
from beeline.learn.pairs import reflow_pairs
from beeline.learn.trainer import Training, fit
from beeline.run import Run, train
from beeline.scores import Report, Score
from beeline.shelves import Shelf
from beeline.use.auto import auto_sampler
from beeline.use.guidance import CFG, Guide
from beeline.use.sampler import Sampler

__version__ = "0.1.0"

paths = Shelf("paths", "latents", "spaces", "pyramids")
times = Shelf("times")
schedules = Shelf("schedules")
sources = Shelf("sources")
couplings = Shelf("couplings")
solvers = Shelf("solvers", "tableaus", "noises", "diffusions", "clocks")
guidance = Shelf("guidance", "references", "rules")
objectives = Shelf("objectives", "weights", "distances", "costs", "drops")
optimisers = Shelf("optimisers")
rates = Shelf("rates")
averages = Shelf("averages")
fits = Shelf("fits")
gradients = Shelf("gradients")
distillations = Shelf("distillations")
networks = Shelf("networks")
laws = Shelf("laws")
metrics = Shelf("metrics", "features")


def __getattr__(name: str) -> Any:
    """TabularFlow needs scikit-learn, which takes a second to import: only when it is asked for."""
    if name == "TabularFlow":
        from beeline.tabular import TabularFlow

        return TabularFlow
    raise AttributeError(f"module 'beeline' has no attribute {name!r}")
