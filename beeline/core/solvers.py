"""All solvers under one name: ``bl.solvers``."""

from beeline.core.adaptive import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, Adaptive, Embedded
from beeline.core.fitted import Fitted
from beeline.core.multistep import DEIS, AdamsBashforth, DPMSolver, Exponential, KeepNoise, UniPC
from beeline.core.picard import GaussSeidelJacobi, Picard
from beeline.core.reversible import FixedPoint, Reversible, Symmetric
from beeline.core.solver import (
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK3,
    RK4,
    Jump,
    MidpointReuse,
    RungeKutta,
    Solver,
    Taylor,
)
from beeline.core.stochastic import (
    Brownian,
    EulerMaruyama,
    Fading,
    Hump,
    Langevin,
    Overshoot,
    Rectified,
    Refresh,
    White,
    on_path,
)

__all__ = [
    "BOGACKI_SHAMPINE",
    "DEIS",
    "DORMAND_PRINCE",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "RALSTON",
    "RK3",
    "RK4",
    "TSITOURAS",
    "AdamsBashforth",
    "Adaptive",
    "Brownian",
    "DPMSolver",
    "Embedded",
    "EulerMaruyama",
    "Exponential",
    "Fading",
    "Fitted",
    "FixedPoint",
    "GaussSeidelJacobi",
    "Hump",
    "Jump",
    "KeepNoise",
    "Langevin",
    "MidpointReuse",
    "Overshoot",
    "Picard",
    "Rectified",
    "Refresh",
    "Reversible",
    "RungeKutta",
    "Solver",
    "Symmetric",
    "Taylor",
    "UniPC",
    "White",
    "on_path",
]
