"""Edits by attention: of recorded trajectories, and of a source beside the target."""
