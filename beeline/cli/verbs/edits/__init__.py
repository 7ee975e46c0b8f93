"""The work of the command that edits."""
