"""Beeline: rectified flow and flow matching.

A flow is three things: a velocity field, the path it was learned on, and the source it starts from.
"""

from beeline import metrics as metrics
from beeline.core import coupling as couplings
from beeline.core import path as paths
from beeline.core import schedule as schedules
from beeline.core import solvers as solvers
from beeline.core import source as sources
from beeline.core import times as times
from beeline.core.field import Data, Flow, FlowMap, MapNetwork, Network, Noise, Velocity, VelocityField
from beeline.core.integrate import IntegrationError, integrate
from beeline.core.likelihood import Exact, Hutchinson, bits_per_dimension, log_prob
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, Cond, Dynamics, Loss, Point
from beeline.data import laws as laws
from beeline.evaluate import evaluate
from beeline.learn import objective as objectives
from beeline.scores import Report, Score
from beeline.use import guidance as guidance
from beeline.use.guidance import CFG, Guide
from beeline.use.sampler import Sampler

__version__ = "0.1.0"
