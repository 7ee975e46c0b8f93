"""Paths: curves between source and data."""

from beeline.core.namespaces import members

__getattr__, __dir__ = members(__name__, "latents", "spaces", "pyramids", "paths")
