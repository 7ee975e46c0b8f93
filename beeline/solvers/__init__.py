"""Solvers, the integration loop and processes."""

from beeline.core.namespaces import members

__getattr__, __dir__ = members(__name__, "tableaus", "noises", "diffusions", "clocks", "solvers")
