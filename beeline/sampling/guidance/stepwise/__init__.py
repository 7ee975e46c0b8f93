"""Guidance that depends on the steps of a run."""
