"""All couplings under one name: ``bl.couplings``."""

from beeline.core.coupling import Coupling, Independent, MinibatchOT, Paired
from beeline.core.transport import ConditionalOT, Immiscible, Remembered, Sinkhorn, StableMatching, Unbalanced, assigned

__all__ = [
    "ConditionalOT",
    "Coupling",
    "Immiscible",
    "Independent",
    "MinibatchOT",
    "Paired",
    "Remembered",
    "Sinkhorn",
    "StableMatching",
    "Unbalanced",
    "assigned",
]
