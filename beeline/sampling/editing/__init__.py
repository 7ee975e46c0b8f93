"""Editing: inversions, edits, and what an edit keeps."""
