"""The training engine, which knows no flow."""
