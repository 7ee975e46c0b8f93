"""Recipes."""

from beeline.core.namespaces import members

__getattr__, __dir__ = members(__name__, "recipes")
