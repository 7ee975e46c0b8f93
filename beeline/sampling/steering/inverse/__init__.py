"""Controllers for linear inverse problems."""
