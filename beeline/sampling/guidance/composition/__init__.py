"""Guidance by several conditions and several fields."""
