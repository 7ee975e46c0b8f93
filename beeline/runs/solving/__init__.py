"""Inverse problems of a bundle: what is missing in data is sampled given the rest."""
