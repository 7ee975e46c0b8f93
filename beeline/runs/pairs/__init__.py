"""Stored pairs of a bundle: the job that makes them, and what reads them."""
