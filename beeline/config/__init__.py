"""The catalogue of components, and their description in files."""
