"""Energies in the units of a modality: columns, letters, pixels."""
