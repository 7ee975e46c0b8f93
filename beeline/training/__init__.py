"""The training engine; nothing in it is specific to flows."""
