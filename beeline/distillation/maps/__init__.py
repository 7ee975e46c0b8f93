"""Distillations to flow maps."""
