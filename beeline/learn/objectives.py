"""All objectives, distances and weights under one name: ``bl.objectives``."""

from beeline.learn.deep import Deep, DeepSupervision
from beeline.learn.distance import Bregman, Cost, Direction, Perceptual, PowerCost
from beeline.learn.guided import Anticipating, Contrastive, GuidanceFree, ModelGuidance
from beeline.learn.objective import Distance, Drop, Example, FlowMatching, Huber, Objective, Weight, one, squared
from beeline.learn.regularise import Aligned, Dispersed, SelfPerceptual, SelfRectified, Separable, SmoothSteps
from beeline.learn.segments import Annealed, AnnealedPairs, Windowed
from beeline.learn.shapes import Accelerating, ConstantAccelerationMatching, EncodedSource, Helped, Potential
from beeline.learn.targets import Classify, Hierarchical, LatentNoise, PyramidMatching, RandomVelocity, VelocityOT
from beeline.learn.weight import ByDensity, MinSNR, Power, SigmoidSNR

__all__ = [
    "Accelerating",
    "Aligned",
    "Annealed",
    "AnnealedPairs",
    "Anticipating",
    "Bregman",
    "ByDensity",
    "Classify",
    "ConstantAccelerationMatching",
    "Contrastive",
    "Cost",
    "Deep",
    "DeepSupervision",
    "Direction",
    "Dispersed",
    "Distance",
    "Drop",
    "EncodedSource",
    "Example",
    "FlowMatching",
    "GuidanceFree",
    "Helped",
    "Hierarchical",
    "Huber",
    "LatentNoise",
    "MinSNR",
    "ModelGuidance",
    "Objective",
    "Perceptual",
    "Potential",
    "Power",
    "PowerCost",
    "PyramidMatching",
    "RandomVelocity",
    "SelfPerceptual",
    "SelfRectified",
    "Separable",
    "SigmoidSNR",
    "SmoothSteps",
    "VelocityOT",
    "Weight",
    "Windowed",
    "one",
    "squared",
]
