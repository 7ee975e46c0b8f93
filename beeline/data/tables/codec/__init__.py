"""Columns as coordinates."""
