"""Networks of flow maps."""
