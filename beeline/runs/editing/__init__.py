"""Edits of data in the user's form."""
