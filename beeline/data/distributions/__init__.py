"""Exact distributions with known velocity fields."""
