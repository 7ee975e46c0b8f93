"""Likelihoods, and gradients through an integration."""
