"""Optimizers, learning rates and averages."""
