"""Commands of bundles that others use."""
