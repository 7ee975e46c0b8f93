"""Flows on other state spaces: manifolds, tokens, simplices, pyramids of resolutions."""
