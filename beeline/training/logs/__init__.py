"""Logs and trackers."""
