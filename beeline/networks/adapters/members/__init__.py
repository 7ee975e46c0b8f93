"""Deltas of weights, by their form."""
