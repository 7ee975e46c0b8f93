"""Training of controls."""
