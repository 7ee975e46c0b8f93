"""Rounding of the inputs of layers."""
