"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from beeline import metrics as metrics
from beeline.bundle import Bundle, load
from beeline.core import alltimes as times
from beeline.core import couplings as couplings
from beeline.core import paths as paths
from beeline.core import schedule as schedules
from beeline.core import solvers as solvers
from beeline.core import sources as sources
from beeline.core.field import Data, Flow, FlowMap, MapNetwork, Network, Noise, Velocity, VelocityField
from beeline.core.integrate import IntegrationError, integrate
from beeline.core.likelihood import Exact, Hutchinson, bits_per_dimension, log_prob
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, Cond, Dynamics, Loss, Point
from beeline.data import laws as laws
from beeline.evaluate import evaluate
from beeline.learn import objectives as objectives
from beeline.learn.distill import OneStep, Reflow
from beeline.learn.objective import Drop
from beeline.learn.pairs import reflow_pairs
from beeline.learn.trainer import Training, fit
from beeline.run import Run, train
from beeline.scores import Report, Score
from beeline.use import guidance as guidance
from beeline.use.guidance import CFG, Guide
from beeline.use.sampler import Sampler

__version__ = "0.1.0"
