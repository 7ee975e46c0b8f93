"""All paths under one name: ``bl.paths``."""

from beeline.core.discrete import TokenMixture
from beeline.core.interpolant import (
    Bridge,
    Brownian,
    ConstantAcceleration,
    EncodeDecode,
    Interpolant,
    Latent,
    Parabola,
    SineSquared,
    VarianceExploding,
)
from beeline.core.path import Affine, AffinePath, Cosine, Linear, Path, Polynomial, VariancePreserving
from beeline.core.pyramid import Pyramid
from beeline.core.simplex import Dirichlet, GumbelSoftmax, SimplexPath
from beeline.core.space import Geodesic, Rotations, Space, Sphere, Torus

__all__ = [
    "Affine",
    "AffinePath",
    "Bridge",
    "Brownian",
    "ConstantAcceleration",
    "Cosine",
    "Dirichlet",
    "EncodeDecode",
    "Geodesic",
    "GumbelSoftmax",
    "Interpolant",
    "Latent",
    "Linear",
    "Parabola",
    "Path",
    "Polynomial",
    "Pyramid",
    "Rotations",
    "SimplexPath",
    "SineSquared",
    "Space",
    "Sphere",
    "TokenMixture",
    "Torus",
    "VarianceExploding",
    "VariancePreserving",
]
