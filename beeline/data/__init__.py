"""Modalities and data sets."""
