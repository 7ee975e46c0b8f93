"""Branches: modules beside parts of a frozen network, which no change of its weights can express."""
