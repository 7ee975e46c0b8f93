"""Smaller bundles, with the price of every step."""
