"""Transformers made of trained ones that compute the same: larger ones, with experts, and back."""
