"""Solvers whose times and weights are fitted to flows."""
