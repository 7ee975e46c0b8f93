"""Objectives that train parts of a network."""
