"""Features of trained bundles and of vision models, and their names."""
