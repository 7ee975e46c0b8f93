"""Entries of the table of families."""
