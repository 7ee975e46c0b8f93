"""Distillation, finetuning, and fitted solvers."""
