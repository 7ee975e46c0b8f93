"""Held-out losses, metrics and scores."""
