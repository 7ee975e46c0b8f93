"""Velocity fields, flow maps and flows."""
