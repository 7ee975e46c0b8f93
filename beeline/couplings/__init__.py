"""Sources, and couplings of source and data."""

from beeline.core.namespaces import members

__getattr__, __dir__ = members(__name__, "couplings")
