"""Pretrained flow networks of other libraries."""
