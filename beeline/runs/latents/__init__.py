"""Data sets of stored latents."""
