"""All sources under one name: ``bl.sources``."""

from beeline.core.discrete import MaskTokens, UniformTokens
from beeline.core.kernels import StudentT
from beeline.core.simplex import GumbelSimplex, Simplex
from beeline.core.source import Empirical, Gaussian, Source, Uniform
from beeline.core.space import Even

__all__ = [
    "Empirical",
    "Even",
    "Gaussian",
    "GumbelSimplex",
    "MaskTokens",
    "Simplex",
    "Source",
    "StudentT",
    "Uniform",
    "UniformTokens",
]
