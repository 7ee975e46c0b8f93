"""Attention of transformers computed by other functions."""
