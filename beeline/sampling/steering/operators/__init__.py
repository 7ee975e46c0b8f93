"""Operators: what is measured of data."""
