"""Networks that take the guidance scale as an input, built from trained ones."""
