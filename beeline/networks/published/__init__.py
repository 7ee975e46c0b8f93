"""Published flow transformers: presets, and conversion of their weights."""
