"""Runs that are led to a given end: controllers, controlled inversion, and the edits made of both."""
