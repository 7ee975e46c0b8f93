"""Adapters of other tools and of bundles: files, reports, merges."""
