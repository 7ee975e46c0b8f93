"""Training of editors on pairs that known operations make."""
