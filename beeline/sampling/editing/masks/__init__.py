"""Regions that are found in data, and combined."""
