"""Distillations by score games."""
