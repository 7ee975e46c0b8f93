"""Energies: what is wanted of samples."""
