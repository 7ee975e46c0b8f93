"""Data sources of the engine."""
