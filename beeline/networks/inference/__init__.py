"""Trained networks that are evaluated in another way."""
