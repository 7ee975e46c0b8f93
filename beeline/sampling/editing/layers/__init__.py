"""Edits of pictures as an object before a background."""
