"""Bundles and runs on disk."""
