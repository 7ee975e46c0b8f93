"""Distances, weights over time, and encoders."""
