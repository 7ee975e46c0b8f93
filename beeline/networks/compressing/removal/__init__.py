"""Which parts of a network are taken away."""
